// Steps that are ordered before the last one's tokens are read, F19 and F51: every request says
// what it says when each step waits, whatever comes, ends, is cancelled or preempted meanwhile. On
// the CPU too, over weights that are moved as a GPU's are.
#include <algorithm>

#include "tests/engine/serve/engine_test_support.h"

namespace hybridattn::engine {
namespace {

EngineSetup moved(bool overlap) {
  EngineSetup setup;
  setup.checkpoint = "tiny-model";
  setup.weights = WeightFormat::kJoined;
  setup.overlap = overlap;
  setup.chunk = 24;
  setup.max_batch = 4;
  setup.page_size = 4;
  setup.tokens = 80;
  setup.batch_invariant = true;
  return setup;
}

Request greedy(std::size_t prompt, std::int32_t new_tokens, unsigned seed) {
  Request request = make_request(random_ids(prompt, 256, seed), new_tokens);
  request.ignore_eos = true;
  return request;
}

TEST(F19Overlap, TokensComeWithTheNextStep) {
  const auto waiting = make_engine(moved(false));
  const auto engine = make_engine(moved(true));
  const Output wanted = run_alone(*waiting, greedy(10, 3, 1));
  const std::uint64_t id = submit_ok(*engine, greedy(10, 3, 1));
  for (std::ptrdiff_t said = 0; said <= 3; ++said) {
    EXPECT_FALSE(engine->idle()) << said;
    Outputs outputs;
    step_ok(*engine, outputs);
    const Ids expected(wanted.ids.begin() + (said > 0 ? said - 1 : 0), wanted.ids.begin() + said);
    EXPECT_EQ(outputs[id].ids, expected) << said;
  }
  EXPECT_TRUE(engine->idle());
  EXPECT_TRUE(engine->check().ok());
}

// Rows that end in the middle while the next step is on its way: the others keep their tokens.
TEST(F51Overlap, RowsThatEndMoveNoTokens) {
  const auto waiting = make_engine(moved(false));
  std::vector<Output> wanted;
  const std::vector<std::int32_t> lengths = {9, 2, 6, 1, 4, 12, 3};
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    wanted.push_back(run_alone(*waiting, greedy(3 + i, lengths[i], static_cast<unsigned>(i))));
  }
  const auto engine = make_engine(moved(true));
  std::vector<std::uint64_t> ids;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    ids.push_back(submit_ok(*engine, greedy(3 + i, lengths[i], static_cast<unsigned>(i))));
  }
  Outputs outputs;
  run_until_idle(*engine, outputs);
  for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(outputs.at(ids[i]), wanted[i]) << i;
  EXPECT_GT(engine->stats().replayed_steps, 0);
}

// The end of a text is known one step late: what was computed behind it is dropped.
TEST(F19Overlap, NothingIsSaidBehindTheEndOfAText) {
  const auto waiting = make_engine(moved(false));
  const auto engine = make_engine(moved(true));
  const std::int32_t slots = engine->free_slots();
  int ended = 0;
  for (unsigned seed = 0; seed < 16; ++seed) {
    Request request = greedy(4 + seed % 5, 30, seed);
    request.ignore_eos = false;
    request.vocab_limit = 3;  // of which the first ends the text
    const Output wanted = run_alone(*waiting, request);
    EXPECT_EQ(run_alone(*engine, request), wanted) << seed;
    ended += wanted.finish == Finish::kEos && wanted.ids.size() > 1 ? 1 : 0;
    EXPECT_EQ(engine->free_slots(), slots);
  }
  EXPECT_GT(ended, 0) << "no text ended: the test sees nothing";
}

/// Requests of all kinds: some sampled by the host, some with a smaller vocabulary.
Request any_request(std::mt19937& generator, unsigned seed) {
  const auto length = [&](int most) { return 1 + static_cast<int>(generator() % most); };
  Request request = greedy(static_cast<std::size_t>(length(40)), length(30), seed);
  request.ignore_eos = generator() % 2 == 0;
  if (generator() % 4 == 0) request.vocab_limit = 3;
  if (generator() % 3 == 0) {
    request.sampling = {.temperature = 0.8f, .top_k = 20, .seed = seed};
  }
  return request;
}

TEST(F19Overlap, RandomSchedulesSayTheSame) {
  const auto alone = make_engine(moved(false));
  EngineSetup setup = moved(true);
  setup.memory = memory_of(setup, 40);  // of 80: requests lose their pages
  const auto engine = make_engine(setup);
  const std::int32_t pages = engine->free_pages(), slots = engine->free_slots();
  std::mt19937 generator(11);
  std::map<std::uint64_t, Request> requests;
  std::vector<std::uint64_t> cancelled;
  Outputs outputs;
  for (unsigned step = 0; step < 400; ++step) {
    if (generator() % 5 == 0) {
      const Request request = any_request(generator, step);
      requests[submit_ok(*engine, request)] = request;
    }
    if (generator() % 40 == 0) engine->pages()->fail_allocation(1 + generator() % 4);
    if (generator() % 20 == 0 && requests.size() > 4) {
      const std::uint64_t id = requests.size() - generator() % 4;
      if (engine->cancel(id).ok()) cancelled.push_back(id);
    }
    if (!engine->idle()) step_ok(*engine, outputs);
    ASSERT_TRUE(engine->check().ok()) << step;
  }
  run_until_idle(*engine, outputs);
  EXPECT_GT(engine->stats().preemptions, 0);
  EXPECT_GT(cancelled.size(), 5u);
  for (const auto& [id, request] : requests) {
    const Output wanted = run_alone(*alone, request);
    const Output& said = outputs.at(id);
    if (std::find(cancelled.begin(), cancelled.end(), id) == cancelled.end()) {
      EXPECT_EQ(said, wanted) << id;
      continue;
    }
    ASSERT_LE(said.ids.size(), wanted.ids.size()) << id;
    EXPECT_TRUE(std::equal(said.ids.begin(), said.ids.end(), wanted.ids.begin())) << id;
  }
  EXPECT_EQ(engine->free_pages(), pages);
  EXPECT_EQ(engine->free_slots(), slots);
}

// Prompts beside decodes are replayed too where weights are moved.
TEST(MixedGraphs, ReplayedStepsSayTheSame) {
  for (const bool overlap : {false, true}) {
    EngineSetup setup = moved(overlap);
    setup.graphs = false;
    const auto eager = make_engine(setup);
    setup.graphs = true;
    const auto replayed = make_engine(setup);
    std::vector<std::uint64_t> ids;
    Outputs wanted, said;
    for (unsigned i = 0; i < 6; ++i) {
      const Request request = greedy(1 + 9 * i, 7, i);
      ids.push_back(submit_ok(*eager, request));
      EXPECT_EQ(submit_ok(*replayed, request), ids.back());
    }
    run_until_idle(*eager, wanted);
    std::int64_t steps = 0;
    for (; !replayed->idle(); ++steps) step_ok(*replayed, said);
    for (const std::uint64_t id : ids) EXPECT_EQ(said.at(id), wanted.at(id)) << id;
    EXPECT_EQ(eager->stats().replayed_steps, 0);
    EXPECT_EQ(replayed->stats().replayed_steps, steps - (overlap ? 1 : 0)) << "every one";
  }
}

}  // namespace
}  // namespace hybridattn::engine
