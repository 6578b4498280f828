#pragma once

#include <algorithm>
#include <vector>

namespace hybridattn::bench {

/// Of some values, at least one, the upper of the two in the middle where their number is even.
inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace hybridattn::bench
