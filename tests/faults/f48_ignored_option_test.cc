// F48: an option of a layer holds on every path or is refused when the layer is declared or the
// step planned: whole and cut prompts, decode, drafts, trees, mixed steps, eager and replayed.
#include <functional>

#include "tests/support/hybrid_world.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode;
constexpr RowKind kVerify = RowKind::kVerify;
constexpr std::uint64_t kRequest = 5, kOther = 9, kWrong = 77;
constexpr std::int64_t kLength = 14;

/// The row's tokens in the stream: which request's at which position.
struct Fed {
  std::uint64_t request;
  std::int64_t position;
};
using Outputs = std::map<std::int64_t, std::vector<double>>;  // of the request, by position

/// One request on one path through the kinds of rows.
class Path {
 public:
  Path(WorldOptions options, bool graph) : world_(with_kept(options)), graph_(graph) {
    if (!graph) return;
    const bool drafts = options.attn_type == AttentionType::kDecoder;
    plan_ = *world_.backend->plan_graph({2, 2, drafts ? 1 : 0, 20, 16});
    auto recorded = Graph::record(*world_.context, [&] { return world_.run(*plan_); });
    EXPECT_TRUE(recorded.ok()) << recorded.status().message();
    recorded_ = std::move(*recorded);
  }

  void step(RowKind kind, std::int32_t tokens, bool beside = false) {
    BatchRow row{kind, 1, {7, 3, 9, 1, 2}, computed_, tokens};
    std::vector<Fed> fed;
    for (std::int32_t i = 0; i < tokens; ++i) fed.push_back({kRequest, computed_ + i});
    std::vector<BatchRow> rows{row};
    if (beside) {
      rows.push_back({kPrefill, 0, {20, 21}, 0, 3});
      for (const std::int64_t i : {0, 1, 2}) fed.push_back({kOther, i});
    }
    run(rows, fed);
    for (std::int32_t i = 0; i < tokens; ++i) keep(computed_ + i, i);
    computed_ += tokens;
    if (kind == kVerify) commit(tokens - 1, rows.size());
  }
  /// A tree of 7 tokens whose path 0, 2, 3, 6 is the request's.
  void tree() {
    const BatchRow row{kVerify, 1, {7, 3, 9, 1, 2}, computed_, 7, {-1, 0, 0, 2, 2, -1, 3}};
    const std::vector<std::int32_t> path{0, 2, 3, 6};
    std::vector<Fed> fed(7, {kWrong, 0});
    for (std::size_t i = 0; i < path.size(); ++i) {
      fed[static_cast<std::size_t>(path[i])] = {kRequest, computed_ + static_cast<std::int64_t>(i)};
    }
    run({row}, fed);
    for (std::size_t i = 0; i < path.size(); ++i) {
      keep(computed_ + static_cast<std::int64_t>(i), path[i]);
    }
    computed_ += 4;
    commit(6, 1);
  }
  const Outputs& outputs() const { return outputs_; }

 private:
  static WorldOptions with_kept(WorldOptions options) {
    options.kept = 8;
    return options;
  }
  void run(const std::vector<BatchRow>& rows, const std::vector<Fed>& fed) {
    world_.poison_tokens();
    for (std::size_t i = 0; i < fed.size(); ++i) {
      world_.feed(fed[i].request, fed[i].position, static_cast<std::int32_t>(i));
    }
    const auto batch = ForwardBatch::create(rows);
    ASSERT_TRUE(batch.ok()) << batch.status().message();
    if (graph_) {
      ASSERT_OK(world_.backend->replan(*plan_, *batch));
      ASSERT_OK(recorded_->replay());
      return;
    }
    auto plan = world_.backend->plan(*batch);
    ASSERT_TRUE(plan.ok()) << plan.status().message();
    plan_ = *plan;
    ASSERT_OK(world_.run(*plan_));
  }
  void commit(std::int32_t last, std::size_t rows) {
    std::vector<std::int32_t> accepted(rows, -1);
    accepted[0] = last;
    ASSERT_OK(world_.backend->commit(*plan_, accepted));
  }
  void keep(std::int64_t position, std::int32_t token) {
    std::vector<double> all = world_.output(token);
    const std::vector<double> lse = world_.lse(token);
    all.insert(all.end(), lse.begin(), lse.end());
    outputs_[position] = std::move(all);
  }

