// The warpgroup-wide matrix instructions of sm_90a, and the barriers between those who load and
// those who multiply.
#pragma once

#include <cstdint>
#include <type_traits>

#include <cuda.h>

#include "src/cuda/mma.cuh"

namespace hybridattn::cuda {

/// Shared memory of rows of 128 bytes in the 128-byte swizzle, as a matrix operand. `leading`:
/// bytes from one group of 64 columns to the next where columns are the dense dimension, else
/// ignored. `row_group`: bytes from 8 rows to the next.
__device__ inline std::uint64_t matrix_descriptor(std::uint32_t address, int leading,
                                                  int row_group = 1024) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
  return kSwizzle128 | static_cast<std::uint64_t>(row_group >> 4) << 32 |
         (static_cast<std::uint64_t>(leading >> 4) << 16) | ((address & 0x3ffff) >> 4);
}

/// The same of rows of 32 bytes in the 32-byte swizzle.
__device__ inline std::uint64_t narrow_descriptor(std::uint32_t address) {
  constexpr std::uint64_t kSwizzle32 = std::uint64_t{3} << 62;
  constexpr std::uint64_t kRowGroup = std::uint64_t{256 >> 4} << 32;  // 8 rows
  return kSwizzle32 | kRowGroup | ((address & 0x3ffff) >> 4);
}
/// The same whose 16 columns are the dense dimension; `leading`: bytes to the next 16.
__device__ inline std::uint64_t narrow_columns(std::uint32_t address, int leading) {
  return narrow_descriptor(address) | (static_cast<std::uint64_t>(leading >> 4) << 16);
}
/// The operand `bytes` further on.
__device__ inline std::uint64_t advance(std::uint64_t descriptor, int bytes) {
  const auto low = static_cast<std::uint32_t>(descriptor) + static_cast<std::uint32_t>(bytes >> 4);
  return (descriptor & ~std::uint64_t{0xffffffff}) | low;
}

/// Registers that a matrix instruction reads or writes are in place.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits until at most `Pending` committed groups are on their way.
template <int Pending>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
/// Keeps the compiler from moving accumulators before a wait.
template <int N>
__device__ inline void hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// The sums of a product: their names in the instruction, and the operands.
#define HYBRIDATTN_NAMES_32                                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define HYBRIDATTN_NAMES_40 HYBRIDATTN_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define HYBRIDATTN_NAMES_64                                                                 \
  HYBRIDATTN_NAMES_32                                                                       \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, " \
  "%49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define HYBRIDATTN_SUMS_32                                                                        \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),  \
      "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),  \
      "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define HYBRIDATTN_SUMS_40                                                             \
  HYBRIDATTN_SUMS_32, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), \
      "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define HYBRIDATTN_SUMS_64                                                                       \
  HYBRIDATTN_SUMS_32, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),           \
      "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), \
      "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), \
      "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), \
      "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])

#define HYBRIDATTN_WGMMA_128(type, last)                                                    \
  asm volatile(                                                                             \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                                          \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" HYBRIDATTN_NAMES_64 \
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, " last ";\n}"                                 \
      : HYBRIDATTN_SUMS_64                                                                  \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))

#define HYBRIDATTN_WGMMA_64(type, last)                                                    \
  asm volatile(                                                                            \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                         \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" HYBRIDATTN_NAMES_32 \
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, " last ";\n}"                                \
      : HYBRIDATTN_SUMS_32                                                                 \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))

/// d (+)= a B^T: a [64][16] in registers, B [128][16] or [64][16] in shared memory, its 16 columns
/// dense.
template <class X>
__device__ void multiply_rows(float (&d)[64], const std::uint32_t (&a)[4], std::uint64_t b,
                              int accumulate);
template <>
__device__ inline void multiply_rows<__nv_bfloat16>(float (&d)[64], const std::uint32_t (&a)[4],
                                                    std::uint64_t b, int accumulate) {
  HYBRIDATTN_WGMMA_128("bf16", "0");
}
template <>
__device__ inline void multiply_rows<__half>(float (&d)[64], const std::uint32_t (&a)[4],
                                             std::uint64_t b, int accumulate) {
  HYBRIDATTN_WGMMA_128("f16", "0");
}
template <class X>
__device__ void multiply_rows(float (&d)[32], const std::uint32_t (&a)[4], std::uint64_t b,
                              int accumulate);
