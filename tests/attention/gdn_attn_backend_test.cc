// GDNAttnBackend and HybridAttnBackend.
#include "hybridattn/gdn_attn_backend.h"

#include <algorithm>
#include <cmath>

#include "hybridattn/gdn_state_pool.h"
#include "hybridattn/graph.h"
#include "hybridattn/hybrid_attn_backend.h"
#include "tests/attention/paged_fixture.h"

namespace hybridattn::testing {
namespace {

/// A GDN layer over a pool of six slots, with its oracle.
class GdnAttnBackendTest : public PagedFixture {
 protected:
  static constexpr std::int64_t kSlots = 6, kGdnHk = 2, kGdnHv = 4, kK = 16, kV = 32, kWidth = 4;
  static constexpr std::int64_t kChannels = 2 * kGdnHk * kK + kGdnHv * kV;

  void SetUp() override {
    PagedFixture::SetUp();
    weight = random_operand({kChannels, kWidth});
    a_log = random_operand({kGdnHv}, -3, 1);
    bias = random_operand({kGdnHv}, -2, 2);
    norm = random_operand({kV}, 0.5, 1.5);
    recurrent = random_operand({kSlots, kGdnHv, kV, kK}, -0.5, 0.5);
    conv = random_operand({kSlots, kChannels, kWidth - 1});
    gdn_layer.layer_id = 2;
    gdn_layer.num_k_heads = kGdnHk;
    gdn_layer.num_v_heads = kGdnHv;
    gdn_layer.head_k_dim = kK;
    gdn_layer.head_v_dim = kV;
    gdn_layer.conv_weight = weight.kernel().view();
    gdn_layer.a_log = a_log.kernel().view();
    gdn_layer.dt_bias = bias.kernel().view();
    gdn = std::move(*GDNAttnBackend::create(*context, states()));
  }
  GdnStateView states() { return {{recurrent.kernel().view()}, {conv.kernel().view()}}; }

  struct GdnStep {
    Rows rows;
    std::int64_t tokens = 0;
    Operand mixed, a, b, z, out;
  };
  GdnStep make_gdn_step(const ForwardBatch& batch) {
    GdnStep step;
    step.tokens = batch.num_tokens();
    step.mixed = random_operand({step.tokens, kChannels});
    step.a = random_operand({step.tokens, kGdnHv}, -3, 3);
    step.b = random_operand({step.tokens, kGdnHv}, -3, 3);
    step.z = random_operand({step.tokens, kGdnHv, kV}, -3, 3);
    step.out = Operand(DType::kF32, {step.tokens, kGdnHv, kV}, Layout::kSliced);
    for (std::int32_t r = 0; r < batch.num_rows(); ++r) {
      const BatchRow& row = batch.rows()[static_cast<std::size_t>(r)];
      step.rows.add(batch.token_start(r), row.new_tokens, row.slot,
                    static_cast<std::int32_t>(row.computed));
    }
    for (Operand* x : {&step.mixed, &step.a, &step.b, &step.z}) x->poison(step.rows.tokens(true));
    return step;
  }
  GdnRunArgs gdn_args(GdnStep& step, bool normed) {
    GdnRunArgs args;
    args.mixed_qkv = step.mixed.kernel().view();
    args.a = step.a.kernel().view();
    args.b = step.b.kernel().view();
    args.out = step.out.kernel().view();
    if (normed) {
      args.z = step.z.kernel().view();
      args.norm_weight = norm.kernel().view();
    }
    return args;
  }
  void run_gdn_oracle(GdnStep& step, bool normed) {
    const Source s = Source::kRounded;
    Buffer mixed(DType::kF64, {step.tokens, kChannels});
    Buffer decay(DType::kF64, {step.tokens, kGdnHv});
    Buffer beta(DType::kF64, {step.tokens, kGdnHv});
    reference::causal_conv({step.rows.view(), step.mixed(s), weight(s), conv(s), mixed.view()});
    reference::gdn_gates({step.a(s), step.b(s), a_log(s), bias(s), decay.view(), beta.view()});
    const TensorView all = mixed.view();
    const std::int64_t keys = kGdnHk * kK;
    GdnArgs args;
    args.rows = step.rows.view();
    args.q = all.at(0, {step.tokens, kGdnHk, kK}, {kChannels, kK, 1});
    args.k = all.at(keys, {step.tokens, kGdnHk, kK}, {kChannels, kK, 1});
    args.v = all.at(2 * keys, {step.tokens, kGdnHv, kV}, {kChannels, kV, 1});
    args.log_decay = decay.view();
    args.beta = beta.view();
    args.state = recurrent(s);
    args.out = step.out(s);
    args.scale = 0.25f;  // 16^-1/2
    reference::gdn_recurrence(args);
    if (normed) reference::gated_rms_norm({step.out(s), step.z(s), norm(s), step.out(s)});
  }
  void expect_as_gdn_oracle(GdnStep& step) {
    const Bound bound{2e-6, 2e-5};
    for (Operand* state : {&recurrent, &conv}) {
      EXPECT_TRUE(near(state->kernel().values(), state->of(Source::kRounded).values(), bound));
    }
    const auto real = step.rows.tokens();
    EXPECT_TRUE(
        near(step.out.kernel().gather(real), step.out.of(Source::kRounded).gather(real), bound));
    for (const double zero : step.out.kernel().gather(step.rows.tokens(true))) EXPECT_EQ(zero, 0.0);
    EXPECT_TRUE(step.out.kernel().gaps_intact());
  }
  static BatchRow gdn_row(RowKind kind, std::int32_t slot, std::int64_t computed,
                          std::int32_t tokens) {
    return {kind, slot, {}, computed, tokens};
  }
  static std::vector<BatchRow> mixed_rows() {
    return {gdn_row(RowKind::kPrefill, 4, 7, 70), gdn_row(RowKind::kDecode, 1, 9, 1),
            gdn_row(RowKind::kPad, -1, 0, 1),     gdn_row(RowKind::kPrefill, 0, 3, 0),
            gdn_row(RowKind::kPad, -1, 0, 3),     gdn_row(RowKind::kDecode, 5, 0, 1),
            gdn_row(RowKind::kPrefill, 3, 0, 2)};
  }

