// Draws by their definition, to the token: on both devices the same.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "engine/ops/draw.h"
#include "tests/engine/ops/engine_op.h"

namespace hybridattn::engine {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

using Rows = std::vector<std::vector<float>>;

/// The definition, in plain steps.
std::int32_t by_definition(std::vector<float> row, const Draw& draw) {
  row.resize(static_cast<std::size_t>(draw.limit));
  for (float& x : row) {
    if (std::isnan(x)) x = -kInf;
  }
  std::vector<std::int32_t> order(row.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](std::int32_t id) { return row[static_cast<std::size_t>(id)]; };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int32_t a, std::int32_t b) { return logit(a) > logit(b); });
  if (draw.scale == 0) return order[0];
  const float most = logit(order[0]);
  if (draw.top_k > 0) {
    order.resize(std::min(order.size(), static_cast<std::size_t>(draw.top_k)));
  }
  const auto weight = [&](std::int32_t id) {
    return draw_weight(draw_below(logit(id), most), draw.scale);
  };
  std::uint64_t total = 0, sum = 0;
  for (const std::int32_t id : order) total += weight(id);
  std::size_t kept = order.size();
  if (draw.top_p < 1) {
    const std::uint64_t target = draw_target(draw.top_p, total);
    for (kept = 0; sum < target; ++kept) sum += weight(order[kept]);
  }
  while (draw_below(logit(order[kept - 1]), most) > draw.most_below) --kept;
  order.resize(kept);
  std::sort(order.begin(), order.end());
  sum = 0;
  for (const std::int32_t id : order) sum += weight(id);
  std::uint64_t place = draw_place(draw.random, sum);
  for (const std::int32_t id : order) {
    if (place < weight(id)) return id;
    place -= weight(id);
  }
  ADD_FAILURE() << "the place is beyond all weights";
  return -1;
}

class DrawTokens : public EngineOp {
 protected:
  std::vector<NextToken> drawn(const Rows& rows, const std::vector<Draw>& draws) {
    const auto count = static_cast<std::int64_t>(rows.size());
    const auto vocab = static_cast<std::int64_t>(rows[0].size());
    Buffer logits(DType::kF32, {count, vocab}, Layout::kSliced);
    std::vector<double> values;
    for (const auto& row : rows) values.insert(values.end(), row.begin(), row.end());
    logits.fill(values);
    hybridattn::testing::Bytes memory(draws.size() * sizeof(Draw), 0);
    std::memcpy(memory.data(), draws.data(), memory.size());
    hybridattn::testing::Bytes out(draws.size() * sizeof(NextToken), 0xff);
    auto* const tokens = reinterpret_cast<NextToken*>(out.data());
    EXPECT_TRUE(draw_tokens(context(), logits.view(), draws.data(),
                            reinterpret_cast<const Draw*>(memory.data()), tokens)
                    .ok());
    EXPECT_TRUE(context().synchronize().ok());
    return {tokens, tokens + draws.size()};
  }
  void expect_definition(const Rows& rows, const std::vector<Draw>& draws) {
    const std::vector<NextToken> tokens = drawn(rows, draws);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const bool finite =
          std::all_of(rows[i].begin(), rows[i].end(), [](float x) { return std::isfinite(x); });
      EXPECT_EQ(tokens[i].id, by_definition(rows[i], draws[i])) << i;
      EXPECT_EQ(tokens[i].finite != 0, finite) << i;
    }
  }
  /// Each filter alone and all of them, at several temperatures.
  std::vector<Draw> filters(std::int32_t limit) {
    std::vector<Draw> out;
    for (const float scale : {0.0f, 0.4f, 1.44f, 7.0f, 1e30f, kInf}) {
      for (const std::int32_t top_k : {0, 1, 2, 20, 500, 1 << 30}) {
        for (const float top_p : {1.0f, 0.95f, 0.3f, 1e-9f}) {
          for (const float most_below : {kInf, 3.0f, 0.0f}) {
            out.push_back({limit, top_k, scale, top_p, most_below, generator_()});
          }
        }
      }
    }
    return out;
  }
  std::vector<float> normal(std::size_t count, float deviation) {
    std::normal_distribution<float> value(0, deviation);
    std::vector<float> row(count);
    for (float& x : row) x = value(generator_);
    return row;
  }

  std::mt19937_64 generator_{7};
};

TEST(DrawWeight, IsAPowerOfTwoToAFewUnits) {
  EXPECT_EQ(draw_weight(0, 1), std::uint64_t{1} << 40);
  EXPECT_EQ(draw_weight(0, kInf), std::uint64_t{1} << 40);
  EXPECT_EQ(draw_weight(1, 1), std::uint64_t{1} << 39);
  EXPECT_EQ(draw_weight(kInf, 1), 0u);
  EXPECT_EQ(draw_weight(41, 1), 0u);
  for (float x = 0.001f; x < 41; x += 0.0137f) {
    const double exact = std::exp2(40 - static_cast<double>(x));
    EXPECT_NEAR(static_cast<double>(draw_weight(x, 1)), exact, exact * 6e-8 + 1) << x;
  }
}

TEST_F(DrawTokens, EveryFilter) {
  const std::vector<Draw> draws = filters(1000);
  Rows rows(draws.size());
  for (auto& row : rows) row = normal(1037, 2);
  expect_definition(rows, draws);
}

TEST_F(DrawTokens, EqualLogitsInTheOrderOfTheirIds) {
  const std::vector<Draw> draws = filters(300);
  Rows rows(draws.size());
  for (auto& row : rows) {
    row = normal(300, 1);
    for (float& x : row) x = std::round(x);  // a few values, and both zeros
  }
  expect_definition(rows, draws);
  for (auto& row : rows) row.assign(300, -2.5f);
  expect_definition(rows, draws);
}

TEST_F(DrawTokens, WhatIsNotFinite) {
  const std::vector<Draw> draws = filters(40);
  for (const std::vector<float>& special :
       {std::vector<float>{kNan, kNan}, {kInf, kInf}, {-kInf}, {kNan, kInf, -kInf}}) {
    Rows rows(draws.size());
    for (auto& row : rows) {
      row = normal(40, 2);
      for (const float x : special) row[generator_() % 40] = x;
    }
    expect_definition(rows, draws);
  }
  expect_definition(Rows(draws.size(), std::vector<float>(40, -kInf)), draws);
  expect_definition(Rows(draws.size(), std::vector<float>(40, kNan)), draws);
}

TEST_F(DrawTokens, LongRowsNarrowAndWide) {
  std::vector<Draw> draws;
  Rows rows;
  for (const float deviation : {0.001f, 0.3f, 3.0f, 100.0f}) {
    for (const auto& [top_k, top_p] : std::vector<std::pair<std::int32_t, float>>{
             {0, 1}, {20, 0.8f}, {0, 0.95f}, {5000, 0.5f}}) {
      draws.push_back({150'001, top_k, 1.6f, top_p, kInf, generator_()});
      rows.push_back(normal(151'936, deviation));
    }
  }
  expect_definition(rows, draws);
}

}  // namespace
}  // namespace hybridattn::engine
