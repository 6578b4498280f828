// How streamed products are cut for the blocks of a device.
#pragma once

#include <algorithm>
#include <cstdint>

#include "src/cuda/linear_call.cuh"

namespace hybridattn::cuda {

constexpr int kWideLog2 = 6;
constexpr int kWide = 1 << kWideLog2;  // weights of a tile
constexpr int kInner = 64;             // elements of a chunk
constexpr int kMostSlices = 8;         // blocks of a cluster

/// How a call is cut.
struct StreamedCut {
  int slices_log2;
  int chunks;        // of kInner elements in a row
  int slice_chunks;  // in a slice, but the last, which may have fewer
  int tiles;
  int stages;
  int buffers;  // of sums: one where no block has several tiles
  bool pieces;  // eight neighbouring outputs can be read and stored at once

  __host__ __device__ int slices() const { return 1 << slices_log2; }
};

/// Clusters that have their places at once: of 16 or 18 multiprocessors that can make a cluster two
/// may be left.
inline int clusters_of(int slices, int num_sms) {
  return slices == 1 ? num_sms : std::max(1, num_sms / 16 * 16 / slices);
}

/// Slices, as a power of 2, by which the multiprocessors have the least to do, in halves of chunks;
/// an exchange of sums takes as long as five. The same for every number of rows.
inline int slices_log2_of(std::int64_t chunks, std::int64_t tiles, int num_sms) {
  int best = 0;
  std::int64_t least = 0;
  for (int log2 = 0; 1 << log2 <= kMostSlices; ++log2) {
    const std::int64_t slices = std::int64_t{1} << log2;
    if (log2 > 0 && chunks < 2 * slices) break;
    const std::int64_t clusters = clusters_of(1 << log2, num_sms);
    const std::int64_t turns = (tiles + clusters - 1) / clusters;
    const std::int64_t time = turns * (2 * ((chunks + slices - 1) / slices) + (log2 > 0 ? 5 : 0));
    if (log2 > 0 && time >= least) continue;
    best = log2;
    least = time;
  }
  return best;
}

/// With weights of a gate half of a tile's weights are those.
inline int outputs_of_tile(const LinearCall& p) {
  return p.gate_weight.data != nullptr ? kWide / 2 : kWide;
}

inline StreamedCut cut_of(const LinearCall& p, int num_sms) {
  const int outputs = outputs_of_tile(p);
  StreamedCut cut{};
  cut.tiles = static_cast<int>((p.n + outputs - 1) / outputs);
  cut.chunks = static_cast<int>((p.k + kInner - 1) / kInner);
  cut.slices_log2 = slices_log2_of(cut.chunks, cut.tiles, num_sms);
  cut.slice_chunks = (cut.chunks + cut.slices() - 1) / cut.slices();
  return cut;
}

}  // namespace hybridattn::cuda
