// Names and detection of the CPU instruction sets.
#include "src/core/bf16_dots.h"
#include "src/core/highway_targets.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace hybridattn {
namespace {

struct NamedIsa {
  Isa isa;
  std::string_view name;
};
constexpr NamedIsa kNames[] = {{Isa::kBaseline, "baseline"},
                               {Isa::kAvx2, "avx2"},
                               {Isa::kAvx512, "avx512"},
                               {Isa::kAvx512Bf16, "avx512_bf16"},
                               {Isa::kAmx, "amx"}};

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

/// Whether the processor has tiles for bf16 and the kernel lets this process use them: their state
/// is large, so that a process must ask before the first use. Asking covers all its threads.
bool tiles_supported() noexcept {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kAmxBf16 = 1u << 22;
  constexpr unsigned kAmxTile = 1u << 24;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool is_intel() noexcept {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kGenu = 0x756e6547;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(0, &a, &b, &c, &d) != 0 && b == kGenu;
#else
  return false;
#endif
}

}  // namespace

bool core::bf16_dots_pay() noexcept {
  static const bool pay = !is_intel();
  return pay;
}

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
                          "\", must be one of baseline, avx2, avx512, avx512_bf16, amx");
}

bool isa_supported(Isa isa) noexcept {
  static const std::int64_t targets = processor_targets();
  static const bool tiles = tiles_supported();
  const std::int64_t target = core::highway_target(isa);
  if (isa == Isa::kAmx && !tiles) return false;
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
