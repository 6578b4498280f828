#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "engine/ops/cpu/kernels.h"

namespace hybridattn::engine::cpu {
namespace {

/// Ids by falling logit, then rising id, sorted as far as they are asked for.
class Order {
 public:
  explicit Order(std::span<const float> logits) : keys_(logits.size()) {
    for (std::size_t i = 0; i < logits.size(); ++i) keys_[i] = key_of(logits[i], i);
  }

  std::int32_t at(std::size_t i) {
    if (i >= sorted_) sort_to(std::min(keys_.size(), std::max<std::size_t>(4 * i, kFirst)));
    return id_of(keys_[i]);
  }
  /// Falls with the logit, then rises with the id; both zeros are one.
  using Key = std::uint64_t;
  static Key key_of(float logit, std::size_t id) {
    const auto bits = std::bit_cast<std::uint32_t>(logit + 0.0f);
    const std::uint32_t rises = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    return Key{~rises} << 32 | id;
  }

 private:
  static constexpr std::size_t kFirst = 64, kFew = 1024;
  static std::int32_t id_of(Key key) { return static_cast<std::int32_t>(key & 0xffffffffu); }

  void sort_to(std::size_t end) {
    const auto from = keys_.begin() + static_cast<std::ptrdiff_t>(sorted_);
    const auto to = keys_.begin() + static_cast<std::ptrdiff_t>(end);
    if (end <= kFew) {
      std::partial_sort(from, to, keys_.end());
    } else {
      if (to != keys_.end()) std::nth_element(from, to, keys_.end());
      std::sort(from, to);
    }
    sorted_ = end;
  }

  std::vector<Key> keys_;
  std::size_t sorted_ = 0;
};

/// One row, without NaNs.
class Row {
 public:
  Row(std::span<const float> logits, const Draw& draw)
      : logits_(logits), draw_(draw), most_(*std::max_element(logits.begin(), logits.end())) {}

  std::int32_t take() const {
    const bool all = draw_.top_k <= 0 && draw_.top_p >= 1 && std::isinf(draw_.most_below);
    if (!all) return take_of_first();
    return take_of([](std::int32_t) { return true; });
  }

 private:
  float below(std::int32_t id) const {
    return draw_below(logits_[static_cast<std::size_t>(id)], most_);
  }
  std::uint64_t weight(std::int32_t id) const { return draw_weight(below(id), draw_.scale); }

  /// What top-p is a share of.
  std::uint64_t total(Order& order, std::size_t kept) const {
    std::uint64_t sum = 0;
    if (kept < logits_.size()) {
      for (std::size_t i = 0; i < kept; ++i) sum += weight(order.at(i));
    } else {
      for (std::size_t i = 0; i < kept; ++i) sum += weight(static_cast<std::int32_t>(i));
    }
    return sum;
  }

  std::int32_t take_of_first() const {
    Order order(logits_);
    std::size_t kept = logits_.size();
    if (draw_.top_k > 0) kept = std::min(kept, static_cast<std::size_t>(draw_.top_k));
    const std::uint64_t target = draw_.top_p < 1 ? draw_target(draw_.top_p, total(order, kept))
                                                 : std::numeric_limits<std::uint64_t>::max();
    std::uint64_t sum = 0;
    std::size_t last = 0;
    for (; last < kept && sum < target && below(order.at(last)) <= draw_.most_below; ++last) {
      sum += weight(order.at(last));
    }
    const auto key = [&](std::int32_t id) {
      return Order::key_of(logits_[static_cast<std::size_t>(id)], static_cast<std::size_t>(id));
    };
    const Order::Key cut = key(order.at(last - 1));
    return take_of([&](std::int32_t id) { return key(id) <= cut; });
  }

  /// One of the ids that are kept.
  template <class Kept>
  std::int32_t take_of(const Kept& kept) const {
    const auto ids = static_cast<std::int32_t>(logits_.size());
    std::uint64_t sum = 0;
    for (std::int32_t id = 0; id < ids; ++id) sum += kept(id) ? weight(id) : 0;
    std::uint64_t place = draw_place(draw_.random, sum);
    for (std::int32_t id = 0;; ++id) {
      const std::uint64_t own = kept(id) ? weight(id) : 0;
      if (place < own) return id;
      place -= own;
    }
  }

  std::span<const float> logits_;
  const Draw& draw_;
  float most_;
};

}  // namespace
}  // namespace hybridattn::engine::cpu

namespace hybridattn::engine {

NextToken draw_token(std::span<const float> logits, const Draw& draw) {
  const bool finite =
      std::all_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); });
  std::vector<float> numbers(logits.begin(), logits.begin() + draw.limit);
  for (float& x : numbers) {
    if (std::isnan(x)) x = -std::numeric_limits<float>::infinity();
  }
  const auto largest = std::max_element(numbers.begin(), numbers.end());
  const auto greedy = static_cast<std::int32_t>(largest - numbers.begin());
  return {draw.scale == 0 ? greedy : cpu::Row(numbers, draw).take(), finite ? 1 : 0};
}

}  // namespace hybridattn::engine

namespace hybridattn::engine::cpu {

void draw_tokens(Context& context, const ConstTensorView& logits, const Draw* draws,
                 NextToken* tokens) {
  parallel_for(context.executor(), logits.dim(0), [&](std::int64_t i, int) {
    const float* row = static_cast<const float*>(logits.data) + i * logits.stride(0);
    tokens[i] = draw_token({row, static_cast<std::size_t>(logits.dim(1))}, draws[i]);
  });
}

}  // namespace hybridattn::engine::cpu
