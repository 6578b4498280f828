// Places on the device for the arrays of single steps, handed on from one step to the next.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>
#include <vector>

#include "hybridattn/status_macros.h"

namespace hybridattn::backend {

/// The next power of two, 16 or more, so that a few sizes serve all steps.
template <class Count>
constexpr Count round_up_count(Count count) {
  constexpr Count kMost = std::numeric_limits<Count>::max() / 2;
  Count rounded = 16;
  while (rounded < count && rounded < kMost) rounded *= 2;
  return std::max(count, rounded);
}

/// One that nobody holds and that `holds` approves of, or a new one of `make`. Of those that nobody
/// holds the newest are kept. Errors: as `make`.
template <class Step, class Holds, class Make>
Result<std::shared_ptr<Step>> take_spare(std::vector<std::shared_ptr<Step>>& spare,
                                         const Holds& holds, const Make& make) {
  for (const auto& step : spare) {
    if (step.use_count() == 1 && holds(*step)) return step;
  }
  HYBRIDATTN_ASSIGN(std::shared_ptr<Step> made, make());
  constexpr std::size_t kMostSpare = 4;
  for (std::size_t i = 0; i < spare.size() && spare.size() >= kMostSpare;) {
    if (spare[i].use_count() == 1) {
      spare.erase(spare.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
  spare.push_back(made);
  return made;
}

}  // namespace hybridattn::backend
