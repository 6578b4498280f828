// PagedAttnBackend: rows of every kind in any order against the oracle, and what it refuses.
#include <algorithm>

#include "hybridattn/ops.h"
#include "tests/attention/paged_fixture.h"

namespace hybridattn::testing {
namespace {

class PagedAttnBackendTest : public PagedFixture {};

TEST_F(PagedAttnBackendTest, RowsOfEveryKindInAnyOrder) {
  std::vector<BatchRow> rows{row(RowKind::kPrefill, 0, 9), row(RowKind::kDecode, 11, 1),
                             row(RowKind::kPad, 0, 2),     row(RowKind::kPrefill, 6, 5),
                             row(RowKind::kPrefill, 3, 0), row(RowKind::kDecode, 0, 1)};
  for (int order = 0; order < 6; ++order) {
    std::rotate(rows.begin(), rows.begin() + 1, rows.end());
    if (order == 3) std::reverse(rows.begin(), rows.end());
    Step step = make_step(rows);
    const auto plan = backend->plan(step.batch);
    ASSERT_TRUE(plan.ok()) << plan.status().message();
    poison_workspace(*context);
    ASSERT_OK(backend->run_attention(**plan, layer, run_args(step)));
    run_oracle(step);
    expect_as_oracle(step);
  }
}

TEST_F(PagedAttnBackendTest, WindowCapAndSinks) {
  Buffer sinks(DType::kF32, {kHq});
  sinks.fill(random.values(kHq, -1, 2));
  layer.sinks = sinks.view();
  layer.logit_cap = 3.0f;
  layer.sliding_window = 5;
  Step step = make_step({row(RowKind::kPrefill, 6, 9), row(RowKind::kDecode, 13, 1)});
  const auto plan = backend->plan(step.batch);
  ASSERT_OK(backend->run_attention(**plan, layer, run_args(step)));
  run_oracle(step);
  expect_as_oracle(step);
}

TEST_F(PagedAttnBackendTest, IdleBatchesGiveZerosOrNothing) {
  Step pads = make_step({row(RowKind::kPad, 0, 3), row(RowKind::kPad, 0, 1)});
  ASSERT_OK(backend->init_forward_metadata(pads.batch));
  EXPECT_EQ(pads.batch.mode(), ForwardMode::kIdle);
  const Canary keys(k_cache.kernel());
  ASSERT_OK(backend->forward(layer, pads.batch, run_args(pads)));
  for (const double zero : pads.out.kernel().values()) EXPECT_EQ(zero, 0.0);
  EXPECT_TRUE(keys.intact());
  const auto nothing = ForwardBatch::create({});
  ASSERT_OK(backend->init_forward_metadata(*nothing));
  EXPECT_OK(backend->forward(layer, *nothing, {}));
  EXPECT_OK(backend->forward_decode(layer, *nothing, {}));
}

TEST_F(PagedAttnBackendTest, FusedIsAsUnfused) {
  Buffer q_norm(DType::kF32, {kDim});
  Buffer k_norm(DType::kF32, {kDim});
  q_norm.fill(random.values(kDim, -0.5, 0.5));
  k_norm.fill(random.values(kDim, -0.5, 0.5));
  const Source s = Source::kRounded;
  for (int parts = 0; parts < 16; ++parts) {
    Step step = make_step(
        {row(RowKind::kPrefill, 5, 6), row(RowKind::kPad, 0, 1), row(RowKind::kDecode, 9, 1)});
    AttentionRunArgs args = run_args(step);
    args.norm_epsilon = 1e-5f;
    if ((parts & 1) != 0) {
      args.q_norm = q_norm.view();
      reference::rms_norm({step.q(s), q_norm.view(), step.q(s), 1e-5f, true});
    }
    if ((parts & 2) != 0) {
      args.k_norm = k_norm.view();
      reference::rms_norm({step.k(s), k_norm.view(), step.k(s), 1e-5f, true});
    }
    if ((parts & 4) != 0) {
      args.cos = step.cosine.kernel().view();
      args.sin = step.sine.kernel().view();
      Buffer q(DType::kF64, {step.batch.num_tokens(), kHq, kDim});
      Buffer k(DType::kF64, {step.batch.num_tokens(), kHk, kDim});
      reference::rotary({step.q(s), step.cosine(s), step.sine(s), q.view()});
      reference::rotary({step.k(s), step.cosine(s), step.sine(s), k.view()});
      step.q.of(s) = q;
      step.k.of(s) = k;
    }
    const auto plan = backend->plan(step.batch);
    run_oracle(step);
    if ((parts & 8) != 0) {
      args.gate = step.gate.kernel().view();
      reference::sigmoid_gate({step.out(s), step.gate(s), step.out(s)});
    }
    poison_workspace(*context);
    ASSERT_OK(backend->run_attention(**plan, layer, args));
    expect_as_oracle(step);
  }
}

TEST_F(PagedAttnBackendTest, WithoutKeysTheCacheIsReadAsItIs) {
  Step step = make_step({row(RowKind::kPrefill, 6, 3), row(RowKind::kDecode, 9, 1)});
  const auto plan = backend->plan(step.batch);
  ASSERT_OK(backend->run_attention(**plan, layer, run_args(step)));
  const auto first = step.out.kernel().memory();
  const Canary keys(k_cache.kernel());
  AttentionRunArgs shared = run_args(step);
  shared.k = {};
  shared.v = {};
  ASSERT_OK(backend->run_attention(**plan, layer, shared));
  EXPECT_EQ(step.out.kernel().memory(), first);
  AttentionRunArgs stored = run_args(step);
  stored.save_kv_cache = false;
  step.k.kernel().poison({});
  ASSERT_OK(backend->run_attention(**plan, layer, stored));
  EXPECT_EQ(step.out.kernel().memory(), first);
  EXPECT_TRUE(keys.intact());
}

TEST_F(PagedAttnBackendTest, APlanOutlivesItsBatchAndItsSiblings) {
  Step one = make_step({row(RowKind::kPrefill, 2, 5)});
  std::shared_ptr<Plan> first;
  {
    const auto copy = ForwardBatch::create(one.batch.rows());
    first = std::move(*backend->plan(*copy));
  }
  Step two = make_step({row(RowKind::kDecode, 8, 1), row(RowKind::kPrefill, 0, 4)});
  std::shared_ptr<Plan> second = std::move(*backend->plan(two.batch));
  ASSERT_OK(backend->run_attention(*second, layer, run_args(two)));
  run_oracle(two);
  expect_as_oracle(two);
  second.reset();
  ASSERT_OK(backend->run_attention(*first, layer, run_args(one)));
  run_oracle(one);
  expect_as_oracle(one);
}

TEST_F(PagedAttnBackendTest, BadPagesAreRefusedAtPlanTime) {
  const auto plan_of = [&](std::vector<BatchRow> rows) {
    return backend->plan(*ForwardBatch::create(std::move(rows))).status();
  };
  BatchRow good = row(RowKind::kPrefill, 3, 6);
  BatchRow bad = good;
  bad.pages[1] = kPages;
  EXPECT_ERROR(plan_of({row(RowKind::kPad, 0, 1), bad}), kOutOfRange, "row 1", "page id 40", "40)");
  bad.pages[1] = kPadIndex;
  EXPECT_ERROR(plan_of({bad}), kOutOfRange, "row 0", "page id -1");
  bad = good;
  bad.pages.pop_back();
  EXPECT_ERROR(plan_of({bad}), kOutOfRange, "row 0", "2 pages", "must have 3", "9 tokens");
  BatchRow twice = row(RowKind::kDecode, 8, 1);
  twice.pages = {good.pages[0], 30, good.pages[2]};
  EXPECT_ERROR(plan_of({good, twice}), kInvalidArgument, "row 0", "row 1", "alone");
  // Row 0 writes into its page 0 in this step: row 1 may not even read it, in either order.
  twice.pages = {good.pages[0], 30, 31};
  EXPECT_ERROR(plan_of({good, twice}), kInvalidArgument, "written by row 0", "read by row 1");
  EXPECT_ERROR(plan_of({twice, good}), kInvalidArgument, "read by row 0", "written by row 1");
  // Pages that both rows only read are a shared prefix.
  BatchRow sharer = row(RowKind::kDecode, 8, 1);
  sharer.pages = {30, 31, 32};
  BatchRow other = sharer;
  other.slot = sharer.slot + 1;
  other.pages[2] = 33;
  EXPECT_OK(plan_of({sharer, other}));
  bad = good;
  bad.pages[2] = bad.pages[1];
  EXPECT_ERROR(plan_of({bad}), kInvalidArgument, "alone");
}

TEST_F(PagedAttnBackendTest, BadArgumentsAreNamed) {
  Step step = make_step({row(RowKind::kPrefill, 0, 5)});
  const auto plan = std::move(*backend->plan(step.batch));
  const auto run = [&](auto change) {
    AttentionRunArgs args = run_args(step);
    change(args);
    return backend->run_attention(*plan, layer, args);
  };
  const Canary keys(k_cache.kernel());
  Operand longer = random_operand({6, kHq, kDim});
  EXPECT_ERROR(run([&](auto& a) { a.q = longer.kernel().view(); }), kInvalidArgument, "layer 3",
               "q has shape [6, 6, 24]", "must be [5, 6, 24]");
  EXPECT_ERROR(run([&](auto& a) { a.v = {}; }), kInvalidArgument, "k is given", "v is missing");
  EXPECT_ERROR(run([&](auto& a) { a.cos = step.cosine.kernel().view(); }), kInvalidArgument,
               "cos and sin");
  EXPECT_ERROR(run([&](auto& a) { a.gate = step.q.kernel().view(); }), kInvalidArgument, "gate");
  layer.kv_index = 1;
  EXPECT_ERROR(run([](auto&) {}), kOutOfRange, "kv_index 1", "[0, 1)");
  layer.kv_index = -1;
  EXPECT_ERROR(run([](auto&) {}), kOutOfRange, "kv_index -1");
  layer.kv_index = 0;
  layer.scaling = 0;
  EXPECT_TRUE(keys.intact());
  EXPECT_ERROR(run([](auto&) {}), kInvalidArgument, "scale is 0");
  EXPECT_ERROR(backend->run_gdn(*plan, {}, {}), kUnsupported, "PagedAttnBackend", "HybridAttn");
}

TEST_F(PagedAttnBackendTest, CachesThatDoNotAgreeAreRefused) {
  Buffer other(DType::kF32, {kPages, kPageSize + 1, kHk, kDim});
  const TensorView k = k_cache.kernel().view();
  const TensorView v = v_cache.kernel().view();
  EXPECT_ERROR(PagedAttnBackend::create(*context, {}).status(), kInvalidArgument, "0 layers");
  EXPECT_ERROR(PagedAttnBackend::create(*context, {{k, k}, {v}}).status(), kInvalidArgument,
               "2 layers");
  EXPECT_ERROR(PagedAttnBackend::create(*context, {{k, other.view()}, {v, v}}).status(),
               kInvalidArgument, "layer 1", "page_size 5", "4");
}

TEST_F(PagedAttnBackendTest, TheUpstreamVerbsServeThePlannedBatchOnly) {
  Step step = make_step({row(RowKind::kDecode, 5, 1)});
  Step other = make_step({row(RowKind::kPrefill, 5, 2)});
  EXPECT_ERROR(backend->forward(layer, step.batch, run_args(step)), kFailedPrecondition,
               "no batch is planned");
  ASSERT_OK(backend->init_forward_metadata(step.batch));
  ASSERT_OK(backend->forward(layer, step.batch, run_args(step)));
  run_oracle(step);
  expect_as_oracle(step);
  EXPECT_ERROR(backend->forward_extend(layer, other.batch, run_args(other)), kFailedPrecondition,
               "is planned");
  ASSERT_OK(backend->init_forward_metadata(other.batch));
  EXPECT_ERROR(backend->forward_decode(layer, other.batch, run_args(other)), kFailedPrecondition,
               "extend", "must be decode");
  EXPECT_ERROR(backend->forward_decode(layer, step.batch, run_args(step)), kFailedPrecondition,
               "is planned");
  ASSERT_OK(backend->forward(layer, other.batch, run_args(other)));
  run_oracle(other);
  expect_as_oracle(other);
  BatchRow bad = row(RowKind::kPrefill, 0, 1);
  bad.pages = {kPages};
  EXPECT_FALSE(backend->init_forward_metadata(*ForwardBatch::create({bad})).ok());
  EXPECT_OK(backend->forward(layer, other.batch, run_args(other)));  // the old plan stays
}

TEST_F(PagedAttnBackendTest, NoRunAllocatesAfterItsPlan) {
  ContextOptions options;
  options.allocator = &memory;
  context = *Context::create(options);
  backend = make_backend();
  ASSERT_OK(backend->set_layers({&layer, 1}));
  Step step = make_step({row(RowKind::kPrefill, 0, 30), row(RowKind::kDecode, 5, 1)});
  Buffer norm(DType::kF32, {kDim});
  norm.fill(random.values(kDim, -0.5, 0.5));
  AttentionRunArgs args = run_args(step);
  args.q_norm = norm.view();
  args.k_norm = norm.view();
  args.cos = step.cosine.kernel().view();
  args.sin = step.sine.kernel().view();
  args.gate = step.gate.kernel().view();
  EXPECT_ERROR(backend->reserve(-1), kInvalidArgument, "-1");
  const auto plan = std::move(*backend->plan(step.batch));
  const int calls = memory.calls;
  ASSERT_OK(backend->run_attention(*plan, layer, args));
  EXPECT_EQ(memory.calls, calls);
  memory.fail = true;
  Step longer = make_step({row(RowKind::kPrefill, 0, 60)});
  EXPECT_ERROR(backend->plan(longer.batch).status(), kResourceExhausted, "workspace");
  EXPECT_OK(backend->run_attention(*plan, layer, args));  // plans made before still run
}

TEST_F(PagedAttnBackendTest, PrefillOffTheGridIsRefusedWhereChunksMustNotShow) {
  ContextOptions options;
  options.chunk_invariant = true;
  context = *Context::create(options);
  backend = make_backend();
  Step step = make_step({row(RowKind::kDecode, 5, 1), row(RowKind::kPrefill, 63, 2)});
  EXPECT_ERROR(backend->plan(step.batch).status(), kInvalidArgument, "PagedAttnBackend: row 1",
               "starts at 63", "multiple of 64");
  Step on_grid = make_step({row(RowKind::kDecode, 5, 1), row(RowKind::kPrefill, 64, 2)});
  EXPECT_OK(backend->plan(on_grid.batch).status());
}

}  // namespace
}  // namespace hybridattn::testing
