// The exactness modes through the engine: the same bits whatever runs beside, eager or replayed,
// and with chunk_invariant in whatever chunks.
#include <algorithm>

#include "tests/engine/checkpoint/checkpoint_test_support.h"
#include "tests/engine/serve/engine_test_support.h"

namespace hybridattn::engine {
namespace {

struct Mode {
  const char* checkpoint;
  DType dtype;
};
void PrintTo(const Mode& mode, std::ostream* out) {
  *out << mode.checkpoint << '_' << dtype_name(mode.dtype);
}

class Invariance : public ::testing::TestWithParam<Mode> {};
INSTANTIATE_TEST_SUITE_P(Modes, Invariance,
                         ::testing::Values(Mode{"golden_a", DType::kF32},
                                           Mode{"golden_a", DType::kBF16},
                                           Mode{"golden_c", DType::kF32},
                                           Mode{"golden_moe_stacked", DType::kF32}));

EngineSetup setup_of(const Mode& mode) {
  EngineSetup setup;
  setup.checkpoint = mode.checkpoint;
  setup.dtype = mode.dtype;
  setup.chunk_invariant = true;
  return setup;
}

TEST_P(Invariance, LikelihoodsInChunksOfTheGridAreThoseOfTheWhole) {
  const auto engine = make_engine(setup_of(GetParam()));
  const Ids ids = random_ids(450, 512, 3);
  const Result<ScoreResult> whole = engine->score(ids, 450);
  ASSERT_TRUE(whole.ok()) << whole.status().message();
  for (const std::int32_t chunk : {64, 128, 192}) {
    const Result<ScoreResult> cut = engine->score(ids, chunk);
    ASSERT_TRUE(cut.ok()) << cut.status().message();
    EXPECT_EQ(cut->logprobs, whole->logprobs) << chunk;
    EXPECT_EQ(cut->last_logits, whole->last_logits) << chunk;
  }
  EXPECT_EQ(engine->score(ids, 100)->logprobs, whole->logprobs) << "cut to 64";
  expect_error(engine->score(ids, 63).status(), StatusCode::kInvalidArgument,
               {"chunk is 63", "at least 64"});
}

/// Sampling at a high temperature: a bit of a logit moves the draw's borders, and over hundreds of
/// draws a difference shows.
Request sampled(std::size_t index) {
  Request request = make_request(random_ids(1 + 37 * index, 512, static_cast<unsigned>(index)), 40);
  request.ignore_eos = true;
  request.sampling.temperature = 3.0f;
  request.sampling.seed = index;
  return request;
}

TEST_P(Invariance, AloneAmongEightInAnyOrderInAnyChunksEagerAndReplayed) {
  std::vector<Output> wanted;
  {
    EngineSetup setup = setup_of(GetParam());
    setup.max_batch = 1;
    setup.graphs = false;
    const auto engine = make_engine(setup);
    for (std::size_t i = 0; i < 8; ++i) wanted.push_back(run_alone(*engine, sampled(i)));
    EXPECT_EQ(engine->stats().replayed_steps, 0);
  }
  std::vector<std::size_t> order{0, 1, 2, 3, 4, 5, 6, 7};
  std::mt19937 generator(2);
  for (const bool graphs : {false, true}) {
    for (const std::int32_t chunk : {64, 130, 512}) {
      std::shuffle(order.begin(), order.end(), generator);
      EngineSetup setup = setup_of(GetParam());
      setup.graphs = graphs;
      setup.chunk = chunk;
      setup.draft_tokens = chunk == 130 ? 3 : 0;
      const auto engine = make_engine(setup);
      EXPECT_EQ(engine->options().chunk % 64, 0);
      std::vector<std::uint64_t> ids;
      for (const std::size_t i : order) ids.push_back(submit_ok(*engine, sampled(i)));
      Outputs outputs;
      run_until_idle(*engine, outputs);
      for (std::size_t i = 0; i < 8; ++i) {
        EXPECT_EQ(outputs.at(ids[i]), wanted[order[i]])
            << "request " << order[i] << ", chunk " << chunk << (graphs ? ", replayed" : ", eager");
      }
      EXPECT_EQ(engine->stats().replayed_steps > 0, graphs);
    }
  }
}

/// Prompts that share chunks with others, drafts, and too little memory: with batch_invariant none
/// of it shows.
TEST_P(Invariance, BatchInvariantTokensDoNotDependOnTraffic) {
  EngineSetup setup = setup_of(GetParam());
  setup.chunk_invariant = false;
  setup.batch_invariant = true;
  setup.chunk = 50;
  setup.max_batch = 1;
  std::vector<Output> wanted;
  const auto alone = make_engine(setup);
  for (std::size_t i = 0; i < 8; ++i) wanted.push_back(run_alone(*alone, sampled(i)));
  setup.max_batch = 4;
  setup.page_size = 4;
  for (const bool tight : {false, true}) {
    setup.draft_tokens = tight ? 2 : 0;
    setup.memory = tight ? memory_of(setup, 150) : 0;
    const auto engine = make_engine(setup);
    std::vector<std::uint64_t> ids;
    for (std::size_t i = 8; i-- > 0;) ids.push_back(submit_ok(*engine, sampled(i)));
    Outputs outputs;
    run_until_idle(*engine, outputs);
    EXPECT_EQ(engine->stats().preemptions > 0, tight);
    for (std::size_t i = 0; i < 8; ++i) {
      EXPECT_EQ(outputs.at(ids[i]), wanted[7 - i]) << "request " << 7 - i << ", tight " << tight;
    }
  }
}

TEST(GraphsOfTheEngine, AreRecordedAgainWhenTheBuffersMove) {
  EngineSetup setup;
  setup.chunk = 16;
  setup.max_batch = 2;
  const auto engine = make_engine(setup);
  const Request request = sampled(2);
  const Output before = run_alone(*engine, request);
  const std::int64_t replays = engine->stats().replayed_steps;
  EXPECT_GT(replays, 0);
  ASSERT_TRUE(engine->score(random_ids(700, 512, 1), 700).ok()) << "larger than any step";
  EXPECT_EQ(run_alone(*engine, request), before);
  EXPECT_GT(engine->stats().replayed_steps, replays);
}

TEST(InvarianceOptions, WhatCannotBeIsRefused) {
  EngineOptions options;
  options.context.chunk_invariant = true;
  options.chunk = 63;
  expect_error(Engine::load(checkpoint_path("golden_a"), options).status(),
               StatusCode::kInvalidArgument, {"chunk is 63", "at least 64"});
  options.chunk = 64;
  options.state_dtype = DType::kBF16;
  expect_error(Engine::load(checkpoint_path("golden_a"), options).status(),
               StatusCode::kInvalidArgument, {"state-dtype is bf16", "f32"});
}

TEST(KvInF8, GivesNearlyTheSameLikelihoods) {
  for (const DType kv : {DType::kBF16, DType::kF8E4M3}) {
    EngineOptions options;
    options.context.threads = 1;
    options.dtype = DType::kF32;
    const auto nll = [&] {
      auto engine = Engine::load(checkpoint_path("golden_a"), options);
      EXPECT_TRUE(engine.ok()) << engine.status().message();
      EXPECT_TRUE((*engine)->allocate_caches({600, 0}).ok());
      return (*engine)->score(random_ids(300, 512, 5), 64)->mean_nll;
    };
    const double exact = nll();
    options.kv_dtype = kv;
    const double rounded = nll();
    EXPECT_NE(rounded, exact) << "the cache's type has no effect";
    EXPECT_NEAR(rounded, exact, kv == DType::kBF16 ? 2e-3 : 2e-2);
  }
}

}  // namespace
}  // namespace hybridattn::engine
