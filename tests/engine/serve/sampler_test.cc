// Sampling: who may be drawn, how often, and that draws can be made again.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "engine/serve/sampler.h"
#include "tests/engine/checkpoint/checkpoint_test_support.h"
#include "tests/engine/serve/engine_test_support.h"

namespace hybridattn::engine {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

using Logits = std::vector<float>;

/// One request's draws.
class Sampler {
 public:
  explicit Sampler(const SamplingParams& params) : params_(params) {}
  std::int32_t next(std::span<float> logits, const Ids& history, std::int32_t limit) {
    return sample(params_, logits, history, limit, said_++);
  }

 private:
  SamplingParams params_;
  std::int64_t said_ = 0;
};

std::int32_t next_of(Sampler& sampler, Logits logits, const Ids& history = {}) {
  return sampler.next(logits, history, static_cast<std::int32_t>(logits.size()));
}

std::int32_t one(const SamplingParams& params, const Logits& logits, const Ids& history = {}) {
  Sampler sampler(params);
  return next_of(sampler, logits, history);
}

std::vector<int> draw(const SamplingParams& params, const Logits& logits, int draws) {
  std::vector<int> counts(logits.size());
  Sampler sampler(params);
  for (int i = 0; i < draws; ++i) ++counts[static_cast<std::size_t>(next_of(sampler, logits))];
  return counts;
}

Logits random_logits(std::size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, 2);
  Logits logits(count);
  for (float& x : logits) x = normal(generator);
  return logits;
}

/// By hand: softmax at the temperature, then the three filters in order.
std::vector<double> probabilities(const SamplingParams& p, const Logits& logits) {
  std::vector<std::size_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return logits[a] > logits[b]; });
  if (p.top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(p.top_k)));
  std::vector<double> weights(logits.size());
  double total = 0;
  for (const std::size_t i : order) {
    weights[i] = std::exp((static_cast<double>(logits[i]) - logits[order[0]]) / p.temperature);
    total += weights[i];
  }
  double before = 0;
  double kept = 0;
  for (const std::size_t i : order) {
    const double weight = weights[i];
    if (before > 0 && (before >= p.top_p * total || weight < p.min_p)) weights[i] = 0;
    before += weight;
    kept += weights[i];
  }
  for (double& weight : weights) weight /= kept;
  return weights;
}

/// Nobody is drawn who may not be, and frequencies are near the probabilities.
void expect_distribution(const SamplingParams& params, const Logits& logits) {
  constexpr int kDraws = 10000;
  const std::vector<double> wanted = probabilities(params, logits);
  const std::vector<int> found = draw(params, logits, kDraws);
  double chi_square = 0;
  int cells = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (wanted[i] == 0) {
      EXPECT_EQ(found[i], 0) << "id " << i;
      continue;
    }
    if (wanted[i] * kDraws < 5) continue;
    EXPECT_GT(found[i], 0) << "id " << i;
    const double difference = found[i] - wanted[i] * kDraws;
    chi_square += difference * difference / (wanted[i] * kDraws);
    ++cells;
  }
  // Mean cells, deviation sqrt(2 cells): far beyond what chance gives, far below what an error
  // does.
  EXPECT_LT(chi_square, cells + 6 * std::sqrt(2.0 * cells) + 6);
}

TEST(SamplerGreedy, TiesGoToTheLowerId) {
  EXPECT_EQ(one({}, {0, 3, 3, 1}), 1);
  EXPECT_EQ(argmax(Logits{-1, -1, -1}), 0);
  EXPECT_EQ(argmax(Logits{-kInf, -kInf}), 0);
}

