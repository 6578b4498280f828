// Whole slots on CUDA, as plain bytes: 16 at a time where a slot allows it.
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"

namespace hybridattn::cuda {
namespace {

constexpr int kThreads = 256;

/// Copies or, without `from`, zeroes `bytes` bytes with the threads of the grid's x dimension.
template <class Word>
__device__ void fill(std::byte* to, const std::byte* from, std::int64_t bytes) {
  auto* words = reinterpret_cast<Word*>(to);
  const auto* source = reinterpret_cast<const Word*>(from);
  const auto count = bytes / static_cast<std::int64_t>(sizeof(Word));
  for (std::int64_t i = flat_index(); i < count; i += flat_step()) {
    words[i] = source == nullptr ? Word{} : source[i];
  }
}

template <class Word>
__global__ void __launch_bounds__(kThreads)
    copy_kernel(const __grid_constant__ ops::CopySlotsParams p) {
  for (std::int32_t i = static_cast<std::int32_t>(blockIdx.y); i < p.count;
       i += static_cast<std::int32_t>(gridDim.y)) {
    if (p.source[i] == kPadIndex || p.destination[i] == kPadIndex) continue;
    fill<Word>(p.pool + p.destination[i] * p.slot_stride, p.from + p.source[i] * p.from_stride,
               p.slot_bytes);
  }
}

template <class Word>
__global__ void __launch_bounds__(kThreads)
    zero_kernel(const __grid_constant__ ops::ZeroSlotsParams p) {
  for (std::int32_t i = static_cast<std::int32_t>(blockIdx.y); i < p.count;
       i += static_cast<std::int32_t>(gridDim.y)) {
    if (p.slots[i] == kPadIndex) continue;
    fill<Word>(p.pool + p.slots[i] * p.slot_stride, nullptr, p.slot_bytes);
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
  if (p.count == 0 || p.slot_bytes == 0) return {};
  const dim3 grid = slot_grid(p.slot_bytes, p.count, *launch.info);
  if (in_words(p.pool, p.slot_stride, p.slot_bytes) &&
      in_words(p.from, p.from_stride, p.slot_bytes)) {
    copy_kernel<uint4><<<grid, kThreads, 0, stream_of(launch)>>>(p);
  } else {
    copy_kernel<unsigned char><<<grid, kThreads, 0, stream_of(launch)>>>(p);
  }
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
