// A copy of its own costs a step some 4 us, however small; a kernel that reads pinned memory itself
// does all arrays of a step in about the time of one.
#include "src/cuda/upload.h"

#include <algorithm>

#include "src/cuda/check.h"

namespace hybridattn::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kMostBlocks = 32;  // of a copy
constexpr std::uint32_t kWord = 16;

/// A row of blocks for each copy.
__global__ void __launch_bounds__(kThreads)
    copies_kernel(const __grid_constant__ SmallCopies copies) {
  const SmallCopy copy = copies.all[blockIdx.y];
  const std::uint32_t first = blockIdx.x * kThreads + threadIdx.x, step = gridDim.x * kThreads;
  const auto together =
      reinterpret_cast<std::uintptr_t>(copy.to) | reinterpret_cast<std::uintptr_t>(copy.from);
  const std::uint32_t words = together % kWord == 0 ? copy.bytes / kWord : 0;
  for (std::uint32_t i = first; i < words; i += step) {
    reinterpret_cast<uint4*>(copy.to)[i] = __ldcv(reinterpret_cast<const uint4*>(copy.from) + i);
  }
  for (std::uint32_t i = words * kWord + first; i < copy.bytes; i += step) {
    copy.to[i] =
        static_cast<std::byte>(__ldcv(reinterpret_cast<const std::uint8_t*>(copy.from) + i));
  }
  // Kernels that begin when the blocks of this one have ended may read it before they wait.
  __threadfence();
}

}  // namespace

Status launch_copies(const SmallCopies& copies, void* stream) {
  if (copies.count == 0) return {};
  std::uint32_t longest = 0;
  for (std::uint32_t i = 0; i < copies.count; ++i) longest = std::max(longest, copies.all[i].bytes);
  const std::uint32_t blocks = (longest + kThreads * kWord - 1) / (kThreads * kWord);
  const dim3 grid(std::clamp(blocks, 1u, kMostBlocks), copies.count);
  copies_kernel<<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(copies);
  return check_launch("upload");
}

}  // namespace hybridattn::cuda
