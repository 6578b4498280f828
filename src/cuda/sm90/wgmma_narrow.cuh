// The warpgroup-wide products whose right operand has few rows: 64 weights times 8, 16 or 32 rows
// of activations, both in shared memory.
#pragma once

#include "src/cuda/sm90/wgmma.cuh"

namespace hybridattn::cuda {

#define HYBRIDATTN_SUMS_4 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define HYBRIDATTN_SUMS_8 HYBRIDATTN_SUMS_4, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define HYBRIDATTN_SUMS_16                                                                       \
  HYBRIDATTN_SUMS_8, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), \
      "+f"(d[14]), "+f"(d[15])
#define HYBRIDATTN_NARROW(shape, type, names, a_name, b_name, ...)                        \
  asm volatile(                                                                           \
      "{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"                                          \
      "wgmma.mma_async.sync.aligned." shape ".f32." type "." type " {" names "}, " a_name \
      ", " b_name ", p, 1, 1, 0, 0;\n}"                                                   \
      : __VA_ARGS__                                                                       \
      : "l"(a), "l"(b))
#define HYBRIDATTN_NARROW_8(type) \
  HYBRIDATTN_NARROW("m64n8k16", type, "%0, %1, %2, %3", "%4", "%5", HYBRIDATTN_SUMS_4)
#define HYBRIDATTN_NARROW_16(type)                                                   \
  HYBRIDATTN_NARROW("m64n16k16", type, "%0, %1, %2, %3, %4, %5, %6, %7", "%8", "%9", \
                    HYBRIDATTN_SUMS_8)
#define HYBRIDATTN_NARROW_32(type)                                                                 \
  HYBRIDATTN_NARROW("m64n32k16", type,                                                             \
                    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15", "%16", \
                    "%17", HYBRIDATTN_SUMS_16)

/// d += A B^T: A [64][16] and B [8][16], [16][16] or [32][16], their 16 columns dense.
template <class X>
__device__ void add_product(float (&d)[4], std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_same_v<X, __half>) {
    HYBRIDATTN_NARROW_8("f16");
  } else {
    HYBRIDATTN_NARROW_8("bf16");
  }
}
template <class X>
__device__ void add_product(float (&d)[8], std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_same_v<X, __half>) {
    HYBRIDATTN_NARROW_16("f16");
  } else {
    HYBRIDATTN_NARROW_16("bf16");
  }
}
template <class X>
__device__ void add_product(float (&d)[16], std::uint64_t a, std::uint64_t b) {
  if constexpr (std::is_same_v<X, __half>) {
    HYBRIDATTN_NARROW_32("f16");
  } else {
    HYBRIDATTN_NARROW_32("bf16");
  }
}
#undef HYBRIDATTN_NARROW_32
#undef HYBRIDATTN_NARROW_16
#undef HYBRIDATTN_NARROW_8
#undef HYBRIDATTN_NARROW
#undef HYBRIDATTN_SUMS_16
#undef HYBRIDATTN_SUMS_8
#undef HYBRIDATTN_SUMS_4

}  // namespace hybridattn::cuda