template <>
__device__ inline void multiply_rows<__nv_bfloat16>(float (&d)[32], const std::uint32_t (&a)[4],
                                                    std::uint64_t b, int accumulate) {
  HYBRIDATTN_WGMMA_64("bf16", "0");
}
template <>
__device__ inline void multiply_rows<__half>(float (&d)[32], const std::uint32_t (&a)[4],
                                             std::uint64_t b, int accumulate) {
  HYBRIDATTN_WGMMA_64("f16", "0");
}

/// d += a B: a [64][16] in registers, B [16][128] in shared memory, its 128 columns dense in two
/// groups of 64.
template <class X>
__device__ void multiply_columns(float (&d)[64], const std::uint32_t (&a)[4], std::uint64_t b);
template <>
__device__ inline void multiply_columns<__nv_bfloat16>(float (&d)[64], const std::uint32_t (&a)[4],
                                                       std::uint64_t b) {
  constexpr int accumulate = 1;
  HYBRIDATTN_WGMMA_128("bf16", "1");
}
template <>
__device__ inline void multiply_columns<__half>(float (&d)[64], const std::uint32_t (&a)[4],
                                                std::uint64_t b) {
  constexpr int accumulate = 1;
  HYBRIDATTN_WGMMA_128("f16", "1");
}

#define HYBRIDATTN_SHARED_64(type)                                                         \
  asm volatile(                                                                            \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                                         \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" HYBRIDATTN_NAMES_32 \
      "}, %32, %33, p, 1, 1, 0, 0;\n}"                                                     \
      : HYBRIDATTN_SUMS_32                                                                 \
      : "l"(a), "l"(b), "r"(accumulate))

#define HYBRIDATTN_SHARED_80(type)                                                         \
  asm volatile(                                                                            \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %42, 0;\n"                                         \
      "wgmma.mma_async.sync.aligned.m64n80k16.f32." type "." type " {" HYBRIDATTN_NAMES_40 \
      "}, %40, %41, p, 1, 1, 0, 0;\n}"                                                     \
      : HYBRIDATTN_SUMS_40                                                                 \
      : "l"(a), "l"(b), "r"(accumulate))

#define HYBRIDATTN_SHARED_128(type)                                                         \
  asm volatile(                                                                             \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                          \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" HYBRIDATTN_NAMES_64 \
      "}, %64, %65, p, 1, 1, 0, 0;\n}"                                                      \
      : HYBRIDATTN_SUMS_64                                                                  \
      : "l"(a), "l"(b), "r"(accumulate))

/// d (+)= A B^T: A [64][16] and B [64][16], [80][16] or [128][16] in shared memory, their 16
/// columns dense.
template <class X>
__device__ void multiply_shared(float (&d)[32], std::uint64_t a, std::uint64_t b, int accumulate) {
  if constexpr (std::is_same_v<X, __half>) {
    HYBRIDATTN_SHARED_64("f16");
  } else {
    HYBRIDATTN_SHARED_64("bf16");
  }
}
template <class X>
__device__ void multiply_shared(float (&d)[40], std::uint64_t a, std::uint64_t b, int accumulate) {
  if constexpr (std::is_same_v<X, __half>) {
    HYBRIDATTN_SHARED_80("f16");
  } else {
    HYBRIDATTN_SHARED_80("bf16");
  }
}
template <class X>
__device__ void multiply_shared(float (&d)[64], std::uint64_t a, std::uint64_t b, int accumulate) {
  if constexpr (std::is_same_v<X, __half>) {
    HYBRIDATTN_SHARED_128("f16");
  } else {
    HYBRIDATTN_SHARED_128("bf16");
  }
}
#undef HYBRIDATTN_SHARED_64
#undef HYBRIDATTN_SHARED_80
#undef HYBRIDATTN_SHARED_128

/// d += a B: a [64][16] in registers, B [16][64] in shared memory, its 64 columns dense.
template <class X>
__device__ void multiply_columns(float (&d)[32], const std::uint32_t (&a)[4], std::uint64_t b) {
  constexpr int accumulate = 1;
  if constexpr (std::is_same_v<X, __half>) {
    HYBRIDATTN_WGMMA_64("f16", "1");
  } else {
    HYBRIDATTN_WGMMA_64("bf16", "1");
  }
}

