// F14: requests that lose their pages are computed again and go on as if nothing had been; the
// oldest always goes on.
#include "tests/engine/serve/engine_test_support.h"

namespace hybridattn::engine {
namespace {

Request growing(std::size_t prompt, std::int32_t new_tokens, unsigned seed) {
  Request request = make_request(random_ids(prompt, 512, seed), new_tokens);
  request.ignore_eos = true;
  return request;
}

struct Case {
  const char* checkpoint;
  bool chunk_invariant;
  std::int32_t draft_tokens;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.checkpoint << (c.chunk_invariant ? "_chunk_invariant" : "") << "_drafts_"
       << c.draft_tokens;
}

class F14Preemption : public ::testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Cases, F14Preemption,
                         ::testing::Values(Case{"golden_a", true, 0}, Case{"golden_a", true, 3},
                                           Case{"golden_a", true, 1},
                                           Case{"golden_moe_stacked", true, 0}));

TEST_P(F14Preemption, TokensAreThoseOfAnUninterruptedRun) {
  EngineSetup setup;
  setup.checkpoint = GetParam().checkpoint;
  setup.chunk = 64;
  setup.max_batch = 4;
  setup.page_size = 4;
  setup.tokens = 200;
  setup.chunk_invariant = GetParam().chunk_invariant;
  setup.draft_tokens = GetParam().draft_tokens;
  const auto alone = make_engine(setup);
  setup.memory = memory_of(setup, 30);  // 120 tokens; four requests want 60 each
  const auto engine = make_engine(setup);
  const std::int32_t pages = engine->free_pages();
  EXPECT_EQ(pages, 30);
  std::map<std::uint64_t, Request> requests;
  for (unsigned i = 0; i < 7; ++i) {
    const Request request = growing(5 + 7 * i, 60 - 7 * static_cast<std::int32_t>(i), i);
    requests[submit_ok(*engine, request)] = request;
  }
  Outputs outputs;
  run_until_idle(*engine, outputs);
  EXPECT_GT(engine->stats().preemptions, 2);
  EXPECT_EQ(engine->free_pages(), pages);
  EXPECT_EQ(engine->free_slots(), 4);
  for (const auto& [id, request] : requests) {
    EXPECT_EQ(outputs.at(id), run_alone(*alone, request)) << "request " << id;
  }
  EXPECT_EQ(alone->stats().preemptions, 0);
}

class F56FailedAllocationOfTheEngine : public ::testing::TestWithParam<bool> {};

/// Whichever allocation of a page or a slot fails, nothing is lost and all come to their end.
TEST_P(F56FailedAllocationOfTheEngine, IsTriedAgainWithTheSameTokens) {
  EngineSetup setup;
  setup.overlap = GetParam();
  setup.chunk = 64;
  setup.max_batch = 3;
  setup.page_size = 4;
  setup.tokens = 100;
  setup.chunk_invariant = true;
  const auto alone = make_engine(setup);
  std::vector<Request> requests;
  std::vector<Output> wanted;
  for (unsigned i = 0; i < 3; ++i) {
    requests.push_back(growing(9 + 20 * i, 10, i));
    wanted.push_back(run_alone(*alone, requests.back()));
  }
  const auto engine = make_engine(setup);
  const std::int32_t pages = engine->free_pages();
  for (HandleAllocator* allocator : {engine->pages(), engine->slots()}) {
    for (std::int64_t k = 1; k <= 30; ++k) {
      allocator->fail_allocation(k);
      std::vector<std::uint64_t> ids;
      for (const Request& request : requests) ids.push_back(submit_ok(*engine, request));
      Outputs outputs;
      run_until_idle(*engine, outputs);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        EXPECT_EQ(outputs.at(ids[i]), wanted[i]) << "allocation " << k << ", request " << i;
      }
      EXPECT_EQ(engine->free_pages(), pages);
      EXPECT_EQ(engine->free_slots(), 3);
    }
  }
  // Where a step is in flight, what cannot have a page waits for its end, and then there is one.
  const bool flies = setup.overlap && engine->model().weights().on_device();
  EXPECT_EQ(engine->stats().preemptions > 5, !flies);
}
INSTANTIATE_TEST_SUITE_P(Overlap, F56FailedAllocationOfTheEngine, ::testing::Bool());

TEST(F14PreemptionOrder, TheOldestIsNeverTheOneToWait) {
  EngineSetup setup;
  setup.max_batch = 3;
  setup.page_size = 4;
  setup.overlap = false;  // steps are counted
  setup.memory = memory_of(setup, 20);
  const auto engine = make_engine(setup);
  std::vector<std::uint64_t> ids;
  for (unsigned i = 0; i < 3; ++i) ids.push_back(submit_ok(*engine, growing(8, 60, i)));
  Outputs outputs;
  std::size_t before = 0;
  while (outputs[ids[0]].finish == Finish::kNone) {
    step_ok(*engine, outputs);
    EXPECT_EQ(outputs[ids[0]].ids.size(), before + 1) << "it gives a token in every step";
    before = outputs[ids[0]].ids.size();
  }
  EXPECT_GT(engine->stats().preemptions, 0);
  run_until_idle(*engine, outputs);
  for (const std::uint64_t id : ids) EXPECT_EQ(outputs.at(id).ids.size(), 60u);
}

TEST(F14PreemptionOrder, OneThatWaitsAgainCanBeCancelled) {
  EngineSetup setup;
  setup.max_batch = 2;
  setup.page_size = 4;
  setup.memory = memory_of(setup, 20);
  const auto engine = make_engine(setup);
  const std::uint64_t first = submit_ok(*engine, growing(8, 60, 1));
  const std::uint64_t second = submit_ok(*engine, growing(8, 60, 2));
  Outputs outputs;
  while (engine->stats().preemptions == 0) step_ok(*engine, outputs);
  const std::size_t said = outputs.at(second).ids.size();
  ASSERT_TRUE(engine->cancel(second).ok());
  run_until_idle(*engine, outputs);
  EXPECT_EQ(outputs.at(second).finish, Finish::kCancelled);
  EXPECT_EQ(outputs.at(second).ids.size(), said);
  EXPECT_EQ(outputs.at(first).finish, Finish::kLength);
  EXPECT_EQ(engine->free_pages(), 20);
}

}  // namespace
}  // namespace hybridattn::engine
