// Thread block clusters: a barrier over their blocks, and reads of a neighbour's shared memory.
#pragma once

#include <cstdint>

namespace hybridattn::cuda {

#if __CUDA_ARCH__ >= 900
__device__ inline void sync_cluster() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

/// The float that block `rank` of the cluster has at the same place as `here`.
__device__ inline float load_from_block(const float* here, unsigned rank) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(here));
  float value;
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %1, %2;\n"
      "ld.shared::cluster.f32 %0, [there];\n}"
      : "=f"(value)
      : "r"(address), "r"(rank)
      : "memory");
  return value;
}
#endif

}  // namespace hybridattn::cuda
