// How products whose blocks share x are cut for the blocks of a device.
#pragma once

#include <algorithm>
#include <cstdint>

#include "src/cuda/linear_call.cuh"

namespace hybridattn::cuda::multicast {

constexpr int kInner = 64;               // elements of a chunk
constexpr int kInnerBytes = kInner * 2;  // of one row
constexpr int kMostBlocks = 8;           // of a cluster
constexpr int kMostShares = 2;
constexpr int kGroup = 8;  // outputs of a row that stay together

/// How a call is cut. A cluster has 2^slices_log2 slices of the inner elements, and of each slice
/// 2^shares_log2 blocks with a tile each, to which every one of them sends its share of x.
struct MulticastCut {
  int width;  // weights of a tile, half of them of a gate where there is one
  int slices_log2;
  int shares_log2;
  int chunks;  // of kInner elements in a slice; behind the last element of a row are zeros
  int turns;   // of tiles that a cluster takes, at most
  int clusters;
  int stages;    // of weights
  int x_stages;  // of x
  int buffers;   // of sums: one where there is one turn
  bool packs;    // neighbouring outputs can be read and stored at once

  __host__ __device__ int slices() const { return 1 << slices_log2; }
  __host__ __device__ int shares() const { return 1 << shares_log2; }
  __host__ __device__ int blocks_log2() const { return slices_log2 + shares_log2; }
};

/// Weights of a tile that is cut into slices: a block has 4,096 sums to send.
constexpr int sliced_width(int rows) { return 4096 / rows; }

/// Clusters that have their places at once: two multiprocessors always make a cluster; of 16 or 18
/// that can make larger ones two may be left.
inline int clusters_at_once(int blocks_log2, int num_sms) {
  if (blocks_log2 <= 1) return std::max(1, num_sms >> blocks_log2);
  return std::max(1, num_sms / 16 * 16 >> blocks_log2);
}

inline int outputs_of_tile(const LinearCall& p, int width) {
  return p.gate_weight.data != nullptr ? width / 2 : width;
}

/// Clock cycles that a cut takes, by what it has to move: weights out of memory, weights and x out
/// of the second-level cache, both into shared memory, then the products and an exchange of sums.
inline std::int64_t clocks_of(const MulticastCut& cut, int rows) {
  constexpr int kMemory = 1700, kCache = 3200,
                kBlock = 48;  // bytes a clock, of the device, a block
  constexpr int kExchange = 1500, kTurn = 800;
  const std::int64_t blocks = std::int64_t{cut.clusters} << cut.blocks_log2();
  const std::int64_t weights = std::int64_t{cut.width} * kInnerBytes;
  const std::int64_t x = std::int64_t{rows} * kInnerBytes;
  const std::int64_t products = std::int64_t{rows} / 64 * kInner / 16 * (cut.width / 2);
  const std::int64_t chunk =
      std::max({weights * blocks / kMemory, (weights + x / cut.shares()) * blocks / kCache,
                (weights + x) / kBlock, products});
  const std::int64_t sums =
      cut.slices() > 1 ? kExchange + std::int64_t{rows} * cut.width * 4 / kBlock : 0;
  return cut.turns * (cut.chunks * chunk + kTurn + sums);
}

/// The cut that takes least. `rows`: that the kernel has room for.
inline MulticastCut cut_of(const LinearCall& p, int rows, int num_sms) {
  MulticastCut best{};
  std::int64_t least = 0;
  const auto chunks = static_cast<int>((p.k + kInner - 1) / kInner);
  const auto consider = [&](int width, int slices_log2, int shares_log2) {
    const int outputs = outputs_of_tile(p, width);
    const std::int64_t tiles = (p.n + outputs - 1) / outputs;
    const std::int64_t groups = (tiles + (1 << shares_log2) - 1) >> shares_log2;
    const std::int64_t at_once = clusters_at_once(slices_log2 + shares_log2, num_sms);
    const std::int64_t turns = (groups + at_once - 1) / at_once;
    MulticastCut cut{width, slices_log2, shares_log2};
    cut.chunks = (chunks + (1 << slices_log2) - 1) >> slices_log2;
    cut.turns = static_cast<int>(turns);
    cut.clusters = static_cast<int>((groups + turns - 1) / turns);
    cut.buffers = turns > 1 ? 2 : 1;
    const std::int64_t clocks = clocks_of(cut, rows);
    if (least != 0 && clocks >= least) return;
    best = cut;
    least = clocks;
  };
  for (const int width : {64, 128}) {
    for (int shares = 0; 1 << shares <= kMostShares; ++shares) consider(width, 0, shares);
  }
  const int width = sliced_width(rows);
  for (int shares = 0; 1 << shares <= kMostShares; ++shares) {
    for (int slices = 1; 1 << (slices + shares) <= kMostBlocks; ++slices) {
      if (outputs_of_tile(p, width) >> slices < kGroup || chunks >> slices < 2) break;
      consider(width, slices, shares);
    }
  }
  return best;
}

}  // namespace hybridattn::cuda::multicast
