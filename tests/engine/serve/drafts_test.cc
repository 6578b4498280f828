// Drafting changes how many tokens a step gives, never which.
#include "engine/serve/draft.h"
#include "tests/engine/checkpoint/checkpoint_test_support.h"
#include "tests/engine/serve/engine_test_support.h"

namespace hybridattn::engine {
namespace {

TEST(DraftTokens, AreWhatFollowedTheSameWordsLast) {
  EXPECT_EQ(draft_tokens(Ids{1, 2, 3, 4, 5, 1, 2, 3}, 2), (Ids{4, 5}));
  EXPECT_EQ(draft_tokens(Ids{1, 2, 3, 4, 5, 1, 2, 3}, 9), (Ids{4, 5, 1, 2, 3}));
  EXPECT_EQ(draft_tokens(Ids{1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3}, 1), (Ids{5})) << "the latest place";
  EXPECT_EQ(draft_tokens(Ids{7, 2, 3, 4, 9, 2, 3}, 2), (Ids{4, 9})) << "two words where not three";
  EXPECT_EQ(draft_tokens(Ids{6, 6, 6, 6}, 3), (Ids{6}));
  for (const Ids& none : {Ids{}, Ids{1}, Ids{1, 1}, Ids{1, 2, 3, 4}, Ids{3, 1, 2, 3}}) {
    EXPECT_TRUE(draft_tokens(none, 3).empty());
  }
  EXPECT_TRUE(draft_tokens(Ids{1, 2, 3, 4, 5, 1, 2, 3}, 0).empty());
}

/// A prompt that repeats itself and a penalty that rewards it, so that something is drafted and
/// some of it is taken.
Request repeating(std::size_t period, std::size_t length, std::int32_t new_tokens, unsigned seed) {
  const Ids part = random_ids(period, 440, seed);
  Ids prompt;
  for (std::size_t i = 0; i < length; ++i) prompt.push_back(part[i % period]);
  Request request = make_request(prompt, new_tokens);
  request.ignore_eos = true;
  request.sampling.repetition_penalty = 0.3f;
  return request;
}

class Drafts : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Checkpoints, Drafts,
                         ::testing::Values("golden_a", "golden_c", "golden_moe_split"));

std::vector<Request> some_requests() {
  std::vector<Request> requests;
  for (unsigned i = 0; i < 6; ++i) {
    requests.push_back(repeating(3 + i, 20 + 9 * i, 24, i));
    if (i % 2 == 1) {
      requests.back().sampling.temperature = 0.7f;
      requests.back().sampling.seed = i;
    }
  }
  return requests;
}

TEST_P(Drafts, GiveTheTokensOfPlainDecoding) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    EngineSetup setup;
    setup.checkpoint = GetParam();
    setup.dtype = dtype;
    setup.max_batch = 4;
    setup.chunk = 64;
    setup.chunk_invariant = true;
    const auto plain = make_engine(setup);
    std::vector<Output> wanted;
    for (const Request& request : some_requests()) wanted.push_back(run_alone(*plain, request));
    for (const std::int32_t drafts : {1, 4}) {
      setup.draft_tokens = drafts;
      const auto engine = make_engine(setup);
      std::vector<std::uint64_t> ids;
      for (const Request& request : some_requests()) ids.push_back(submit_ok(*engine, request));
      Outputs outputs;
      run_until_idle(*engine, outputs);
      for (std::size_t i = 0; i < ids.size(); ++i) {
        EXPECT_EQ(outputs.at(ids[i]), wanted[i]) << "request " << i << ", drafts of " << drafts;
      }
      EXPECT_GT(engine->stats().accepted_tokens, 0);
      EXPECT_GT(engine->stats().drafted_tokens, engine->stats().accepted_tokens);
      EXPECT_EQ(engine->free_slots(), 4);
    }
  }
}

TEST(DraftsThatHit, EndAtEndOfTextAndAtTheLimit) {
  EngineSetup setup;
  setup.checkpoint = "tiny-model";
  const auto plain = make_engine(setup);
  setup.draft_tokens = 6;
  const auto engine = make_engine(setup);
  std::int64_t accepted = 0;
  for (std::int32_t new_tokens = 1; new_tokens < 40; new_tokens += 3) {
    const Request request = repeating(5, 30, new_tokens, 9);
    EXPECT_EQ(run_alone(*engine, request), run_alone(*plain, request)) << new_tokens;
    accepted = engine->stats().accepted_tokens;
    EXPECT_LE(accepted, engine->stats().drafted_tokens);
  }
  EXPECT_GT(accepted, 20) << "a small model repeats itself";
  EXPECT_EQ(engine->stats().decode_tokens, plain->stats().decode_tokens)
      << "drafts that were not kept are not counted";
}

TEST(DraftsOptions, TooManyAreRefused) {
  EngineOptions options;
  options.draft_tokens = 65;
  expect_error(Engine::load(checkpoint_path("golden_a"), options).status(),
               StatusCode::kInvalidArgument, {"draft-tokens is 65", "0 to 64"});
}

}  // namespace
}  // namespace hybridattn::engine