  Operand weight, a_log, bias, norm, recurrent, conv;
  RadixLinearAttention gdn_layer;
  std::unique_ptr<GDNAttnBackend> gdn;
};

TEST_F(GdnAttnBackendTest, RowsOfEveryKindInAnyOrder) {
  std::vector<BatchRow> rows = mixed_rows();
  for (int order = 0; order < 4; ++order) {
    std::rotate(rows.begin(), rows.begin() + 2, rows.end());
    for (const bool normed : {false, true}) {
      const auto batch = *ForwardBatch::create(rows);
      GdnStep step = make_gdn_step(batch);
      const auto plan = std::move(*gdn->plan(batch));
      poison_workspace(*context);
      ASSERT_OK(gdn->run_gdn(*plan, gdn_layer, gdn_args(step, normed)));
      run_gdn_oracle(step, normed);
      expect_as_gdn_oracle(step);
    }
  }
}

TEST_F(GdnAttnBackendTest, IdleBatchesGiveZerosAndTouchNoState) {
  const auto batch = *ForwardBatch::create({gdn_row(RowKind::kPad, -1, 0, 3)});
  GdnStep step = make_gdn_step(batch);
  const Canary states_before(recurrent.kernel());
  ASSERT_OK(gdn->init_forward_metadata(batch));
  for (const bool normed : {false, true}) {
    step.out.kernel().poison({});
    ASSERT_OK(gdn->forward_gdn(gdn_layer, batch, gdn_args(step, normed)));
    for (const double zero : step.out.kernel().values()) EXPECT_EQ(zero, 0.0);
  }
  EXPECT_TRUE(states_before.intact());
  const auto nothing = *ForwardBatch::create({});
  ASSERT_OK(gdn->init_forward_metadata(nothing));
  EXPECT_OK(gdn->forward_gdn(gdn_layer, nothing, {}));
}

TEST_F(GdnAttnBackendTest, PlansOutliveTheirBatchAndRunInAnyOrder) {
  std::shared_ptr<Plan> first, second;
  GdnStep one, two;
  {
    const auto a_batch = *ForwardBatch::create({gdn_row(RowKind::kPrefill, 2, 5, 9)});
    const auto b_batch = *ForwardBatch::create({gdn_row(RowKind::kDecode, 2, 5, 1)});
    one = make_gdn_step(a_batch);
    two = make_gdn_step(b_batch);
    first = std::move(*gdn->plan(a_batch));
    second = std::move(*gdn->plan(b_batch));
  }
  ASSERT_OK(gdn->run_gdn(*second, gdn_layer, gdn_args(two, true)));
  run_gdn_oracle(two, true);
  expect_as_gdn_oracle(two);
  ASSERT_OK(gdn->run_gdn(*first, gdn_layer, gdn_args(one, true)));
  run_gdn_oracle(one, true);
  expect_as_gdn_oracle(one);
}

TEST_F(GdnAttnBackendTest, BadRowsAreRefusedAtPlanTime) {
  const auto plan_of = [&](const BatchRow& row) {
    return gdn->plan(*ForwardBatch::create({gdn_row(RowKind::kPad, -1, 0, 1), row})).status();
  };
  EXPECT_ERROR(plan_of(gdn_row(RowKind::kPrefill, 6, 0, 1)), kOutOfRange, "row 1", "slot 6", "6)");
  EXPECT_ERROR(plan_of(gdn_row(RowKind::kDecode, -1, 0, 1)), kOutOfRange, "row 1", "slot -1");
  EXPECT_ERROR(plan_of(gdn_row(RowKind::kVerify, 1, 0, 3)), kResourceExhausted, "3 tokens",
               "0 slots");
}

TEST_F(GdnAttnBackendTest, BadArgumentsAreNamed) {
  const auto batch = *ForwardBatch::create(mixed_rows());
  GdnStep step = make_gdn_step(batch);
  const auto plan = std::move(*gdn->plan(batch));
  const auto run = [&](auto change) {
    GdnRunArgs args = gdn_args(step, true);
    change(args);
    return gdn->run_gdn(*plan, gdn_layer, args);
  };
  const Canary before(recurrent.kernel());
  EXPECT_ERROR(run([&](auto& a) { a.mixed_qkv = step.a.kernel().view(); }), kInvalidArgument,
               "layer 2", "mixed_qkv", "192");
  EXPECT_ERROR(run([](auto& a) { a.norm_weight = {}; }), kInvalidArgument, "z and norm_weight");
  // Wrong tensors of the later ops are found before the convolution's state advances.
  const Canary windows(conv.kernel());
  EXPECT_ERROR(run([&](auto& a) { a.a = step.mixed.kernel().view(); }), kInvalidArgument, "HV");
  EXPECT_ERROR(run([&](auto& a) { a.b = step.mixed.kernel().view(); }), kInvalidArgument, "b has");
  EXPECT_ERROR(run([&](auto& a) { a.out = step.a.kernel().view(); }), kInvalidArgument, "out");
  EXPECT_ERROR(run([&](auto& a) { a.z = step.a.kernel().view(); }), kInvalidArgument, "z has");
  EXPECT_ERROR(run([&](auto& a) { a.norm_weight = a_log.kernel().view(); }), kInvalidArgument,
               "norm_weight has V = 4");
  EXPECT_TRUE(windows.intact());
  gdn_layer.gdn_index = 1;
  EXPECT_ERROR(run([](auto&) {}), kOutOfRange, "gdn_index 1", "[0, 1)");
  gdn_layer.gdn_index = 0;
  EXPECT_ERROR(gdn->run_attention(*plan, layer, {}), kUnsupported, "GDNAttnBackend");
  const auto paged_plan = std::move(*backend->plan(*ForwardBatch::create({})));
  EXPECT_ERROR(gdn->run_gdn(*paged_plan, gdn_layer, {}), kFailedPrecondition, "another backend");
  EXPECT_ERROR(backend->run_attention(*plan, layer, {}), kFailedPrecondition, "another backend");
  EXPECT_TRUE(before.intact());
  EXPECT_ERROR(GDNAttnBackend::create(*context, {}).status(), kInvalidArgument, "0 layers");
  const TensorView fewer = recurrent.kernel().view().at(0, {5, 4, 32, 16}, {2048, 512, 16, 1});
  EXPECT_ERROR(GDNAttnBackend::create(*context, {{fewer}, {conv.kernel().view()}}).status(),
               kInvalidArgument, "layer 0", "5 recurrent", "6 conv");
}

TEST_F(GdnAttnBackendTest, NoRunAllocatesAfterItsPlan) {
  ContextOptions options;
  options.allocator = &memory;
  context = *Context::create(options);
  gdn = std::move(*GDNAttnBackend::create(*context, states()));
  const auto batch = *ForwardBatch::create(mixed_rows());
  GdnStep step = make_gdn_step(batch);
  const auto plan = std::move(*gdn->plan(batch));
  const int calls = memory.calls;
  ASSERT_OK(gdn->run_gdn(*plan, gdn_layer, gdn_args(step, true)));
  EXPECT_EQ(memory.calls, calls);
  EXPECT_ERROR(gdn->reserve(-1), kInvalidArgument, "-1");
}

/// However many layers there are, accepted drafts are moved at once: both states of all of them.
TEST_F(GdnAttnBackendTest, ACommitIsOneCall) {
  const GdnStateShape shape{3, kGdnHv, kV, kK, kChannels, kWidth, DType::kF32, DType::kF32};
  const auto pool = *GdnStatePool::create(*context, shape, kSlots);
  const auto kept = *GdnStatePool::create(*context, shape, 9);
  gdn = std::move(*GDNAttnBackend::create(*context, pool->view(), kept->view()));
  const auto batch = *ForwardBatch::create(
      {gdn_row(RowKind::kVerify, 4, 0, 3), gdn_row(RowKind::kVerify, 1, 0, 5)});
  GdnStep step = make_gdn_step(batch);
  const auto plan = std::move(*gdn->plan(batch));
  for (gdn_layer.gdn_index = 0; gdn_layer.gdn_index < 3; ++gdn_layer.gdn_index) {
    ASSERT_OK(gdn->run_gdn(*plan, gdn_layer, gdn_args(step, true)));
  }
  const std::vector<std::int32_t> last_accepted{1, 4};
  const auto graph = Graph::record(*context, [&] { return gdn->commit(*plan, last_accepted); });
  ASSERT_OK(graph.status());
  EXPECT_EQ((*graph)->num_calls(), 1u);
}

TEST_F(GdnAttnBackendTest, HybridServesEachLayerByItsKind) {
  auto hybrid = std::move(*HybridAttnBackend::create(make_backend(), std::move(gdn), {3, 7}));
  BatchRow prefill = row(RowKind::kPrefill, 3, 6);
  prefill.slot = 2;
  BatchRow decode = row(RowKind::kDecode, 8, 1);
  decode.slot = 0;
  Step step = make_step({prefill, row(RowKind::kPad, 0, 1), decode});
  GdnStep gdn_step = make_gdn_step(step.batch);
  ASSERT_OK(hybrid->init_forward_metadata(step.batch));
  ASSERT_OK(hybrid->forward(layer, step.batch, run_args(step)));
  ASSERT_OK(hybrid->forward_gdn(gdn_layer, step.batch, gdn_args(gdn_step, true)));
  run_oracle(step);
  expect_as_oracle(step);
  run_gdn_oracle(gdn_step, true);
  expect_as_gdn_oracle(gdn_step);
  const auto plan = std::move(*hybrid->plan(step.batch));
  EXPECT_EQ(plan->batch_id(), step.batch.id());
  EXPECT_EQ(plan->num_tokens(), 8);
  EXPECT_EQ(plan->mode(), ForwardMode::kMixed);
  layer.layer_id = 2;
  EXPECT_ERROR(hybrid->run_attention(*plan, layer, run_args(step)), kInvalidArgument, "layer 2");
  gdn_layer.layer_id = 7;
  EXPECT_ERROR(hybrid->run_gdn(*plan, gdn_layer, gdn_args(gdn_step, true)), kInvalidArgument,
               "layer 7");
  const auto inner = std::move(*hybrid->full_attn_backend().plan(step.batch));
  EXPECT_ERROR(hybrid->run_gdn(*inner, gdn_layer, {}), kFailedPrecondition, "another backend");
  EXPECT_ERROR(hybrid->run_attention(*inner, layer, {}), kFailedPrecondition, "another backend");
  EXPECT_OK(hybrid->reserve(100));
}

TEST_F(GdnAttnBackendTest, HybridRefusesWhatEitherRefuses) {
  EXPECT_ERROR(HybridAttnBackend::create(nullptr, make_backend(), {}).status(), kInvalidArgument,
               "full_attn_backend is null");
  EXPECT_ERROR(HybridAttnBackend::create(make_backend(), nullptr, {}).status(), kInvalidArgument,
               "gdn_backend is null");
  EXPECT_ERROR(HybridAttnBackend::create(make_backend(), make_backend(), {-2, 1}).status(),
               kInvalidArgument, "-2");
  auto hybrid = std::move(*HybridAttnBackend::create(make_backend(), std::move(gdn), {3}));
  BatchRow bad = row(RowKind::kPrefill, 0, 3);
  bad.slot = 77;
  EXPECT_ERROR(hybrid->plan(*ForwardBatch::create({bad})).status(), kOutOfRange, "slot 77");
  bad.slot = 1;
  bad.pages = {};
  EXPECT_ERROR(hybrid->plan(*ForwardBatch::create({bad})).status(), kOutOfRange, "0 pages");
}

}  // namespace
}  // namespace hybridattn::testing
