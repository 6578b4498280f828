// Requests that end early, wait, are refused or fail: nothing leaks and nobody else notices.
#include <algorithm>

#include "tests/engine/checkpoint/checkpoint_test_support.h"
#include "tests/engine/serve/engine_test_support.h"

namespace hybridattn::engine {
namespace {

Request plain(std::size_t length, std::int32_t max_new_tokens, unsigned seed = 1) {
  Request request = make_request(random_ids(length, 512, seed), max_new_tokens);
  request.ignore_eos = true;
  return request;
}

/// The engine with its capacity, which must be there again when it is idle.
class Ledger : public ::testing::Test {
 protected:
  void start(const EngineSetup& setup) {
    engine_ = make_engine(setup);
    pages_ = engine_->free_pages();
    slots_ = engine_->free_slots();
  }
  void expect_all_free() {
    EXPECT_TRUE(engine_->idle());
    EXPECT_EQ(engine_->free_pages(), pages_);
    EXPECT_EQ(engine_->free_slots(), slots_);
    EXPECT_TRUE(engine_->check().ok()) << engine_->check().message();
  }
  Engine& engine() { return *engine_; }

  std::unique_ptr<Engine> engine_;
  std::int32_t pages_ = 0;
  std::int32_t slots_ = 0;
  Outputs outputs_;
};

using F59LedgerOfTheEngine = Ledger;

TEST_F(F59LedgerOfTheEngine, CancelWaitingPrefillingAndDecoding) {
  start({.chunk = 16, .max_batch = 2});
  const Output wanted = run_alone(engine(), plain(40, 12, 1));
  const std::uint64_t stays = submit_ok(engine(), plain(40, 12, 1));
  const std::uint64_t prefills = submit_ok(engine(), plain(300, 12, 2));
  const std::uint64_t waits = submit_ok(engine(), plain(40, 12, 3));
  for (int i = 0; i < 4; ++i) step_ok(engine(), outputs_);
  EXPECT_TRUE(engine().cancel(waits).ok());
  EXPECT_TRUE(engine().cancel(prefills).ok());
  const std::uint64_t decodes = submit_ok(engine(), plain(3, 500, 4));
  for (int i = 0; i < 4; ++i) step_ok(engine(), outputs_);
  EXPECT_FALSE(outputs_.at(decodes).ids.empty());
  EXPECT_TRUE(engine().cancel(decodes).ok());
  run_until_idle(engine(), outputs_);
  EXPECT_EQ(outputs_.at(stays), wanted);
  for (const std::uint64_t id : {waits, prefills, decodes}) {
    EXPECT_EQ(outputs_.at(id).finish, Finish::kCancelled);
  }
  EXPECT_TRUE(outputs_.at(waits).ids.empty());
  EXPECT_TRUE(outputs_.at(prefills).ids.empty());
  expect_all_free();
  expect_error(engine().cancel(stays), StatusCode::kNotFound, {"request"});
}

// At each step of a request's life in turn.
TEST_F(F59LedgerOfTheEngine, CancelAfterAnyNumberOfSteps) {
  start({.chunk = 16, .max_batch = 2});
  for (int steps = 0; steps < 8; ++steps) {
    const std::uint64_t id = submit_ok(engine(), plain(50, 4));
    for (int i = 0; i < steps && !engine().idle(); ++i) step_ok(engine(), outputs_);
    const bool over = outputs_[id].finish != Finish::kNone;
    EXPECT_EQ(engine().cancel(id).ok(), !over) << steps;
    run_until_idle(engine(), outputs_);
    EXPECT_EQ(outputs_.at(id).finish, over ? Finish::kLength : Finish::kCancelled) << steps;
    expect_all_free();
  }
}

TEST_F(F59LedgerOfTheEngine, RandomSchedule) {
  start({.chunk = 24, .max_batch = 3, .tokens = 96});
  std::mt19937 generator(17);
  const auto roll = [&](int sides) {
    return static_cast<int>(generator() % static_cast<unsigned>(sides));
  };
  std::map<std::uint64_t, Request> requests;
  for (int step = 0; step < 300; ++step) {
    if (roll(3) == 0) {
      const auto length = static_cast<std::size_t>(1 + roll(70));
      const std::int32_t new_tokens = roll(20);
      const Request request = plain(length, new_tokens, static_cast<unsigned>(step));
      const std::uint64_t id = submit_ok(engine(), request);
      requests[id] = request;
      outputs_[id];
    }
    if (roll(12) == 0 && !requests.empty()) {
      auto it = requests.begin();
      std::advance(it, roll(static_cast<int>(requests.size())));
      const Status cancelled = engine().cancel(it->first);
      EXPECT_TRUE(cancelled.ok() || cancelled.code() == StatusCode::kNotFound);
    }
    step_ok(engine(), outputs_);
  }
  run_until_idle(engine(), outputs_);
  expect_all_free();
  // Those that came to their end have the tokens they have alone; the others a part of them.
  for (const auto& [id, request] : requests) {
    const Output& output = outputs_.at(id);
    ASSERT_NE(output.finish, Finish::kNone) << id;
    const Output wanted = run_alone(engine(), request);
    ASSERT_LE(output.ids.size(), wanted.ids.size());
    EXPECT_TRUE(std::equal(output.ids.begin(), output.ids.end(), wanted.ids.begin())) << id;
    if (output.finish == Finish::kLength) {
      EXPECT_EQ(output, wanted) << id;
    }
  }
}

// Room for little more than one request: the others wait their turn.
TEST_F(F59LedgerOfTheEngine, SmallMemoryFinishesAllInTurn) {
  const Output wanted = run_alone(*make_engine({}), plain(100, 8));
  const auto probe = make_engine({.tokens = 128});
  const MemoryReport one = probe->memory();
  const std::int64_t states = one.states;
  const std::int64_t kv_of_one = one.kv / 8;  // max_batch 8
  start({.memory = states + kv_of_one});
  EXPECT_EQ(engine().memory().kv + engine().memory().states, states + kv_of_one);
  std::vector<std::uint64_t> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(submit_ok(engine(), plain(100, 8)));
  step_ok(engine(), outputs_);
  EXPECT_EQ(engine().free_slots(), slots_ - 1) << "one runs";
  run_until_idle(engine(), outputs_);
  for (const std::uint64_t id : ids) EXPECT_EQ(outputs_.at(id), wanted);
  expect_all_free();
  const Result<std::uint64_t> refused = engine().submit(plain(100, 60));
  expect_error(refused.status(), StatusCode::kResourceExhausted, {"160", "128"});
}

TEST_F(F59LedgerOfTheEngine, MemoryForNoPageIsRefused) {
  EngineOptions options;
  Result<std::unique_ptr<Engine>> loaded = Engine::load(checkpoint_path("golden_a"), options);
  ASSERT_TRUE(loaded.ok());
  expect_error((*loaded)->allocate_caches({0, 1000}), StatusCode::kResourceExhausted, {"1000"});
  expect_error((*loaded)->allocate_caches({0, 0}), StatusCode::kInvalidArgument, {"0"});
  expect_error((*loaded)->step().status(), StatusCode::kFailedPrecondition, {"allocate_caches"});
  expect_error((*loaded)->submit(plain(2, 2)).status(), StatusCode::kFailedPrecondition,
               {"allocate_caches"});
  EXPECT_TRUE((*loaded)->allocate_caches({64, 0}).ok()) << "a refusal changes nothing";
  expect_error((*loaded)->allocate_caches({64, 0}), StatusCode::kFailedPrecondition, {});
}

TEST_F(F59LedgerOfTheEngine, BytesAreThoseOfTheAllocator) {
  PoisonAllocator allocator;
  {
    const auto engine = make_engine({.tokens = 200, .allocator = &allocator});
    const MemoryReport report = engine->memory();
    EXPECT_GT(report.kv, 0);
    EXPECT_GT(report.states, 0);
    // Weights are not the allocator's but on a GPU, where the first step that is not replayed makes
    // room for its plan besides.
    const bool on_gpu = engine->model().weights().on_device();
    const std::int64_t held = report.kv + report.states + (on_gpu ? report.weights : 0);
    EXPECT_GT(report.workspace, 0);
    EXPECT_EQ(held + report.workspace, allocator.live_bytes());
    if (on_gpu) static_cast<void>(run_alone(*engine, plain(150, 4)));
    const std::int64_t before = allocator.live_bytes();
    static_cast<void>(run_alone(*engine, plain(150, 4)));
    EXPECT_EQ(allocator.live_bytes(), before)
        << "a step within the reserved size allocates nothing";
  }
  EXPECT_EQ(allocator.live_bytes(), 0);
}

// No memory at any point of loading, of making caches, of the steps: an error, and nothing is lost.
TEST_F(F59LedgerOfTheEngine, AllocatorThatGivesNothing) {
  PoisonAllocator allocator;
  bool complete = false;
  for (int gives = 0; gives < 60 && !complete; ++gives) {
    allocator.set_gives(gives);
    EngineOptions options;
    options.context.threads = 1;
    options.context.allocator = &allocator;
    Result<std::unique_ptr<Engine>> engine =
        Engine::load(checkpoint_path("golden_moe_stacked"), options);
    Status status = engine.status();
    if (status.ok()) status = (*engine)->allocate_caches({64, 0});
    if (status.ok()) status = (*engine)->submit(plain(10, 3)).status();
    while (status.ok() && !(*engine)->idle()) {
      status = (*engine)->step().status();
      EXPECT_TRUE((*engine)->check().ok()) << (*engine)->check().message();
    }
    complete = status.ok();
    if (!complete) {
      EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << gives << ": " << status.message();
    }
    if (engine.ok()) engine->reset();
    EXPECT_EQ(allocator.live_bytes(), 0) << gives;
  }
  EXPECT_TRUE(complete);
}

TEST_F(F59LedgerOfTheEngine, EndOfTextAndIgnoringIt) {
  start({.checkpoint = "tiny-model"});
  const std::int32_t eos = engine().model().config().eos_token_ids.at(0);
  // The best token that follows the prompt is made the end of text by leaving no other.
  Request request = make_request({5, 6, 7}, 4);
  request.vocab_limit = eos + 1;
  ASSERT_EQ(eos, 0);
  EXPECT_EQ(run_alone(engine(), request), (Output{{eos}, Finish::kEos}));
  request.ignore_eos = true;
  EXPECT_EQ(run_alone(engine(), request), (Output{{eos, eos, eos, eos}, Finish::kLength}));
  expect_all_free();
}

TEST_F(F59LedgerOfTheEngine, NoNewTokens) {
  start({});
  EXPECT_EQ(run_alone(engine(), plain(5, 0)), (Output{{}, Finish::kLength}));
  EXPECT_EQ(run_alone(engine(), plain(1, 1)).ids.size(), 1u) << "a prompt of one token";
  expect_all_free();
}

TEST_F(F59LedgerOfTheEngine, BadRequestsAreRefused) {
  start({.tokens = 64});
  expect_error(engine().submit(plain(0, 1)).status(), StatusCode::kInvalidArgument, {"empty"});
  expect_error(engine().submit(make_request({1, 512}, 1)).status(), StatusCode::kOutOfRange,
               {"512", "position 1", "[0, 512)"});
  expect_error(engine().submit(make_request({-1}, 1)).status(), StatusCode::kOutOfRange,
               {"-1", "position 0"});
  expect_error(engine().submit(plain(3, -1)).status(), StatusCode::kInvalidArgument,
               {"max_new_tokens", "-1"});
  expect_error(engine().submit(plain(60, 5)).status(), StatusCode::kResourceExhausted,
               {"65", "64"});
  expect_error(engine().submit(plain(40000, 0)).status(), StatusCode::kOutOfRange,
               {"40000", "32768"});
  Request hot = plain(3, 1);
  hot.sampling.temperature = -1;
  expect_error(engine().submit(hot).status(), StatusCode::kInvalidArgument, {"temperature", "-1"});
  expect_all_free();
  EXPECT_EQ(run_alone(engine(), plain(60, 4)).ids.size(), 4u) << "exactly what fits";
  expect_all_free();
}

TEST_F(F59LedgerOfTheEngine, ScoringBesideRequestsIsRefused) {
  start({});
  static_cast<void>(submit_ok(engine(), plain(3, 2)));
  const Ids ids = {1, 2, 3};
  expect_error(engine().score(ids, 8).status(), StatusCode::kFailedPrecondition, {"idle"});
  run_until_idle(engine(), outputs_);
  EXPECT_TRUE(engine().score(ids, 8).ok());
  expect_error(engine().score(ids, 0).status(), StatusCode::kInvalidArgument, {"chunk", "0"});
  expect_error(engine().score({}, 8).status(), StatusCode::kInvalidArgument, {"empty"});
  expect_all_free();
}

// All prompts of a step share its chunk: a step is never longer than chunk and one token a row.
TEST(Steps, PromptsShareOneChunk) {
  const auto engine = make_engine({.chunk = 16, .max_batch = 3, .overlap = false});
  Outputs outputs;
  for (const std::size_t length : {10, 10, 50})
    static_cast<void>(submit_ok(*engine, plain(length, 9)));
  for (int steps = 1; steps <= 4; ++steps) {
    step_ok(*engine, outputs);
    EXPECT_EQ(engine->stats().prefill_tokens, 16 * steps);
  }
  step_ok(*engine, outputs);
  EXPECT_EQ(engine->stats().prefill_tokens, 70);
  EXPECT_EQ(engine->stats().decode_tokens, 0);
  step_ok(*engine, outputs);
  EXPECT_EQ(engine->stats().prefill_tokens, 70);
  EXPECT_EQ(engine->stats().decode_tokens, 3);
}

TEST(EngineOptionsTest, BadOnesAreRefused) {
  const auto load = [](const EngineOptions& options) {
    return Engine::load(checkpoint_path("golden_a"), options).status();
  };
  EngineOptions chunk;
  chunk.chunk = 0;
  expect_error(load(chunk), StatusCode::kInvalidArgument, {"chunk", "0"});
  EngineOptions batch;
  batch.max_batch = -1;
  expect_error(load(batch), StatusCode::kInvalidArgument, {"max-batch", "-1"});
  EngineOptions page;
  page.page_size = 0;
  expect_error(load(page), StatusCode::kInvalidArgument, {"page_size", "0"});
  EngineOptions dtype;
  dtype.dtype = DType::kF16;
  expect_error(load(dtype), StatusCode::kInvalidArgument, {"dtype", "f16"});
}

TEST(EngineOptionsTest, ExtremeOnesTakeNoMoreThanTheCachesNeed) {
  EngineOptions options;
  options.chunk = std::numeric_limits<std::int32_t>::max();
  options.max_batch = 2;
  Result<std::unique_ptr<Engine>> engine = Engine::load(checkpoint_path("golden_a"), options);
  ASSERT_TRUE(engine.ok());
  ASSERT_TRUE((*engine)->allocate_caches({64, 0}).ok());
  EXPECT_LT((*engine)->memory().workspace, 64 << 20);
  EXPECT_EQ(run_alone(**engine, plain(20, 3)).ids.size(), 3u);
}

}  // namespace
}  // namespace hybridattn::engine
