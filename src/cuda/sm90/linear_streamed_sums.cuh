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

/// Sums of this block's outputs, [slice][its weights, those of a gate behind][place of a row of x].
/// Of several tiles two in turn: who sends for the one after the next has had the sums of the next
/// from all blocks, which were done with this before they sent them. The padding keeps
/// neighbouring columns apart in the banks.
template <int Rows>
struct Gathered {
  alignas(16) float sums[kTeams * kWide][Rows + (Rows > 8 ? 4 : 2)];
};
/// Where a row of x stands there: all that a thread has of one weight, two rows of every eight,
/// side by side.
template <int Rows>
__device__ int place_of_row(int row) {
  return row % 8 / 2 * (Rows / 4) + row / 8 * 2 + row % 2;
}

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
      float of[Rows / 4];  // rows 2 (lane % 4) and the next of every eight
#pragma unroll
      for (int i = 0; i < Rows / 4; ++i) of[i] = sums[i / 2 * 4 + half * 2 + i % 2];
      float* const to = &gathered[buffer].sums[place][lane % 4 * (Rows / 4)];
      if constexpr (Rows == 8) {
        if (lane % 4 * 2 >= rows) continue;
        send_floats(to, make_float2(of[0], of[1]), owner, there);
      } else {
#pragma unroll
        for (int i = 0; i < Rows / 4; i += 4) {
          send_floats(to + i, make_float4(of[i], of[i + 1], of[i + 2], of[i + 3]), owner, there);
        }
      }
    }
  }
  template <class Floats>
  __device__ void send_floats(float* to, Floats values, unsigned owner, std::uint32_t there) const {
    if (cut.slices() == 1) {
      *reinterpret_cast<Floats*>(to) = values;
    } else {
      send_in_cluster(address_in_cluster(shared_address(to), owner), values, there);
    }
  }
  /// Waits until all of them are here.
  __device__ void gather(int batch) const {
    if (cut.slices() == 1) return wait_for_multipliers();
    const Barrier barrier(&arrived[batch % 2]);
    const int sent = Rows == 8 ? (rows + 1) / 2 * 2 : Rows;  // rows
    if (thread == 0) arrive_expecting(barrier, kTeams * kWide * sent * 4);
    wait_barrier(barrier, batch / 2 % 2);
  }
  /// Sums of all slices, in their order.
  __device__ float total(int buffer, int place, int row) const {
    float sum[1];
    totals(buffer, place, row, sum);
    return sum[0];
  }
  /// The same of N neighbours from `place` on.
  template <int N>
  __device__ void totals(int buffer, int place, int row, float (&sum)[N]) const {
    const int at = place_of_row<Rows>(row);
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] = 0;
    constexpr int kAtOnce = N == 1 ? 4 : 1;  // so that some loads are on their way
#pragma unroll kAtOnce
    for (int s = 0; s < kTeams * cut.slices(); s += kTeams) {
#pragma unroll
      for (int t = 0; t < kTeams; ++t) {
#pragma unroll
        for (int i = 0; i < N; ++i) {
          sum[i] += gathered[buffer].sums[((s + t) << weights_log2) + place + i][at];
        }
      }
    }
  }
};

}  // namespace hybridattn::cuda::streamed