  HybridWorld world_;
  bool graph_;
  std::shared_ptr<Plan> plan_;
  std::unique_ptr<Graph> recorded_;
  std::int64_t computed_ = 0;
  Outputs outputs_;
};

struct NamedPath {
  const char* name;
  std::function<void(Path&)> walk;
};

std::vector<NamedPath> all_paths() {
  return {
      {"whole prompt", [](Path& p) { p.step(kPrefill, kLength); }},
      {"cut prompt",
       [](Path& p) {
         for (const std::int32_t tokens : {1, 7, 6}) p.step(kPrefill, tokens);
       }},
      {"cut prompt beside another",
       [](Path& p) {
         for (const std::int32_t tokens : {5, 9}) p.step(kPrefill, tokens, true);
       }},
      {"decode beside a prompt",
       [](Path& p) {
         p.step(kPrefill, 8);
         for (int i = 0; i < 6; ++i) p.step(kDecode, 1, i % 2 == 0);
       }},
      {"chain of drafts",
       [](Path& p) {
         p.step(kPrefill, 3);
         p.step(kVerify, 4);
         p.step(kVerify, 6, true);
         p.step(kDecode, 1);
       }},
      {"tree of drafts",
       [](Path& p) {
         p.step(kPrefill, 9);
         p.tree();
         p.step(kDecode, 1);
       }},
  };
}

/// Token by token: the path that the conformance tables hold to the references.
Outputs decoded(const WorldOptions& options) {
  Path path(options, false);
  path.step(kPrefill, 1);
  for (std::int64_t i = 1; i < kLength; ++i) path.step(kDecode, 1);
  return path.outputs();
}

struct NamedOption {
  const char* name;
  std::function<void(WorldOptions&)> set;
};

void PrintTo(const NamedOption& option, std::ostream* out) { *out << option.name; }

class F48IgnoredOption : public ::testing::TestWithParam<NamedOption> {};

INSTANTIATE_TEST_SUITE_P(
    Options, F48IgnoredOption,
    ::testing::Values(
        NamedOption{"window", [](WorldOptions& o) { o.window = 3; }},
        NamedOption{"cap", [](WorldOptions& o) { o.logit_cap = 0.7f; }},
        NamedOption{"sinks", [](WorldOptions& o) { o.sinks = true; }},
        NamedOption{"all_three",
                    [](WorldOptions& o) {
                      o.window = 5;
                      o.logit_cap = 0.7f;
                      o.sinks = true;
                    }},
        NamedOption{"neg_eigval", [](WorldOptions& o) { o.allow_neg_eigval = true; }},
        NamedOption{"channel_decay", [](WorldOptions& o) { o.channel_decay = true; }},
        NamedOption{"f8_keys_and_values",
                    [](WorldOptions& o) {
                      o.kv_dtype = DType::kF8E4M3;
                      o.k_scale = 0.25f;
                      o.v_scale = 2.0f;
                    }},
        NamedOption{"f8_with_a_scale_of_each_head",
                    [](WorldOptions& o) {
                      o.kv_dtype = DType::kF8E4M3;
                      o.head_scales = true;
                    }},
        NamedOption{"bf16_keys_and_values", [](WorldOptions& o) { o.kv_dtype = DType::kBF16; }},
        NamedOption{"bf16_states", [](WorldOptions& o) { o.state_dtype = DType::kBF16; }},
        NamedOption{"f16", [](WorldOptions& o) { o.dtype = o.kv_dtype = DType::kF16; }},
        NamedOption{"bf16", [](WorldOptions& o) { o.dtype = o.kv_dtype = DType::kBF16; }}),
    [](const auto& param_info) { return param_info.param.name; });

