// Alone = together: a request's tokens do not depend on neighbours, on chunks or on when it came.
#include <algorithm>
#include <numeric>

#include "tests/engine/serve/engine_test_support.h"

namespace hybridattn::engine {
namespace {

constexpr std::int32_t kNewTokens = 6;
const std::vector<std::size_t> kLengths = {1, 2, 3, 63, 64, 65, 200, 513};

Request prompt_request(std::size_t index, unsigned seed = 100) {
  Request request = make_request(
      random_ids(kLengths[index], 512, seed + static_cast<unsigned>(index)), kNewTokens);
  request.ignore_eos = true;
  return request;
}

/// Each prompt by itself, its prefill in one piece. In bf16 as engines that promise the same bits
/// do: others may take another order of sums on a GPU.
const std::vector<Output>& alone(const std::string& checkpoint, DType dtype) {
  static std::map<std::pair<std::string, DType>, std::vector<Output>> known;
  std::vector<Output>& outputs = known[{checkpoint, dtype}];
  if (!outputs.empty()) return outputs;
  const auto engine = make_engine({.checkpoint = checkpoint,
                                   .dtype = dtype,
                                   .chunk = 1024,
                                   .max_batch = 1,
                                   .chunk_invariant = dtype == DType::kBF16});
  for (std::size_t i = 0; i < kLengths.size(); ++i) {
    outputs.push_back(run_alone(*engine, prompt_request(i)));
  }
  return outputs;
}

void expect_alone(const std::string& checkpoint, DType dtype, std::span<const std::size_t> order,
                  std::span<const std::uint64_t> ids, const Outputs& outputs) {
  for (std::size_t i = 0; i < order.size(); ++i) {
    EXPECT_EQ(outputs.at(ids[i]), alone(checkpoint, dtype)[order[i]])
        << checkpoint << ", prompt of " << kLengths[order[i]] << " tokens";
  }
}

/// All prompts at once, in the order given.
void expect_same_together(const EngineSetup& setup, std::span<const std::size_t> order) {
  SCOPED_TRACE(concat(setup.checkpoint, ", chunk ", setup.chunk, ", max_batch ", setup.max_batch));
  const auto engine = make_engine(setup);
  const std::int32_t pages = engine->free_pages();
  const std::int32_t slots = engine->free_slots();
  std::vector<std::uint64_t> ids;
  for (const std::size_t i : order) ids.push_back(submit_ok(*engine, prompt_request(i)));
  Outputs outputs;
  run_until_idle(*engine, outputs);
  expect_alone(setup.checkpoint, setup.dtype, order, ids, outputs);
  EXPECT_EQ(engine->free_pages(), pages);
  EXPECT_EQ(engine->free_slots(), slots);
}

std::vector<std::size_t> in_order() {
  std::vector<std::size_t> order(kLengths.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  return order;
}

class F16AloneIsTogether : public ::testing::TestWithParam<const char*> {};

TEST_P(F16AloneIsTogether, AllChunksAndBatches) {
  for (const std::int32_t max_batch : {1, 3, 8}) {
    for (const std::int32_t chunk : {7, 64, 100, 512}) {
      expect_same_together({.checkpoint = GetParam(), .chunk = chunk, .max_batch = max_batch},
                           in_order());
    }
  }
}

TEST_P(F16AloneIsTogether, OneTokenChunks) {
  expect_same_together({.checkpoint = GetParam(), .chunk = 1, .max_batch = 8}, in_order());
}

TEST_P(F16AloneIsTogether, AnyOrder) {
  std::vector<std::size_t> order = in_order();
  std::mt19937 generator(5);
  for (int repeat = 0; repeat < 3; ++repeat) {
    std::shuffle(order.begin(), order.end(), generator);
    expect_same_together({.checkpoint = GetParam(), .chunk = 100}, order);
  }
}

// A new request every third step: prompts enter beside rows at any point of their decoding.
TEST_P(F16AloneIsTogether, StaggeredSubmits) {
  const auto engine = make_engine({.checkpoint = GetParam(), .chunk = 50, .max_batch = 4});
  const std::vector<std::size_t> order = {6, 0, 3, 7, 1, 4, 2, 5};
  std::vector<std::uint64_t> ids;
  Outputs outputs;
  for (const std::size_t i : order) {
    ids.push_back(submit_ok(*engine, prompt_request(i)));
    for (int steps = 0; steps < 3; ++steps) step_ok(*engine, outputs);
  }
  run_until_idle(*engine, outputs);
  expect_alone(GetParam(), DType::kF32, order, ids, outputs);
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, F16AloneIsTogether, ::testing::Values("golden_a", "golden_c"),
                         [](const auto& tested) { return std::string(tested.param); });

// Where a prompt is cut shows in bf16, within the bounds; on the grid of 64 it does not.
TEST(F16AloneIsTogetherBf16, Tokens) {
  for (const std::int32_t chunk : {64, 512}) {
    expect_same_together({.dtype = DType::kBF16, .chunk = chunk, .chunk_invariant = true},
                         in_order());
  }
}

// Draws belong to the request: its seed, and how many tokens it has.
TEST(Sampling, SeedGivesTheSameTokensAloneAndTogether) {
  const auto sampled = [](std::size_t i) {
    Request request = prompt_request(i);
    request.max_new_tokens = 12;
    request.sampling = {.temperature = 0.9f, .top_k = 50, .top_p = 0.95f, .seed = 1000 + i};
    return request;
  };
  const auto engine = make_engine({});
  std::vector<Output> wanted;
  for (std::size_t i = 0; i < kLengths.size(); ++i)
    wanted.push_back(run_alone(*engine, sampled(i)));
  EXPECT_EQ(run_alone(*engine, sampled(3)), wanted[3]) << "a second time";
  std::vector<std::uint64_t> ids;
  for (std::size_t i = 0; i < kLengths.size(); ++i) ids.push_back(submit_ok(*engine, sampled(i)));
  Outputs outputs;
  run_until_idle(*engine, outputs);
  for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(outputs.at(ids[i]), wanted[i]) << i;
  Request other = sampled(3);
  other.sampling.seed = 7;
  EXPECT_NE(run_alone(*engine, other), wanted[3]) << "another seed";
}

// Slots and pages go from one request to the next; what they hold must not matter (the pools start
// full of NaN, and end full of others' states).
TEST(F12FormerOwner, ReusedSlotsAndPages) {
  const auto engine = make_engine({.chunk = 64, .max_batch = 1, .tokens = 520});
  for (int round = 0; round < 2; ++round) {
    for (const std::size_t i : {std::size_t{7}, std::size_t{0}, std::size_t{5}, std::size_t{1}}) {
      EXPECT_EQ(run_alone(*engine, prompt_request(i)), alone("golden_a", DType::kF32)[i]);
    }
  }
}

}  // namespace
}  // namespace hybridattn::engine
