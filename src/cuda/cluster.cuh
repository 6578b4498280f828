// Clusters of blocks from sm_90 on: each can write to the shared memory of the others.
#pragma once

#include <cstdint>

namespace hybridattn::cuda {

/// All threads of all blocks of the cluster; what they wrote to shared memory before, all see.
__device__ inline void synchronize_cluster() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}
/// Where block `rank` of the cluster has what lies at `address` of this one's shared memory.
__device__ inline std::uint32_t address_in_cluster(std::uint32_t address, unsigned rank) {
  std::uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
/// Writes two floats there, and tells the barrier there when they have arrived, as of 8 bytes of a
/// bulk copy. Not where blocks make no clusters.
__device__ inline void send_in_cluster(std::uint32_t to, float2 values, std::uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::
          "r"(to),
      "f"(values.x), "f"(values.y), "r"(barrier)
      : "memory");
}

/// The same of one.
__device__ inline void send_in_cluster(std::uint32_t to, float value, std::uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(to),
      "f"(value), "r"(barrier)
      : "memory");
}
/// The same of four, at a multiple of 16 bytes.
__device__ inline void send_in_cluster(std::uint32_t to, float4 values, std::uint32_t barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(to),
      "f"(values.x), "f"(values.y), "f"(values.z), "f"(values.w), "r"(barrier)
      : "memory");
}

/// Arrives at a barrier there, ordered only against what this block sees: with the cluster's scope
/// each arrival waits for memory, a thousand clock cycles.
__device__ inline void arrive_in_cluster(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

}  // namespace hybridattn::cuda
