// A model shared out over two GPUs says what it says on one, eager and replayed, in flight or
// waited for. F44 on real devices.
#include "tests/engine/serve/wide_checkpoint.h"

namespace hybridattn::engine {
namespace {

class F44RanksOnCuda : public ::testing::Test {
 protected:
  void SetUp() override {
    ContextOptions second;
    second.device = DeviceType::kCuda;
    second.device_index = 1;
    if (hybridattn::testing::test_device() != DeviceType::kCuda || !Context::create(second).ok()) {
      GTEST_SKIP() << "this needs two CUDA devices, and HYBRIDATTN_TEST_DEVICE=cuda";
    }
  }
  static Request greedy(unsigned seed, std::int32_t vocab) {
    Request request = make_request(random_ids(5 + 30 * seed, vocab, seed), 24);
    request.ignore_eos = true;
    return request;
  }
  static std::vector<Output> run_together(Engine& engine, std::int32_t vocab) {
    Outputs outputs;
    std::vector<std::uint64_t> ids;
    for (unsigned seed = 0; seed < 6; ++seed) {
      ids.push_back(submit_ok(engine, greedy(seed, vocab)));
    }
    run_until_idle(engine, outputs);
    std::vector<Output> in_order;
    for (const std::uint64_t id : ids) in_order.push_back(outputs.at(id));
    return in_order;
  }
};

TEST_F(F44RanksOnCuda, GreedyTokensAreTheRecordedOnes) {
  for (const char* checkpoint : {"golden_a", "golden_c", "golden_nested", "golden_moe_stacked"}) {
    const auto engine = make_engine({.checkpoint = checkpoint, .ranks = 2});
    const nlohmann::json expected = read_json(checkpoint_path(checkpoint) / "expected.json");
    for (const nlohmann::json& row : expected["cases"]) {
      const auto greedy = row["greedy"].get<Ids>();
      Request request =
          make_request(row["prompt"].get<Ids>(), static_cast<std::int32_t>(greedy.size()));
      request.ignore_eos = true;
      EXPECT_EQ(run_alone(*engine, request).ids, greedy) << checkpoint;
    }
    EXPECT_GT(engine->stats().replayed_steps, 0);
  }
}

TEST_F(F44RanksOnCuda, LogitsAreThoseOfOneDevice) {
  const WideCheckpoint wide(256, true);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    EngineSetup setup;
    setup.folder = wide.path();
    setup.dtype = dtype;
    const auto one = make_engine(setup);
    setup.ranks = 2;
    const auto two = make_engine(setup);
    for (const std::size_t length : {1, 20, 300}) {
      const Ids ids = random_ids(length, 256, static_cast<unsigned>(length));
      const ScoreResult wanted = or_throw(one->score(ids, 64));
      const ScoreResult found = or_throw(two->score(ids, 64));
      EXPECT_LE(relative_l2(found.last_logits, wanted.last_logits),
                dtype == DType::kF32 ? 3e-5 : 3e-2)
          << length;
    }
  }
}

TEST_F(F44RanksOnCuda, ReplayedOrInFlightStepsSayTheSame) {
  const WideCheckpoint wide(256, false);
  EngineSetup setup;
  setup.folder = wide.path();
  setup.chunk = 48;
  setup.max_batch = 4;
  setup.batch_invariant = true;
  setup.dtype = DType::kBF16;
  setup.ranks = 2;
  setup.graphs = setup.overlap = false;
  const std::vector<Output> wanted = run_together(*make_engine(setup), 256);
  for (const bool graphs : {true, false}) {
    for (const bool overlap : {true, false}) {
      setup.graphs = graphs;
      setup.overlap = overlap;
      const auto engine = make_engine(setup);
      EXPECT_EQ(run_together(*engine, 256), wanted)
          << "graphs " << graphs << ", overlap " << overlap;
      EXPECT_EQ(run_together(*engine, 256), wanted) << "again";
    }
  }
}

TEST_F(F44RanksOnCuda, DraftsOfAllRanksAreCommitted) {
  EngineSetup setup;
  setup.checkpoint = "golden_a";
  setup.batch_invariant = true;
  setup.ranks = 2;
  Request request = make_request({}, 40);
  for (int i = 0; i < 60; ++i) request.prompt.push_back(3 + i % 5);
  request.ignore_eos = true;
  request.sampling.repetition_penalty = 0.3f;
  const Output wanted = run_alone(*make_engine(setup), request);
  setup.draft_tokens = 3;
  const auto engine = make_engine(setup);
  EXPECT_EQ(run_alone(*engine, request), wanted);
  EXPECT_GT(engine->stats().accepted_tokens, 0);
}

}  // namespace
}  // namespace hybridattn::engine
