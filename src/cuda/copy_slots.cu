// Whole slots on CUDA, as plain bytes: 16 at a time where a slot allows it.
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"

namespace hybridattn::cuda {
namespace {

constexpr int kThreads = 256;
/// Bytes of a slot that one block copies.
constexpr std::int64_t kPieceBytes = 16 * kThreads * 4;

/// Copies or, without `from`, zeroes words [first, end) of a slot.
template <class Word>
__device__ void fill(std::byte* to, const std::byte* from, std::int64_t first, std::int64_t end,
                     std::int64_t step) {
  auto* words = reinterpret_cast<Word*>(to);
  const auto* source = reinterpret_cast<const Word*>(from);
  for (std::int64_t i = first; i < end; i += step) {
    words[i] = source == nullptr ? Word{} : source[i];
  }
}

/// Which blocks of x have which pool: those of all its slots' pieces.
struct CopyGrid {
  ops::CopySlotsParams p;
  std::int32_t first_block[ops::kMostSlotPools + 1];
};
static_assert(sizeof(CopyGrid) <= 4096, "kernels before CUDA 12.1 take no more arguments");

/// The last pool that begins at or before a block.
__device__ int pool_of_block(const CopyGrid& grid, int block) {
  int low = 0, high = grid.p.num_pools;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (grid.first_block[middle] <= block ? low : high) = middle;
  }
  return low;
}

__device__ bool in_words(const ops::PoolSlots& slots) {
  const auto bits =
      reinterpret_cast<std::uintptr_t>(slots.pool) | reinterpret_cast<std::uintptr_t>(slots.from) |
      static_cast<std::uintptr_t>(slots.slot_stride | slots.from_stride | slots.slot_bytes);
  return bits % 16 == 0;
}

template <class Word>
__device__ void copy_piece(std::byte* to, const std::byte* from, std::int64_t first,
                           std::int64_t end) {
  constexpr auto kSize = static_cast<std::int64_t>(sizeof(Word));
  fill<Word>(to, from, first / kSize + threadIdx.x, end / kSize, kThreads);
}

__global__ void __launch_bounds__(kThreads) copy_kernel(const __grid_constant__ CopyGrid grid) {
  const ops::CopySlotsParams& p = grid.p;
  const auto block = static_cast<int>(blockIdx.x);
  const int at = pool_of_block(grid, block);
  const ops::PoolSlots& slots = p.pools[at];
  const std::int64_t first = (block - grid.first_block[at]) * kPieceBytes;
  const std::int64_t end = min(first + kPieceBytes, slots.slot_bytes);
  for (auto i = static_cast<std::int32_t>(blockIdx.y); i < p.count;
       i += static_cast<std::int32_t>(gridDim.y)) {
    if (p.source[i] == kPadIndex || p.destination[i] == kPadIndex) continue;
    std::byte* to = slots.pool + p.destination[i] * slots.slot_stride;
    const std::byte* from = slots.from + p.source[i] * slots.from_stride;
    if (in_words(slots)) {
      copy_piece<uint4>(to, from, first, end);
    } else {
      copy_piece<unsigned char>(to, from, first, end);
    }
  }
}

template <class Word>
__global__ void __launch_bounds__(kThreads)
    zero_kernel(const __grid_constant__ ops::ZeroSlotsParams p) {
  for (std::int32_t i = static_cast<std::int32_t>(blockIdx.y); i < p.count;
       i += static_cast<std::int32_t>(gridDim.y)) {
    if (p.slots[i] == kPadIndex) continue;
    fill<Word>(p.pool + p.slots[i] * p.slot_stride, nullptr, flat_index(),
               p.slot_bytes / static_cast<std::int64_t>(sizeof(Word)), flat_step());
  }
}

bool in_words(const void* base, std::int64_t stride, std::int64_t bytes) {
  const auto address = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(base));
  return ((address | stride | bytes) & 15) == 0;
}

dim3 slot_grid(std::int64_t bytes, std::int32_t count, const core::DeviceInfo& info) {
  return dim3(std::min(grid_for(bytes / 16 + 1, kThreads * 4, info), 256u),
              static_cast<unsigned>(std::min(count, 65535)));
}

Status run_copy(const ops::CopySlotsParams& p, const core::DeviceLaunch& launch) {
  CopyGrid grid{p, {}};
  std::int64_t blocks = 0;
  for (int i = 0; i < p.num_pools; ++i) {
    grid.first_block[i] = static_cast<std::int32_t>(blocks);
    blocks += (p.pools[i].slot_bytes + kPieceBytes - 1) / kPieceBytes;
    if (blocks > INT32_MAX) {
      return error(StatusCode::kUnsupported, "copy_slots: the slots of ", i + 1, " pools have ",
                   blocks, " pieces of ", kPieceBytes, " bytes, must be under 2^31");
    }
  }
  grid.first_block[p.num_pools] = static_cast<std::int32_t>(blocks);
  if (p.count == 0 || blocks == 0) return {};
  const dim3 size(static_cast<unsigned>(blocks), static_cast<unsigned>(std::min(p.count, 65535)));
  copy_kernel<<<size, kThreads, 0, stream_of(launch)>>>(grid);
  return check_launch("copy_slots");
}

Status run_zero(const ops::ZeroSlotsParams& p, const core::DeviceLaunch& launch) {
  if (p.count == 0 || p.slot_bytes == 0) return {};
  const dim3 grid = slot_grid(p.slot_bytes, p.count, *launch.info);
  if (in_words(p.pool, p.slot_stride, p.slot_bytes)) {
    zero_kernel<uint4><<<grid, kThreads, 0, stream_of(launch)>>>(p);
  } else {
    zero_kernel<unsigned char><<<grid, kThreads, 0, stream_of(launch)>>>(p);
  }
  return check_launch("zero_slots");
}

}  // namespace

core::DeviceKernels<ops::CopySlotsParams> copy_slots_kernels() {
  return {{{"smxx", nullptr, nullptr, run_copy}}};
}
core::DeviceKernels<ops::ZeroSlotsParams> zero_slots_kernels() {
  return {{{"smxx", nullptr, nullptr, run_zero}}};
}

}  // namespace hybridattn::cuda