TEST_P(F48IgnoredOption, HoldsOnEveryPath) {
  WorldOptions options;
  options.isa = best_isa();
  GetParam().set(options);
  const Outputs wanted = decoded(options);
  const Outputs without = decoded(WorldOptions{});
  EXPECT_FALSE(near(wanted.at(kLength - 1), without.at(kLength - 1), {1e-4, 1e-4}))
      << "the option changes nothing, so nothing would be seen";
  // Prefill rounds a bf16 state once a row and not once a token; outputs are rounded once.
  const bool rough = options.state_dtype == DType::kBF16;
  const double bound = rough ? 0.03 : 2 * half_ulp(options.dtype) + 2e-6;
  for (const NamedPath& path : all_paths()) {
    for (const bool graph : {false, true}) {
      Path walked(options, graph);
      path.walk(walked);
      for (const auto& [position, got] : walked.outputs()) {
        EXPECT_TRUE(near(got, wanted.at(position), {bound, 8 * bound}))
            << path.name << (graph ? ", replayed" : ", eager") << ", position " << position;
      }
      ASSERT_EQ(walked.outputs().size(), static_cast<std::size_t>(kLength)) << path.name;
    }
  }
}

TEST(F48RefusedOption, EncoderAndCrossAttentionWhenTheLayerIsDeclared) {
  Buffer cache(DType::kF32, {4, 4, 2, 16});
  const auto context = make_context();
  auto backend = *PagedAttnBackend::create(*context, {{cache.view()}, {cache.view()}});
  RadixAttention layer;
  layer.layer_id = 6;
  layer.num_heads = 4;
  layer.num_kv_heads = 2;
  layer.head_dim = layer.v_head_dim = 16;
  layer.scaling = 0.25f;
  const auto declared = [&](const std::function<void(RadixAttention&)>& change) {
    RadixAttention changed = layer;
    change(changed);
    return backend->set_layers({&changed, 1});
  };
  EXPECT_OK(declared([](RadixAttention&) {}));
  EXPECT_ERROR(declared([](auto& l) { l.attn_type = AttentionType::kEncoderOnly; }), kUnsupported,
               "layer 6", "encoder_only attention", "dense keys");
  EXPECT_ERROR(declared([](auto& l) { l.is_cross_attention = true; }), kUnsupported, "layer 6",
               "cross attention");
  EXPECT_ERROR(declared([](auto& l) {
                 l.attn_type = AttentionType::kDecoderBidirectional;
                 l.sliding_window = 4;
               }),
               kUnsupported, "decoder_bidirectional", "sliding_window 4");
  EXPECT_ERROR(declared([](auto& l) { l.kv_index = 1; }), kOutOfRange, "kv_index 1", "[0, 1)");
  EXPECT_ERROR(declared([](auto& l) { l.head_dim = 32; }), kInvalidArgument, "head_dim 32");
  EXPECT_ERROR(declared([](auto& l) { l.num_heads = 3; }), kInvalidArgument, "HQ = 3");
  EXPECT_ERROR(declared([](auto& l) { l.logit_cap = -1; }), kInvalidArgument, "logit_cap is -1");
  EXPECT_ERROR(declared([](auto& l) { l.sliding_window = 0; }), kInvalidArgument, "window is 0");
  EXPECT_ERROR(declared([](auto& l) { l.scaling = 0; }), kInvalidArgument, "scale is 0");
  Buffer few(DType::kF32, {3}), half(DType::kBF16, {4}), each(DType::kF32, {2});
  EXPECT_ERROR(declared([&](auto& l) { l.sinks = few.view(); }), kInvalidArgument, "3 elements",
               "[4] f32");
  EXPECT_ERROR(declared([&](auto& l) { l.sinks = half.view(); }), kInvalidArgument, "bf16");
  EXPECT_ERROR(declared([&](auto& l) { l.k_scales = few.view(); }), kInvalidArgument,
               "k_scales of rank 1, 3 elements", "[2] f32");
  EXPECT_ERROR(declared([&](auto& l) { l.v_scales = half.view(); }), kInvalidArgument, "v_scales",
               "bf16");
  EXPECT_ERROR(declared([&](auto& l) { l.v_scales = each.view(), l.v_scale = 3; }),
               kInvalidArgument, "v_scale is 3", "must be 1 beside v_scales");
  EXPECT_OK(declared([&](auto& l) { l.k_scales = l.v_scales = each.view(); }));
  EXPECT_ERROR(declared([](auto& l) { l.attn_type = static_cast<AttentionType>(77); }),
               kInvalidArgument, "attn_type 77");
  EXPECT_ERROR(declared([](auto& l) { l.k_scale = 0; }), kInvalidArgument, "k_scale is 0");
  EXPECT_ERROR(declared([](auto& l) { l.v_scale = -2; }), kInvalidArgument, "v_scale is -2");
}

