// Names and detection of the CPU instruction sets.
#include "src/core/highway_targets.h"

namespace hybridattn {
namespace {

struct NamedIsa {
  Isa isa;
  std::string_view name;
};
constexpr NamedIsa kNames[] = {{Isa::kBaseline, "baseline"},
                               {Isa::kAvx2, "avx2"},
                               {Isa::kAvx512, "avx512"},
                               {Isa::kAvx512Bf16, "avx512_bf16"}};

/// The processor's targets, where one that implies another names both.
std::int64_t processor_targets() noexcept {
  std::int64_t targets = hwy::SupportedTargets();
#if HWY_ARCH_X86
  // AVX3_SPR and AVX10.2 have all that AVX3_ZEN4 code uses; Highway sets the ZEN4 bit on AMD only.
  if ((targets & (HWY_AVX3_SPR | HWY_AVX10_2)) != 0) targets |= HWY_AVX3_ZEN4;
  targets |= HWY_SSE2;
#else
  targets |= HWY_STATIC_TARGET;
#endif
  return targets;
}

}  // namespace

std::string_view isa_name(Isa isa) noexcept {
  for (const NamedIsa& entry : kNames) {
    if (entry.isa == isa) return entry.name;
  }
  return "unknown";
}

Result<Isa> parse_isa(std::string_view name) {
  for (const NamedIsa& entry : kNames) {
    if (entry.name == name) return entry.isa;
  }
  return invalid_argument("instruction set is \"", name,
                          "\", must be one of baseline, avx2, avx512, avx512_bf16");
}

bool isa_supported(Isa isa) noexcept {
  static const std::int64_t targets = processor_targets();
  const std::int64_t target = core::highway_target(isa);
  return target != 0 && (targets & target & HWY_TARGETS) != 0;
}

Isa best_isa() noexcept {
  Isa best = Isa::kBaseline;
  for (const NamedIsa& entry : kNames) {
    if (isa_supported(entry.isa)) best = entry.isa;
  }
  return best;
}

}  // namespace hybridattn