TEST(SamplerGreedy, FindsTheFirstOfTheLargestAmongMany) {
  for (const std::size_t size : {1023u, 1024u, 5000u}) {
    for (const std::size_t at : {std::size_t{0}, size / 2, size - 1}) {
      Logits logits(size, -2);
      logits[at] = -1;
      EXPECT_EQ(argmax(logits), static_cast<std::int32_t>(at)) << size;
      logits[size - 1] = -1;
      EXPECT_EQ(one({}, logits), static_cast<std::int32_t>(at)) << size;
      logits[size - 1] = kInf;
      EXPECT_EQ(one({}, logits), static_cast<std::int32_t>(size - 1)) << size;
    }
  }
  EXPECT_EQ(argmax(Logits{-1, -0.0f, 0}), 1) << "both zeros are equal";
}

TEST(SamplerGreedy, NanNeverWins) {
  EXPECT_EQ(argmax(Logits{kNan, 1, kNan, 2, kNan}), 3);
  EXPECT_EQ(argmax(Logits{1, kNan}), 0);
  EXPECT_EQ(argmax(Logits{kNan, -kInf}), 1);
  EXPECT_EQ(argmax(Logits{kNan, kNan}), 0);
  EXPECT_EQ(one({}, {kNan, 1, kNan, 2}), 3);
}

TEST(SamplerDraws, NanNeverWins) {
  const Logits logits = {kNan, 1, kNan, 2, kNan, 1.5f};
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 1}, SamplingParams{.temperature = 1, .top_k = 4},
        SamplingParams{.temperature = 1, .top_p = 0.99f},
        SamplingParams{.temperature = 1, .min_p = 0.01f}}) {
    const std::vector<int> counts = draw(params, logits, 2000);
    EXPECT_EQ(counts[0] + counts[2] + counts[4], 0);
    EXPECT_GT(counts[1], 0);
    EXPECT_GT(counts[3], 0);
  }
  EXPECT_EQ(one({.temperature = 1}, {kNan, kNan, kNan}),
            one({.temperature = 1}, {-kInf, -kInf, -kInf}));
}

TEST(SamplerDraws, Infinities) {
  EXPECT_EQ(one({.temperature = 1}, {1, kInf, 2}), 1);
  EXPECT_EQ(one({.temperature = 1}, {-kInf, -5, -kInf}), 1);
  EXPECT_EQ(one({.temperature = 1e-38f}, {1, 5, 2}), 1) << "nearly greedy";
  EXPECT_EQ(one({.temperature = 1e-38f}, {5, 5, 2}) / 2, 0);
}

TEST(SamplerDraws, Frequencies) {
  const Logits logits = random_logits(40, 1);
  for (const float temperature : {0.3f, 1.0f, 2.5f}) {
    expect_distribution({.temperature = temperature, .seed = 5}, logits);
  }
}

TEST(SamplerDraws, TopK) {
  for (const std::int32_t k : {1, 2, 7, 39, 40, 100}) {
    expect_distribution({.temperature = 1, .top_k = k, .seed = 2}, random_logits(40, 2));
  }
  expect_distribution({.temperature = 1, .top_k = 2}, {1, 1, 1, 1});
}

TEST(SamplerDraws, TopP) {
  for (const float p : {1e-9f, 0.3f, 0.9f, 0.999f}) {
    expect_distribution({.temperature = 1.2f, .top_p = p, .seed = 3}, random_logits(40, 3));
  }
  // Exactly at the share: the two of a half each.
  expect_distribution({.temperature = 1, .top_p = 0.5f}, {0, 0});
}

TEST(SamplerDraws, MinP) {
  for (const float p : {0.01f, 0.2f, 1.0f}) {
    expect_distribution({.temperature = 1, .min_p = p, .seed = 4}, random_logits(40, 4));
  }
  // Exactly at the bound: both of the best stay.
  expect_distribution({.temperature = 1, .min_p = 1}, {2, 2, 1});
}

TEST(SamplerDraws, AllFiltersTogether) {
  expect_distribution({.temperature = 1.5f, .top_k = 12, .top_p = 0.9f, .min_p = 0.05f, .seed = 6},
                      random_logits(60, 5));
}

