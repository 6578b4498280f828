// A model shared out over several ranks says what it says whole: recorded tokens, logits within the
// bounds, any traffic; and what cannot be shared out is refused by name. F44 for whole models.
#include <algorithm>
#include <atomic>
#include <thread>

#include "tests/engine/serve/wide_checkpoint.h"

namespace hybridattn::engine {
namespace {

/// Ranks are threads of the CPU here, whatever device the other tests run on.
class F44Ranks : public ::testing::Test {
 protected:
  void SetUp() override {
    if (hybridattn::testing::test_device() != DeviceType::kCpu) GTEST_SKIP() << "for the CPU";
  }
};

struct Case {
  const char* checkpoint;
  WeightFormat weights;
};

class F44RanksOfACheckpoint : public F44Ranks, public ::testing::WithParamInterface<Case> {
 protected:
  EngineSetup setup(std::int32_t ranks) const {
    EngineSetup out;
    out.checkpoint = GetParam().checkpoint;
    out.weights = GetParam().weights;
    out.ranks = ranks;
    return out;
  }
};

TEST_P(F44RanksOfACheckpoint, GreedyTokensAreTheRecordedOnes) {
  const auto engine = make_engine(setup(2));
  const nlohmann::json expected =
      read_json(checkpoint_path(GetParam().checkpoint) / "expected.json");
  std::vector<Ids> wanted;
  std::vector<std::uint64_t> ids;
  for (const nlohmann::json& row : expected["cases"]) {
    wanted.push_back(row["greedy"].get<Ids>());
    Request request =
        make_request(row["prompt"].get<Ids>(), static_cast<std::int32_t>(wanted.back().size()));
    request.ignore_eos = true;
    ids.push_back(submit_ok(*engine, request));
  }
  Outputs outputs;
  run_until_idle(*engine, outputs);
  for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(outputs.at(ids[i]).ids, wanted[i]) << i;
  EXPECT_GT(engine->stats().replayed_steps, 0);
}

TEST_P(F44RanksOfACheckpoint, LogitsAreThoseOfOneRank) {
  const auto one = make_engine(setup(1));
  const auto two = make_engine(setup(2));
  for (const std::size_t length : {1, 70, 300}) {
    const Ids ids = random_ids(length, 384, static_cast<unsigned>(length));
    const ScoreResult wanted = or_throw(one->score(ids, 64));
    const ScoreResult found = or_throw(two->score(ids, 64));
    EXPECT_LE(relative_l2(found.last_logits, wanted.last_logits), 3e-5) << length;
    EXPECT_NEAR(found.mean_nll, wanted.mean_nll, 1e-4) << length;
    EXPECT_EQ(or_throw(two->score(ids, 64)).last_logits, found.last_logits) << "run to run";
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, F44RanksOfACheckpoint,
                         ::testing::Values(Case{"golden_a", WeightFormat::kStored},
                                           Case{"golden_a", WeightFormat::kJoined},
                                           Case{"golden_c", WeightFormat::kStored},
                                           Case{"golden_nested", WeightFormat::kStored},
                                           Case{"golden_nested", WeightFormat::kJoined},
                                           Case{"golden_moe_stacked", WeightFormat::kStored}),
                         [](const auto& tested) {
                           return concat(tested.param.checkpoint, "_",
                                         weight_format_name(tested.param.weights));
                         });

/// Requests of all kinds, which come while others run.
Outputs run_schedule(Engine& engine, unsigned seed, std::int32_t vocab) {
  std::mt19937 generator(seed);
  Outputs outputs;
  for (int left = 14; left > 0 || !engine.idle();) {
    while (left > 0 && generator() % 3 != 0) {
      Ids prompt = random_ids(1 + generator() % 90, vocab, seed + 100u * unsigned(left));
      const auto kind = generator() % 3;
      // What repeats itself is drafted.
      const std::size_t period = kind == 2 ? 4 : prompt.size();
      for (std::size_t i = period; i < prompt.size(); ++i) prompt[i] = prompt[i - period];
      Request request = make_request(prompt, 1 + static_cast<std::int32_t>(generator() % 20));
      request.ignore_eos = true;
      if (kind == 1) request.sampling = {.temperature = 0.8f, .top_p = 0.9f, .seed = generator()};
      if (kind == 2) request.sampling.repetition_penalty = 0.3f;
      static_cast<void>(submit_ok(engine, std::move(request)));
      --left;
    }
    step_ok(engine, outputs);
  }
  return outputs;
}

class F44RandomSchedules : public F44Ranks, public ::testing::WithParamInterface<std::int32_t> {};

// Few pages, so that requests give up theirs, and drafts, which are taken and left: all ranks have
// the same pages and slots.
TEST_P(F44RandomSchedules, SayWhatOneRankSays) {
  const std::int32_t ranks = GetParam();
  const WideCheckpoint wide(256, ranks == 2);
  for (const WeightFormat weights : {WeightFormat::kStored, WeightFormat::kJoined}) {
    for (const bool graphs : {true, false}) {
      EngineSetup setup;
      setup.folder = wide.path();
      setup.weights = weights;
      setup.graphs = graphs;
      setup.chunk = 40;
      setup.max_batch = 4;
      setup.page_size = 4;
      setup.tokens = 110;
      setup.draft_tokens = 3;
      setup.memory = memory_of(setup, 60);  // of 112: some have to wait again
      const auto one = make_engine(setup);
      setup.ranks = ranks;
      setup.memory = memory_of(setup, 60);
      const auto several = make_engine(setup);
      ASSERT_EQ(several->free_pages(), one->free_pages());
      const std::int32_t pages = several->free_pages(), slots = several->free_slots();
      for (const unsigned seed : {1u, 2u}) {
        EXPECT_EQ(run_schedule(*several, seed, 256), run_schedule(*one, seed, 256))
            << weight_format_name(weights) << ", graphs " << graphs << ", seed " << seed;
      }
      EXPECT_EQ(several->free_pages(), pages);
      EXPECT_EQ(several->free_slots(), slots);
      EXPECT_GT(several->stats().accepted_tokens, 0);
      EXPECT_GT(several->stats().preemptions, 0);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Ranks, F44RandomSchedules, ::testing::Values(2, 4));

TEST_F(F44Ranks, KeyValueHeadsAreSharedWhereRanksAreMore) {
  for (const std::int32_t vocab : {256, 250}) {  // cut, and whole on each of four
    const WideCheckpoint wide(vocab, vocab == 250);
    EngineSetup setup;
    setup.folder = wide.path();
    const auto one = make_engine(setup);
    setup.ranks = 4;
    const auto four = make_engine(setup);
    EXPECT_EQ(four->model().config().num_key_value_heads, 1);
    EXPECT_EQ(four->model().weights().lm_head.dim(0), vocab == 256 ? 64 : 250);
    const Ids ids = random_ids(200, vocab, 5);
    const ScoreResult wanted = or_throw(one->score(ids, 64));
    const ScoreResult found = or_throw(four->score(ids, 64));
    EXPECT_LE(relative_l2(found.last_logits, wanted.last_logits), 3e-5) << vocab;
    EXPECT_EQ(found.argmax, wanted.argmax) << vocab;
  }
}

// Bits of a request depend on its ranks, never on who is beside it.
TEST_F(F44Ranks, RequestsAreAloneBesideOthers) {
  const WideCheckpoint wide(256, false);
  EngineSetup setup;
  setup.folder = wide.path();
  setup.dtype = DType::kBF16;
  setup.batch_invariant = true;
  setup.ranks = 4;
  const auto engine = make_engine(setup);
  const auto request = [](unsigned seed) {
    Request out = make_request(random_ids(20 + 9 * seed, 256, seed), 20);
    out.ignore_eos = true;
    out.sampling = {.temperature = 1.0f, .seed = seed};
    return out;
  };
  std::vector<Output> alone;
  for (unsigned seed = 0; seed < 5; ++seed) alone.push_back(run_alone(*engine, request(seed)));
  Outputs together;
  std::vector<std::uint64_t> ids;
  for (unsigned seed = 0; seed < 5; ++seed) ids.push_back(submit_ok(*engine, request(seed)));
  run_until_idle(*engine, together);
  for (unsigned seed = 0; seed < 5; ++seed) EXPECT_EQ(together.at(ids[seed]), alone[seed]) << seed;
}

// What enters a product is rounded by rows, of which each rank has a part: no worse than whole
// rows.
TEST_F(F44Ranks, EightBitsLoseAsMuchAsOnOneRank) {
  const Ids ids = random_ids(150, 512, 9);
  const auto logits = [&](WeightFormat weights, std::int32_t ranks) {
    const auto engine = make_engine({.weights = weights, .ranks = ranks});
    return or_throw(engine->score(ids, 64)).last_logits;
  };
  const std::vector<float> exact = logits(WeightFormat::kStored, 1);
  const double lost = relative_l2(logits(WeightFormat::kInt8, 1), exact);
  EXPECT_LE(relative_l2(logits(WeightFormat::kInt8, 2), exact), 1.5 * lost);
}

TEST_F(F44Ranks, ARankHoldsItsPart) {
  EngineSetup setup;
  const auto one = make_engine(setup);
  setup.ranks = 2;
  const auto two = make_engine(setup);
  const ModelConfig &whole = one->model().config(), &part = two->model().config();
  EXPECT_EQ(2 * part.num_attention_heads, whole.num_attention_heads);
  EXPECT_EQ(2 * part.linear_num_value_heads, whole.linear_num_value_heads);
  EXPECT_EQ(part.hidden_size, whole.hidden_size);
  // Caches are shared out, and of the weights all but the embedding and the norms.
  EXPECT_EQ(two->memory().kv, one->memory().kv);
  EXPECT_EQ(two->memory().states, one->memory().states);
  EXPECT_LT(two->memory().weights, 3 * one->memory().weights / 2);
  EXPECT_EQ(two->model().weights().num_parameters, one->model().weights().num_parameters);
}

TEST_F(F44Ranks, WhatCannotBeSharedOutIsNamed) {
  const auto refused = [](const char* checkpoint, std::int32_t ranks) {
    return Engine::load(checkpoint_path(checkpoint),
                        options_of({.checkpoint = checkpoint, .ranks = ranks}))
        .status();
  };
  expect_error(refused("golden_a", 4), StatusCode::kInvalidArgument,
               {"linear_num_key_heads is 2", "4 ranks"});
  expect_error(refused("golden_nested", 3), StatusCode::kInvalidArgument,
               {"linear_num_key_heads is 2", "3 ranks"});
  expect_error(refused("golden_moe_split", 3), StatusCode::kInvalidArgument,
               {"shared_expert_intermediate_size is 40", "3 ranks"});
  expect_error(refused("golden_a", 0), StatusCode::kInvalidArgument, {"ranks is 0"});
}

TEST_F(F44Ranks, WhatOneContextOwnsIsRefusedForSeveral) {
  const auto refused = [](const auto& change) {
    EngineOptions options = options_of({.ranks = 2});
    change(options);
    return Engine::load(checkpoint_path("golden_a"), options).status();
  };
  const auto context = hybridattn::testing::make_context(best_isa());
  expect_error(refused([&](EngineOptions& o) { o.context.executor = &context->executor(); }),
               StatusCode::kInvalidArgument, {"context.executor", "2 ranks"});
  expect_error(refused([](EngineOptions& o) { o.context.device = DeviceType::kCuda; }),
               StatusCode::kInvalidArgument, {"context.allocator", "2 ranks"});
  expect_error(refused([](EngineOptions& o) {
                 o.devices = {0, 1};
               }),
               StatusCode::kInvalidArgument, {"devices has 2", "cpu"});
  const auto on_cuda = [&](std::vector<int> devices, bool invariant, std::int32_t ranks) {
    return refused([&](EngineOptions& o) {
      o.context.device = DeviceType::kCuda;
      o.context.allocator = nullptr;
      o.context.batch_invariant = invariant;
      o.devices = devices;
      o.ranks = ranks;
    });
  };
  expect_error(on_cuda({1, 1}, false, 2), StatusCode::kInvalidArgument, {"all different"});
  expect_error(on_cuda({0}, false, 2), StatusCode::kInvalidArgument, {"devices has 1", "2 ranks"});
  expect_error(on_cuda({0, -1}, false, 2), StatusCode::kInvalidArgument, {"at least 0"});
  expect_error(on_cuda({}, true, 4), StatusCode::kUnsupported, {"ranks is 4", "batch-invariant"});
}

/// Gives nothing on threads other than the one that made it, where that is asked for.
class OneThreadsAllocator final : public PoisonAllocator {
 public:
  void* allocate(std::size_t bytes) noexcept override {
    return refuses && std::this_thread::get_id() != own_ ? nullptr
                                                         : PoisonAllocator::allocate(bytes);
  }
  std::atomic<bool> refuses = false;

 private:
  std::thread::id own_ = std::this_thread::get_id();
};

TEST_F(F44Ranks, ARankThatFailsEndsTheStepOfAll) {
  OneThreadsAllocator allocator;
  const auto engine = make_engine(
      {.chunk = 16, .max_batch = 2, .tokens = 400, .allocator = &allocator, .ranks = 2});
  const Ids ids = random_ids(300, 512, 4);
  const ScoreResult before = or_throw(engine->score(ids, 16));
  allocator.refuses = true;
  // More tokens than there is room for: the first rank gets more, and waits for the second.
  expect_error(engine->score(ids, 300).status(), StatusCode::kResourceExhausted,
               {"rank 1", "allocator"});
  EXPECT_TRUE(engine->check().ok());
  EXPECT_EQ(or_throw(engine->score(ids, 16)).last_logits, before.last_logits);
  allocator.refuses = false;
  EXPECT_TRUE(engine->score(ids, 300).ok());
  Outputs outputs;
  static_cast<void>(submit_ok(*engine, make_request(ids, 4)));
  run_until_idle(*engine, outputs);
}

TEST_F(F44Ranks, ATraceIsOfTheFirstRank) {
  const std::unique_ptr<Trace> trace = or_throw(Trace::create(1 << 16));
  EngineOptions options = options_of({.ranks = 2});
  options.context.trace = trace.get();
  auto engine = or_throw(Engine::load(checkpoint_path("golden_a"), options));
  or_throw(engine->allocate_caches({100, 0}));
  static_cast<void>(run_alone(*engine, make_request({1, 2, 3}, 4)));
  EXPECT_GT(trace->size(), 0u);
}

}  // namespace
}  // namespace hybridattn::engine
