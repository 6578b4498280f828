// Turns Highway's dispatch table of a kernel into one entry for each Isa. Included in the HWY_ONCE
// part of a kernel file.
#pragma once

#include "src/core/highway_targets.h"
#include "src/core/kernel.h"

namespace hybridattn::cpu {

/// `table` is HWY_DISPATCH_TABLE(kernel): a chooser at 0, then the targets by bit; a single entry
/// where the build has one target only.
template <class Params, std::size_t N>
core::CpuVariants<Params> variants(core::CpuKernel<Params> const (&table)[N]) {
  core::CpuVariants<Params> out{};
  for (int i = 0; i < kIsaCount; ++i) {
    const auto isa = static_cast<Isa>(i);
    if (!isa_supported(isa)) continue;
    if constexpr (N == 1) {
      out[static_cast<std::size_t>(i)] = table[0];
    } else {
      hwy::ChosenTarget chosen;
      chosen.Update(core::highway_target(isa));
      out[static_cast<std::size_t>(i)] = table[chosen.GetIndex()];
    }
  }
  return out;
}

}  // namespace hybridattn::cpu
