// Times of repeated calls.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "bench/median.h"

namespace hybridattn::bench {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Times {
  double median, best;  // seconds
};

/// Calls body(i) for i = 0, 1, ... until `seconds` have passed, five times at least, and once
/// before that is not counted.
template <class Body>
Times time_calls(double seconds, const Body& body) {
  body(0);
  std::vector<double> times;
  const double begin = now();
  for (std::int64_t i = 1; times.size() < 5 || now() - begin < seconds; ++i) {
    const double start = now();
    body(i);
    times.push_back(now() - start);
  }
  return {median(times), *std::min_element(times.begin(), times.end())};
}

}  // namespace hybridattn::bench
