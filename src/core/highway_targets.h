// Which instruction sets Highway compiles our kernels for, and how they map to Isa. Every kernel
// file includes this before any Highway header.
#pragma once

#include "hybridattn/context.h"

// On x86-64 four variants of each kernel; one more costs its share of the build and is seldom
// faster. Highway itself would serve its AVX3_ZEN4 code on AMD alone; our table gives it to every
// processor that has those instructions. Elsewhere one: what the compiler's target guarantees, NEON
// on 64-bit Arm.
#if defined(__x86_64__)
#if defined(HYBRIDATTN_WITHOUT_AVX512)
#define HYBRIDATTN_AVX512_TARGETS (HWY_AVX3 | HWY_AVX3_ZEN4)
#elif defined(HYBRIDATTN_WITHOUT_PLAIN_AVX512)
#define HYBRIDATTN_AVX512_TARGETS HWY_AVX3
#else
#define HYBRIDATTN_AVX512_TARGETS 0
#endif
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_AVX3_SPR | HWY_AVX10_2 | HYBRIDATTN_AVX512_TARGETS)
#else
#define HWY_COMPILE_ONLY_STATIC
#endif

#include "hwy/targets.h"

namespace hybridattn::core {

/// The Highway target whose code serves `isa`, or 0 where this build has none.
constexpr std::int64_t highway_target(Isa isa) noexcept {
#if HWY_ARCH_X86
  switch (isa) {
    case Isa::kBaseline: return HWY_SSE2;
    case Isa::kAvx2: return HWY_AVX2;
    case Isa::kAvx512: return HWY_AVX3;
    case Isa::kAvx512Bf16:
    case Isa::kAmx: return HWY_AVX3_ZEN4;
  }
#else
  if (isa == Isa::kBaseline) return HWY_STATIC_TARGET;
#endif
  return 0;
}

}  // namespace hybridattn::core
