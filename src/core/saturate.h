// Sizes that cannot wrap: a product or sum past the range stays at the largest number.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>

namespace hybridattn::core {

inline constexpr std::int64_t kTooLarge = std::numeric_limits<std::int64_t>::max();

/// The product of numbers that are at least 0.
constexpr std::int64_t saturating_product(std::initializer_list<std::int64_t> factors) noexcept {
  std::int64_t product = 1;
  for (const std::int64_t factor : factors) {
    if (factor == 0) return 0;
    product = product > kTooLarge / factor ? kTooLarge : product * factor;
  }
  return product;
}

/// The sum of two numbers that are at least 0.
constexpr std::int64_t saturating_sum(std::int64_t a, std::int64_t b) noexcept {
  return a > kTooLarge - b ? kTooLarge : a + b;
}

}  // namespace hybridattn::core