TEST(SamplerPenalty, PushesDownWhatWasSaid) {
  EXPECT_EQ(one({.repetition_penalty = 1.5f}, {3, 2.5f, 1}), 0);
  EXPECT_EQ(one({.repetition_penalty = 1.5f}, {3, 2.5f, 1}, {0}), 1);
  EXPECT_EQ(one({.repetition_penalty = 1.5f}, {-1, -1.2f}, {0}), 1)
      << "a negative logit goes down too";
  EXPECT_EQ(one({.repetition_penalty = 1.5f}, {3, 2.5f, 1}, {0, 0, 0, 0}), 1);
  EXPECT_EQ(one({.repetition_penalty = 1.1f}, {3, 2.5f, 1}, {0, 0, 0, 0}), 0)
      << "once, not by count";
  EXPECT_EQ(one({.repetition_penalty = 0.5f}, {3, 2, 1}, {1}), 1) << "below 1 it favours";
  EXPECT_EQ(one({.repetition_penalty = 1.5f}, {3, 2.5f}, {-1, 7, 0}), 1) << "ids of no logit";
}

TEST(SamplerLimit, IdsAtOrAboveAreNeverTaken) {
  Logits logits = {1, 2, 3, 9};
  EXPECT_EQ(Sampler(SamplingParams{}).next(logits, {}, 3), 2);
  EXPECT_EQ(Sampler(SamplingParams{}).next(logits, {}, 99), 3);
  Sampler sampler(SamplingParams{.temperature = 5, .top_k = 3});
  for (int i = 0; i < 1000; ++i) {
    Logits copy = logits;
    EXPECT_LT(sampler.next(copy, {}, 2), 2);
  }
}

TEST(SamplerSeed, GivesTheSameDraws) {
  const Logits logits = random_logits(50, 7);
  const auto sequence = [&](std::uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    Ids ids;
    for (int i = 0; i < 50; ++i) ids.push_back(next_of(sampler, logits));
    return ids;
  };
  EXPECT_EQ(sequence(1), sequence(1));
  EXPECT_NE(sequence(1), sequence(2));
  EXPECT_NE(sequence(0), sequence(std::numeric_limits<std::uint64_t>::max()));
  const Ids ids = sequence(1);
  EXPECT_GT(std::set<std::int32_t>(ids.begin(), ids.end()).size(), 3u) << "draws go on";
}

TEST(SamplerParams, BadOnesAreNamed) {
  EXPECT_TRUE(SamplingParams{}.validate().ok());
  const auto bad = [](const SamplingParams& params, std::string_view name) {
    expect_error(params.validate(), StatusCode::kInvalidArgument, {name, "must be"});
  };
  for (const float x : {-1.0f, kNan, kInf}) bad({.temperature = x}, "temperature is");
  bad({.top_k = -1}, "top-k is -1");
  for (const float x : {0.0f, -0.5f, 1.5f, kNan}) bad({.top_p = x}, "top-p is");
  for (const float x : {-0.1f, 1.1f, kNan}) bad({.min_p = x}, "min-p is");
  for (const float x : {0.0f, -1.0f, kNan, kInf})
    bad({.repetition_penalty = x}, "repetition-penalty is");
}

TEST(LogProbability, IsTheLogarithmOfTheSoftmax) {
  const Logits logits = {1, 2, 3, 1000};
  EXPECT_NEAR(log_probability(logits, 3), 0, 1e-12);
  EXPECT_NEAR(log_probability(logits, 0), -999, 1e-9);
  EXPECT_NEAR(log_probability(Logits{0, 0, 0, 0}, 2), -std::log(4.0), 1e-12);
}

TEST(CheckLogits, NamesThePositionOfWhatIsNoNumber) {
  std::vector<float> logits(300, -3.0f);
  logits[7] = std::numeric_limits<float>::max();
  logits[8] = -std::numeric_limits<float>::max();
  EXPECT_TRUE(check_logits(logits, 5).ok());
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN(), -std::nanf("")}) {
    logits[299] = bad;
    const Status status = check_logits(logits, 5);
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message().find("after 5 tokens"), std::string::npos) << status.message();
  }
}

}  // namespace
}  // namespace hybridattn::engine