TEST(F48RefusedOption, DraftsOfABidirectionalLayerWhenTheStepIsPlanned) {
  WorldOptions options;
  options.kept = 4;
  options.attn_type = AttentionType::kDecoderBidirectional;
  HybridWorld world(options);
  const auto batch = *ForwardBatch::create({{kVerify, 0, {0}, 2, 2}});
  EXPECT_ERROR(world.backend->plan(batch).status(), kUnsupported, "decoder_bidirectional",
               "verify");
  const auto graph = *world.backend->plan_graph({1, 1, 1, 8, 8});
  EXPECT_ERROR(Graph::record(*world.context, [&] { return world.run(*graph); }).status(),
               kUnsupported, "decoder_bidirectional", "verify");
}

TEST(F48BidirectionalLayer, EachTokenSeesThoseBehindIt) {
  WorldOptions options;
  Path causal(options, false);
  causal.step(kPrefill, 6);
  options.attn_type = AttentionType::kDecoderBidirectional;
  for (const bool graph : {false, true}) {
    Path full(options, graph);
    full.step(kPrefill, 6, true);
    EXPECT_NE(full.outputs().at(0), causal.outputs().at(0));
    // The last token sees the same keys in both.
    EXPECT_TRUE(near(full.outputs().at(5), causal.outputs().at(5), {1e-6, 1e-5}));
  }
}

TEST(F48GdnLayers, AreCheckedAgainstTheirStatesWhenDeclared) {
  const auto context = make_context();
  Buffer recurrent(DType::kF32, {2, 4, 32, 16}), conv(DType::kF32, {2, 192, 3});
  auto backend = *GDNAttnBackend::create(*context, {{recurrent.view()}, {conv.view()}});
  Buffer weight(DType::kF32, {192, 4}), narrow(DType::kF32, {192, 3}), gates(DType::kF32, {4});
  Buffer channels(DType::kF32, {4, 16});
  RadixLinearAttention layer{5, 0, 2, 4, 16, 32, weight.view(), gates.view(), gates.view()};
  EXPECT_OK(backend->set_layers({&layer, 1}));
  const auto declared = [&](const std::function<void(RadixLinearAttention&)>& change) {
    RadixLinearAttention changed = layer;
    change(changed);
    return backend->set_layers({&changed, 1});
  };
  EXPECT_ERROR(declared([](auto& l) { l.gdn_index = 1; }), kOutOfRange, "layer 5", "gdn_index 1");
  EXPECT_ERROR(declared([](auto& l) { l.head_v_dim = 16; }), kInvalidArgument, "head_v_dim 16");
  EXPECT_ERROR(declared([&](auto& l) { l.conv_weight = narrow.view(); }), kInvalidArgument,
               "conv_weight has [C, W] = [192, 3]", "[192, 4]");
  EXPECT_ERROR(declared([](auto& l) { l.a_log = {}; }), kInvalidArgument, "a_log");
  EXPECT_ERROR(declared([](auto& l) { l.channel_decay = true; }), kInvalidArgument,
               "dt_bias has rank 1");
  EXPECT_OK(declared([&](auto& l) {
    l.channel_decay = true;
    l.dt_bias = channels.view();
  }));
}

}  // namespace
}  // namespace hybridattn::testing
