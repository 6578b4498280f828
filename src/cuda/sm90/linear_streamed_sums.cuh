// The sums of a tile of streamed products, from the warps that make them to those that store
// outputs, in one block or over a cluster of them.
#pragma once

#include <cstdint>

#include "src/cuda/cluster.cuh"
#include "src/cuda/sm90/linear_streamed_cut.cuh"
#include "src/cuda/sm90/wgmma.cuh"

namespace hybridattn::cuda::streamed {

constexpr int kTeams = 2;      // that multiply, each every other chunk
constexpr int kTeamWarps = 4;  // as the wide products want it
constexpr int kTeamThreads = kTeamWarps * 32;
constexpr int kWarps = kTeams * kTeamWarps;  // that multiply; one more copies
constexpr int kMultipliers = kWarps * 32;
/// Of a tile, what a thread of a team has.
template <int Rows>
constexpr int kSumsOfThread = kWide* Rows / kTeamThreads;

__device__ inline void wait_for_multipliers() {
  asm volatile("bar.sync 1, %0;" ::"n"(kMultipliers) : "memory");
}

/// Sums of this block's outputs, [slice][its weights, those of a gate behind][row of x]. Of several
/// tiles two in turn: who sends for the one after the next has had the sums of the next from all
/// blocks, which were done with this before they sent them. The padding keeps columns apart in the
/// banks.
template <int Rows>
struct Gathered {
  alignas(16) float sums[kTeams * kWide][Rows + 2];
};

/// How they come there: see send.
template <int Rows, bool Gated>
struct Exchange {
  static constexpr int kOutputs = Gated ? kWide / 2 : kWide;  // of a tile

  const StreamedCut& cut;
  const int slice, rows;
  std::uint64_t (&arrived)[2];  // sums of all slices
  Gathered<Rows>* const gathered;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int team = warp / kTeamWarps;
  // Weights of a block of the cluster, and its outputs.
  const int weights_log2 = kWideLog2 - cut.slices_log2;
  const int share_log2 = weights_log2 - (Gated ? 1 : 0), share = 1 << share_log2;

  /// By one thread.
  __device__ void prepare() const {
    for (std::uint64_t& barrier : arrived) init_barrier(&barrier, 1);
  }
  /// This thread's sums to the blocks that store their outputs.
  __device__ void send(const float (&sums)[kSumsOfThread<Rows>], int buffer) const {
    const std::uint32_t barrier = shared_address(&arrived[buffer]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int weight = warp % kTeamWarps * 16 + half * 8 + lane / 4, output = weight % kOutputs;
      const auto owner = static_cast<unsigned>(output >> share_log2);
      const int place = ((team * cut.slices() + slice) << weights_log2) +
                        weight / kOutputs * share + (output & (share - 1));
      const std::uint32_t there = address_in_cluster(barrier, owner);
#pragma unroll
      for (int group = 0; group < Rows / 8; ++group) {
        const int row = group * 8 + lane % 4 * 2;
        if (row >= rows) continue;
        const float2 pair = make_float2(sums[group * 4 + half * 2], sums[group * 4 + half * 2 + 1]);
        float* const to = &gathered[buffer].sums[place][row];
        if (cut.slices() == 1) {
          *reinterpret_cast<float2*>(to) = pair;
        } else {
          send_in_cluster(address_in_cluster(shared_address(to), owner), pair, there);
        }
      }
    }
  }
  /// Waits until all of them are here.
  __device__ void gather(int batch) const {
    if (cut.slices() == 1) return wait_for_multipliers();
    const Barrier barrier(&arrived[batch % 2]);
    if (thread == 0) arrive_expecting(barrier, kTeams * kWide * ((rows + 1) / 2) * 8);
    wait_barrier(barrier, batch / 2 % 2);
  }
  /// Sums of all slices, in their order.
  __device__ float total(int buffer, int place, int row) const {
    float sum = 0;
    for (int s = 0; s < kTeams * cut.slices(); ++s) {
      sum += gathered[buffer].sums[(s << weights_log2) + place][row];
    }
    return sum;
  }
};

}  // namespace hybridattn::cuda::streamed
