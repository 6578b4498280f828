// Routing to experts, and the sum of what they give.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "engine/ops/moe.h"

namespace hybridattn::engine {
namespace {

using Floats = std::vector<float>;

Routing route_rows(const Floats& logits, std::int64_t experts, std::int32_t top_k, bool normalize) {
  Routing routing;
  const auto tokens = std::ssize(logits) / experts;
  route(ConstTensorView(logits.data(), DType::kF32, {tokens, experts}), top_k, normalize, routing);
  return routing;
}

Floats random_floats(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  Floats values(count);
  for (float& x : values) x = normal(generator);
  return values;
}

TEST(Routing, BestFirstAndTiesToTheLowerIndex) {
  const Routing routing =
      route_rows({0, 2, 1, 2, /**/ 5, 5, 5, 5, /**/ -1, -3, -2, -4}, 4, 2, true);
  EXPECT_EQ(routing.experts, (std::vector<std::int32_t>{1, 3, 0, 1, 0, 2}));
  EXPECT_EQ(routing.weights[0], 0.5f);
  EXPECT_EQ(routing.weights[2], 0.5f);
}

TEST(Routing, WeightsAreTheSoftmaxOverAll) {
  const std::size_t experts = 8;
  const Floats logits = random_floats(5 * experts, 1);
  const Routing plain = route_rows(logits, experts, 3, false);
  const Routing normal = route_rows(logits, experts, 3, true);
  for (std::size_t t = 0; t < 5; ++t) {
    double total = 0;
    for (std::size_t e = 0; e < experts; ++e)
      total += std::exp(static_cast<double>(logits[t * experts + e]));
    double chosen = 0;
    double sum = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      const auto e = static_cast<std::size_t>(plain.experts[t * 3 + j]);
      const double wanted = std::exp(static_cast<double>(logits[t * experts + e])) / total;
      EXPECT_NEAR(plain.weights[t * 3 + j], wanted, 1e-6);
      chosen += wanted;
      sum += normal.weights[t * 3 + j];
    }
    EXPECT_NEAR(normal.weights[t * 3], plain.weights[t * 3] / chosen, 1e-6);
    EXPECT_NEAR(sum, 1, 1e-6);
  }
}

TEST(Routing, LargeLogitsDoNotOverflow) {
  const Routing routing = route_rows({1000, 999, -1000}, 3, 2, true);
  EXPECT_NEAR(routing.weights[0], 1 / (1 + std::exp(-1.0)), 1e-6);
}

// Everyone's choices, grouped: expert e serves entries [offsets[e], offsets[e + 1]), its tokens
// rise.
TEST(Routing, GroupsByExpert) {
  const std::int32_t experts = 7;
  const std::int32_t top_k = 3;
  const std::size_t tokens = 50;
  const Routing routing = route_rows(random_floats(tokens * 7, 2), experts, top_k, true);
  ASSERT_EQ(routing.offsets.size(), 8u);
  EXPECT_EQ(routing.offsets.front(), 0);
  EXPECT_EQ(routing.offsets.back(), static_cast<std::int32_t>(tokens) * top_k);
  std::set<std::int32_t> entries;
  for (std::size_t i = 0; i < tokens * 3; ++i) {
    const std::int32_t entry = routing.entries[i];
    EXPECT_TRUE(entries.insert(entry).second) << "entry " << entry << " twice";
    const auto expert = static_cast<std::size_t>(routing.experts[i]);
    EXPECT_GE(entry, routing.offsets[expert]);
    EXPECT_LT(entry, routing.offsets[expert + 1]);
    EXPECT_EQ(routing.tokens[static_cast<std::size_t>(entry)], static_cast<std::int32_t>(i / 3));
  }
  for (std::size_t e = 0; e < 7; ++e) {
    EXPECT_TRUE(std::is_sorted(routing.tokens.begin() + routing.offsets[e],
                               routing.tokens.begin() + routing.offsets[e + 1]));
  }
}

TEST(Routing, AllExpertsAndNoTokens) {
  const Routing all = route_rows({3, 1, 2}, 3, 3, false);
  EXPECT_EQ(all.experts, (std::vector<std::int32_t>{0, 2, 1}));
  EXPECT_NEAR(all.weights[0] + all.weights[1] + all.weights[2], 1, 1e-6);
  const Routing none = route_rows({}, 3, 2, true);
  EXPECT_TRUE(none.experts.empty());
  EXPECT_EQ(none.offsets, (std::vector<std::int32_t>{0, 0, 0, 0}));
}

// A routing is used again for the next batch, which may be smaller.
TEST(Routing, IsMadeAnew) {
  Routing routing = route_rows(random_floats(40, 3), 4, 2, true);
  const Floats logits = {1, 2, 3, 4};
  route(ConstTensorView(logits.data(), DType::kF32, {1, 4}), 1, true, routing);
  EXPECT_EQ(routing.experts, (std::vector<std::int32_t>{3}));
  EXPECT_EQ(routing.entries, (std::vector<std::int32_t>{0}));
  EXPECT_EQ(routing.tokens, (std::vector<std::int32_t>{0}));
  EXPECT_EQ(routing.offsets, (std::vector<std::int32_t>{0, 0, 0, 0, 1}));
}

TEST(Routing, NanLogitsChooseSomeone) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Routing routing = route_rows({nan, 1, nan, 2, nan, nan, nan, nan}, 4, 2, true);
  for (const std::int32_t expert : routing.experts) {
    EXPECT_GE(expert, 0);
    EXPECT_LT(expert, 4);
  }
}

class Combine : public ::testing::Test {
 protected:
  Combine() {
    ContextOptions options;
    options.threads = 2;
    context_ = std::move(Context::create(options)).value();
  }
  std::unique_ptr<Context> context_;
};

TEST_F(Combine, AddsWeightedOutputs) {
  const std::size_t tokens = 9;
  const std::int64_t width = 5;
  const Routing routing = route_rows(random_floats(tokens * 6, 4), 6, 2, true);
  const Floats outputs = random_floats(tokens * 2 * 5, 5);
  const Floats before = random_floats(tokens * 5, 6);
  Floats hidden = before;
  combine_experts(*context_, routing, ConstTensorView(outputs.data(), DType::kF32, {18, width}),
                  TensorView(hidden.data(), DType::kF32, {9, width}));
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t i = 0; i < 5; ++i) {
      double wanted = before[t * 5 + i];
      for (std::size_t j = 0; j < 2; ++j) {
        const auto entry = static_cast<std::size_t>(routing.entries[t * 2 + j]);
        wanted += static_cast<double>(routing.weights[t * 2 + j]) * outputs[entry * 5 + i];
      }
      EXPECT_NEAR(hidden[t * 5 + i], wanted, 1e-5);
    }
  }
}

TEST_F(Combine, AddsTheGatedExpert) {
  const Floats gate = {0, 100, -100, 1};
  const Floats x = {1, 2, 3, 4, 5, 6, 7, 8};
  Floats hidden(8, 10);
  add_gated(*context_, ConstTensorView(gate.data(), DType::kF32, {4, 1}),
            ConstTensorView(x.data(), DType::kF32, {4, 2}),
            TensorView(hidden.data(), DType::kF32, {4, 2}));
  const float sigmoid = 1 / (1 + std::exp(-1.0f));
  const Floats wanted = {10.5f, 11, 13, 14, 10, 10, 10 + 7 * sigmoid, 10 + 8 * sigmoid};
  for (std::size_t i = 0; i < 8; ++i) EXPECT_NEAR(hidden[i], wanted[i], 1e-5) << i;
}

}  // namespace
}  // namespace hybridattn::engine
