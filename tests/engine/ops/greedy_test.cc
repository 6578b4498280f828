// The largest logit of each row.
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "engine/ops/greedy.h"
#include "tests/engine/ops/engine_op.h"

namespace hybridattn::engine {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

class Greedy : public EngineOp {
 protected:
  /// Ids and whether all are finite, row by row.
  std::vector<std::pair<std::int32_t, bool>> choose(const std::vector<double>& values,
                                                    const std::vector<std::int32_t>& limits) {
    const auto rows = static_cast<std::int64_t>(limits.size());
    const auto vocab = static_cast<std::int64_t>(values.size()) / rows;
    Buffer logits(DType::kF32, {rows, vocab}, Layout::kSliced);
    logits.fill(values);
    hybridattn::testing::Bytes scratch(greedy_scratch_bytes(rows), 0xff);
    hybridattn::testing::Bytes out(limits.size() * sizeof(NextToken), 0xff);
    auto* tokens = reinterpret_cast<NextToken*>(out.data());
    const Ints of_rows(limits);
    EXPECT_TRUE(greedy_tokens(context(), logits.view(), of_rows.data(),
                              reinterpret_cast<std::byte*>(scratch.data()), tokens)
                    .ok());
    EXPECT_TRUE(context().synchronize().ok());
    std::vector<std::pair<std::int32_t, bool>> chosen;
    for (std::size_t i = 0; i < limits.size(); ++i) {
      chosen.emplace_back(tokens[i].id, tokens[i].finite != 0);
    }
    return chosen;
  }
  using Chosen = std::vector<std::pair<std::int32_t, bool>>;
};

TEST_F(Greedy, TheFirstOfTheLargestBelowTheLimit) {
  EXPECT_EQ(choose({-1, -1, -1, -1, -2, 3, 3, 4, -5, -4, -6, -7}, {4, 3, 4}),
            (Chosen{{0, true}, {1, true}, {1, true}}));
  EXPECT_EQ(choose({-1, -0.0, 0, -3}, {4}), (Chosen{{1, true}})) << "both zeros are equal";
}

TEST_F(Greedy, WhatIsNotFiniteIsTold) {
  EXPECT_EQ(choose({kNan, 1, kNan, 2}, {4}), (Chosen{{3, false}})) << "a NaN never wins";
  EXPECT_EQ(choose({1, kInf, 0, 2}, {4}), (Chosen{{1, false}}));
  EXPECT_EQ(choose({1, -kInf, 0, 2}, {4}), (Chosen{{3, false}}));
  EXPECT_EQ(choose({1, 0, 0, kNan}, {3}), (Chosen{{0, false}})) << "beyond the limit too";
  EXPECT_EQ(choose({-kNan, kNan}, {2}), (Chosen{{0, false}}));
  EXPECT_EQ(choose({kNan, -kInf}, {2}), (Chosen{{1, false}}));
}

TEST_F(Greedy, LongRowsInParts) {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  for (const std::int64_t vocab : {1, 31, 1024, 1025, 100'003}) {
    for (const std::int64_t rows : {1, 3, 40}) {
      std::vector<double> values(static_cast<std::size_t>(rows * vocab));
      for (double& value : values) value = normal(generator);
      Chosen wanted;
      std::vector<std::int32_t> limits;
      for (std::int64_t r = 0; r < rows; ++r) {
        const auto limit = static_cast<std::int32_t>(vocab - (r % 2 == 1 && vocab > 40 ? 37 : 0));
        const auto first = values.begin() + r * vocab;
        limits.push_back(limit);
        wanted.emplace_back(std::max_element(first, first + limit) - first, true);
      }
      EXPECT_EQ(choose(values, limits), wanted) << vocab << " " << rows;
    }
  }
}

}  // namespace
}  // namespace hybridattn::engine