#undef HYBRIDATTN_WGMMA_64
#undef HYBRIDATTN_WGMMA_128
#undef HYBRIDATTN_SUMS_64
#undef HYBRIDATTN_SUMS_40
#undef HYBRIDATTN_SUMS_32
#undef HYBRIDATTN_NAMES_64
#undef HYBRIDATTN_NAMES_40
#undef HYBRIDATTN_NAMES_32

/// What threads wrote to shared memory is there for the matrix instructions and the copy engine.
__device__ inline void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// A barrier in shared memory.
class Barrier {
 public:
  __device__ explicit Barrier(std::uint32_t address) : address_(address) {}
  __device__ Barrier(std::uint64_t* place) : address_(shared_address(place)) {}
  __device__ std::uint32_t address() const { return address_; }

 private:
  std::uint32_t address_;
};

__device__ inline void init_barrier(Barrier barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier.address()), "r"(arrivals)
               : "memory");
}
__device__ inline void arrive(Barrier barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier.address()) : "memory");
}
/// Arrives for the whole warp, whose accesses __syncwarp has ordered before it. racecheck does not
/// follow that order: for it each thread arrives by itself, which costs 6 % of a walk over chunks.
#ifdef HYBRIDATTN_CUDA_RACECHECK
inline constexpr int kArrivalsOfWarp = 32;
#else
inline constexpr int kArrivalsOfWarp = 1;
#endif
__device__ inline void arrive_as_warp(Barrier barrier) {
  __syncwarp();
  if (kArrivalsOfWarp == 32 || threadIdx.x % 32 == 0) arrive(barrier);
}
/// Arrives once all that this thread has started to copy with copy_async is there.
__device__ inline void arrive_when_copied(Barrier barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier.address())
               : "memory");
}
/// Arrives, and lets the phase wait for `bytes` more of bulk copies.
__device__ inline void arrive_expecting(Barrier barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier.address()),
               "r"(bytes)
               : "memory");
}
__device__ inline void wait_barrier(Barrier barrier, int parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra ready;\nbra again;\nready:\n}" ::"r"(barrier.address()),
      "r"(parity)
      : "memory");
}
/// Whether that would return at once.
__device__ inline bool test_barrier(Barrier barrier, int parity) {
  std::uint32_t done;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(done)
      : "r"(barrier.address()), "r"(parity)
      : "memory");
  return done != 0;
}
/// A contiguous copy of global to shared memory, by one thread, counted by the barrier.
__device__ inline void copy_bulk(void* to, const void* from, int bytes, Barrier barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(barrier.address())
      : "memory");
}
/// A box of a tensor of two dimensions to shared memory, by one thread, counted by the barrier.
__device__ inline void copy_box(void* to, const CUtensorMap& map, int first, int second,
                                Barrier barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
      "l"(&map), "r"(first), "r"(second), "r"(barrier.address())
      : "memory");
}
/// Has the second-level cache fetch a box.
__device__ inline void fetch_box(const CUtensorMap& map, int first, int second) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(&map),
               "r"(first), "r"(second)
               : "memory");
}
/// The same of three dimensions.
__device__ inline void copy_box(void* to, const CUtensorMap& map, int first, int second, int third,
                                Barrier barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4}], [%5];" ::"r"(shared_address(to)),
      "l"(&map), "r"(first), "r"(second), "r"(third), "r"(barrier.address())
      : "memory");
}

/// The other way, by one thread, which knows with wait_stored that shared memory has been read.
__device__ inline void store_box(const CUtensorMap& map, int first, int second, int third,
                                 const void* from) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(
          &map),
      "r"(first), "r"(second), "r"(third), "r"(shared_address(from))
      : "memory");
}
__device__ inline void wait_stored() {
  asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
}

/// The same of five dimensions.
__device__ inline void copy_box(std::uint32_t to, const CUtensorMap& map, const int (&at)[5],
                                Barrier barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4, %5, %6}], [%7];" ::"r"(to),
      "l"(&map), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]), "r"(barrier.address())
      : "memory");
}
/// The same of what is not read again soon.
__device__ inline void copy_box_once(std::uint32_t to, const CUtensorMap& map, const int (&at)[5],
                                     Barrier barrier) {
  const std::uint64_t policy = read_once_policy();
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;" ::"r"(to),
      "l"(&map), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]), "r"(barrier.address()),
      "l"(policy)
      : "memory");
}

}  // namespace hybridattn::cuda
