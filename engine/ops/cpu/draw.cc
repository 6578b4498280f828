#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "engine/ops/cpu/kernels.h"

namespace hybridattn::engine::cpu {
namespace {

/// Ids by falling logit, then rising id, sorted as far as they are asked for.
class Order {
 public:
  explicit Order(std::span<const float> logits) : logits_(logits), ids_(logits.size()) {
    std::iota(ids_.begin(), ids_.end(), 0);
  }

  std::int32_t at(std::size_t i) {
    if (i >= sorted_) sort_to(std::min(ids_.size(), std::max<std::size_t>(2 * i, kFirst)));
    return ids_[i];
  }
  /// The first `count` in the order of their ids.
  std::span<const std::int32_t> first_by_id(std::size_t count) {
    std::sort(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(count));
    return {ids_.data(), count};
  }

 private:
  static constexpr std::size_t kFirst = 64;

  void sort_to(std::size_t end) {
    const auto before = [&](std::int32_t a, std::int32_t b) {
      const float x = logits_[static_cast<std::size_t>(a)];
      const float y = logits_[static_cast<std::size_t>(b)];
      return x != y ? x > y : a < b;
    };
    const auto from = ids_.begin() + static_cast<std::ptrdiff_t>(sorted_);
    std::partial_sort(from, ids_.begin() + static_cast<std::ptrdiff_t>(end), ids_.end(), before);
    sorted_ = end;
  }

  std::span<const float> logits_;
  std::vector<std::int32_t> ids_;
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
    return take_of(logits_.size(), [](std::size_t i) { return static_cast<std::int32_t>(i); });
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
    const std::span<const std::int32_t> ids = order.first_by_id(last);
    return take_of(last, [&](std::size_t i) { return ids[i]; });
  }

  /// One of `count` ids, which rise.
  template <class Id>
  std::int32_t take_of(std::size_t count, const Id& id) const {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < count; ++i) sum += weight(id(i));
    const std::uint64_t place = draw_place(draw_.random, sum);
    std::size_t i = 0;
    for (std::uint64_t before = weight(id(0)); before <= place; before += weight(id(i))) ++i;
    return id(i);
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
