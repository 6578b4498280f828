// Products of some dozens of rows, x [m, k] W^T with W [n, k]: memory still sets the time, but now
// all blocks together read more of x than of the weights. So the blocks of a cluster share x: each
// orders a part of every chunk, which the copy engine brings to all of them at once. As in the
// products of few rows weights are on their way before the kernel in front ends, and the inner
// elements are cut into slices, whose sums meet, where that shares them out more evenly.
//
// Rows of x are the left operand, 64 for a team of warps; weights, 32 to 128 of a tile, the right
// one. A block has a ring of weights and one of x, each with a warp that fills it. Behind a norm
// that was handed on the blocks of a cluster add up the squares of some rows each while x is on its
// way, and tell the others.
#pragma once

#include "src/cuda/grid.cuh"
#include "src/cuda/qk_rows.cuh"
#include "src/cuda/reduce.cuh"
#include "src/cuda/sm90/linear_multicast_outputs.cuh"
#include "src/cuda/sm90/linear_ring.cuh"
#include "src/cuda/sm90/wgmma_narrow.cuh"

namespace hybridattn::cuda::multicast {

constexpr int kHelpers = 2 * 32;  // one warp orders weights, one x
constexpr int kStages = 16;       // of weights, at most
constexpr int kMostXStages = 6;   // of x
// Clock cycles from chunk to chunk of 64 weights before x is there: see streamed products.
constexpr int kPause = 600;
// Shared memory of a block, and its stages of x. Of clusters of eight sixteen have their places
// only where two of their blocks find room in a multiprocessor.
constexpr int kRoom = 180 << 10, kXStages = 6;
constexpr int kRoomOfSlices = 113 << 10, kXStagesOfSlices = 4;

template <int Rows>
constexpr int kThreads = kMultipliers<Rows> + kHelpers;

template <int Rows>
struct alignas(16) Shared {
  std::uint64_t full[kStages], empty[kStages];
  std::uint64_t x_full[kMostXStages], x_empty[kMostXStages];
  std::uint64_t arrived[2];  // see Outputs, whose sums stand behind all this
  std::uint64_t factored;
  int x_is_there;  // or about to come: no pauses any more
  float factors[Rows];
};

template <class X, int Rows, int Width, bool Gated>
struct Multicast {
  using OutputsOf = Outputs<Rows, Width, Gated>;
  static constexpr int kOutputs = Gated ? Width / 2 : Width;  // of a tile
  static constexpr int kWeightBytes = Width * kInnerBytes;    // of a stage
  static constexpr int kXBytes = Rows * kInnerBytes;
  static constexpr int kWarps = kMultipliers<Rows> / 32;  // that multiply

  const LinearCall& p;
  const MulticastCut& cut;
  const LinearMaps& maps;
  std::byte* const weights;
  std::byte* const x = weights + cut.stages * kWeightBytes;
  Shared<Rows>& shared = *reinterpret_cast<Shared<Rows>*>(x + cut.x_stages * kXBytes);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int block = static_cast<int>(blockIdx.x) & ((1 << cut.blocks_log2()) - 1);
  const int slice = block >> cut.shares_log2, share = block & (cut.shares() - 1);
  const int first_sharer = slice << cut.shares_log2;
  const int first_chunk = slice * cut.chunks;
  const int cluster = static_cast<int>(blockIdx.x) >> cut.blocks_log2();
  const int tiles = (static_cast<int>(p.n) + kOutputs - 1) / kOutputs;
  const int rows = static_cast<int>(p.m);
  // Clusters begin at chunks of their own, or all would ask for the same lines of x at once.
  const int turn = cluster % cut.chunks;

  /// Of a block, beside its stages of weights.
  static int fixed_bytes(const MulticastCut& cut) {
    return cut.x_stages * kXBytes + static_cast<int>(sizeof(Shared<Rows>)) + OutputsOf::bytes(cut);
  }

  __device__ OutputsOf outputs() const {
    return {p,
            cut,
            slice,
            share,
            shared.arrived,
            reinterpret_cast<float4*>(&shared + 1),
            divides() ? shared.factors : nullptr};
  }
  __device__ bool divides() const { return p.x_squares.data != nullptr; }

  __device__ void prepare() const {
    if (thread == 0) {
      shared.x_is_there = 0;
      for (int i = 0; i < cut.stages; ++i) {
        init_barrier(&shared.full[i], 1);
        init_barrier(&shared.empty[i], kWarps * kArrivalsOfWarp);
      }
      for (int i = 0; i < cut.x_stages; ++i) {
        init_barrier(&shared.x_full[i], 1);
        init_barrier(&shared.x_empty[i], kWarps * kArrivalsOfWarp << cut.shares_log2);
      }
      init_barrier(&shared.factored, 1);
      outputs().prepare();
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if (cut.blocks_log2() > 0) {
      synchronize_cluster();
    } else {
      __syncthreads();
    }
  }

  /// The tile of this block in a turn of its cluster. Behind the last one there are no weights, but
  /// x is for all that share it.
  __device__ int tile_of(int batch) const {
    return ((batch * cut.clusters + cluster) << cut.shares_log2) + share;
  }
  __device__ int turns() const {
    int count = 0;
    while (count < cut.turns && tile_of(count) - share < tiles) ++count;
    return count;
  }
  /// Chunk `i` of a tile in the order of this cluster.
  __device__ int turned(int i) const {
    return i + turn < cut.chunks ? i + turn : i + turn - cut.chunks;
  }

  __device__ void copy_weights(int stage, int tile, int chunk) const {
    std::byte* const to = weights + stage * kWeightBytes;
    const Barrier full(&shared.full[stage]);
    const int inner = (first_chunk + chunk) * kInner, first = tile * kOutputs;
    arrive_expecting(full, kWeightBytes);
    copy_box(to, maps.weight, inner, first, full);
    if constexpr (Gated) copy_box(to + kWeightBytes / 2, maps.gate_weight, inner, first, full);
  }
  /// Has the second-level cache fetch them.
  __device__ void fetch_weights(int tile, int chunk) const {
    const int inner = (first_chunk + chunk) * kInner, first = tile * kOutputs;
    fetch_box(maps.weight, inner, first);
    if constexpr (Gated) fetch_box(maps.gate_weight, inner, first);
  }
  /// The thread that orders weights: all chunks of all tiles of the block, as stages become free.
  /// Until x is there it takes its time; what of the first tile finds no stage before that waits in
  /// the second-level cache.
  __device__ void order_weights() const {
    const int all = turns() * cut.chunks, ahead = min(all, cut.stages);
    const long long begin = clock64();
    const volatile int* const x_is_there = &shared.x_is_there;
    const auto pause = [&](int i) {
      while (*x_is_there == 0 && clock64() - begin < i * (kPause * Width / 64)) {
      }
    };
    int batch = 0, chunk = 0;
    const auto next = [&] {
      if (++chunk < cut.chunks) return;
      chunk = 0;
      ++batch;
    };
    for (int i = 0; i < ahead; ++i, next()) {
      pause(i);
      copy_weights(i, tile_of(batch), turned(chunk));
    }
    for (int i = ahead; i < cut.chunks && *x_is_there == 0; ++i) {
      pause(i);
      fetch_weights(tile_of(0), turned(i));
    }
    Ring ring;
    for (int i = ahead; i < all; ++i, next()) {
      wait_barrier(&shared.empty[ring.stage], ring.parity);
      copy_weights(ring.stage, tile_of(batch), turned(chunk));
      ring.step(1, cut.stages);
    }
  }

  /// The thread that orders x: this block's share of every chunk for all blocks that share it. A
  /// stage is free when all of them are done with it.
  __device__ void order_x() const {
    wait_for_writers();
    *const_cast<volatile int*>(&shared.x_is_there) = 1;
    const int all = turns() * cut.chunks;
    const int first = share * (Rows >> cut.shares_log2);
    const auto sharers = static_cast<std::uint16_t>(((1 << cut.shares()) - 1) << first_sharer);
    Ring ring;
    int chunk = 0;
    for (int i = 0; i < all; ++i) {
      if (i >= cut.x_stages) wait_barrier(&shared.x_empty[ring.stage], ring.parity ^ 1);
      const Barrier full(&shared.x_full[ring.stage]);
      arrive_expecting(full, kXBytes);
      std::byte* const to = x + ring.stage * kXBytes + first * kInnerBytes;
      const int inner = (first_chunk + turned(chunk)) * kInner;
      if (cut.shares() == 1) {
        copy_box(to, maps.x, inner, first, full);
      } else {
        copy_box_to_all(to, maps.x, inner, first, full, sharers);
      }
      ring.step(1, cut.x_stages);
      if (++chunk == cut.chunks) chunk = 0;
    }
  }

  /// Adds squares up as they were handed on, of some rows for the whole cluster.
  __device__ void add_squares() const {
    constexpr int kAtOnce = 8;
    const int each = Rows >> cut.blocks_log2();  // at least 8
    const int end = (block + 1) * each;
    if (thread == 0) arrive_expecting(&shared.factored, cut.blocks_log2() > 0 ? Rows * 4 : 0);
    for (int first = block * each + warp; first < end; first += kWarps * kAtOnce) {
      float sums[kAtOnce]{};
      add_squares_of<kAtOnce>(first, end, sums);
#pragma unroll
      for (int r = 0; r < kAtOnce; ++r) {
        const int row = first + r * kWarps;
        const float sum = sum_lanes(sums[r]);
        if (row < end) tell_factor(row, rms_factor(sum, p.k, p.norm_epsilon));
      }
    }
    if (cut.blocks_log2() == 0) wait_for_multipliers<Rows>();
  }
  /// To all blocks of the cluster. One that has none cannot be sent anything.
  __device__ void tell_factor(int row, float factor) const {
    if (lane >= 1 << cut.blocks_log2()) return;
    if (cut.blocks_log2() == 0) {
      shared.factors[row] = factor;
      return;
    }
    const auto to = static_cast<unsigned>(lane);
    send_in_cluster(address_in_cluster(shared_address(&shared.factors[row]), to), factor,
                    address_in_cluster(shared_address(&shared.factored), to));
  }
  /// Of every kWarps-th row of [first, end), those of this lane.
  template <int N>
  __device__ void add_squares_of(int first, int end, float (&sums)[N]) const {
    constexpr int kAhead = 4;  // of a lane and row: all of 1,024 elements
    const int all = static_cast<int>(p.k / ops::kLinearSquares);
    const float* const squares = p.x_squares.template as<const float>();
    for (int begin = lane; begin < all; begin += 32 * kAhead) {
      float ahead[N][kAhead];
#pragma unroll
      for (int r = 0; r < N; ++r) {
        const int row = first + r * kWarps;
        const float* const from = squares + p.x_squares.at(row) + begin;
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          const bool valid = row < min(end, rows) && begin + i * 32 < all;
          ahead[r][i] = valid ? __ldcg(from + i * 32) : 0.0f;
        }
      }
#pragma unroll
      for (int r = 0; r < N; ++r) {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) sums[r] += ahead[r][i];
      }
    }
  }

  /// Where the multiplying threads are in both rings.
  struct Place {
    Ring ring, x_ring;
    int left;                // chunks of this tile and the ones behind it
    std::uint32_t x_sharer;  // this lane's of the blocks that share x: its barriers of free stages
    int team;
  };
  __device__ Place place(int all) const {
    const int sharer = first_sharer + min(lane, cut.shares() - 1);
    return {{},
            {},
            all * cut.chunks,
            address_in_cluster(shared_address(shared.x_empty), static_cast<unsigned>(sharer)),
            uniform(warp / kTeamWarps)};
  }
  /// This team's rows of a tile.
  __device__ void multiply_tile(Place& at, float (&sums)[OutputsOf::kSums]) const {
    const std::uint32_t first = shared_address(weights);
    const std::uint32_t x_first = shared_address(x) + at.team * (kTeamRows * kInnerBytes);
    const std::uint32_t full = shared_address(shared.full), x_full = shared_address(shared.x_full);
    Ring before, x_before;
    for (int chunk = 0; chunk < cut.chunks; ++chunk) {
      const std::uint64_t a = matrix_descriptor(x_first + at.x_ring.stage * kXBytes, 0);
      const std::uint64_t b = matrix_descriptor(first + at.ring.stage * kWeightBytes, 0);
      wait_barriers(Barrier(full + at.ring.stage * 8), at.ring.parity,
                    Barrier(x_full + at.x_ring.stage * 8), at.x_ring.parity);
      begin_products();
#pragma unroll
      for (int i = 0; i < kInnerBytes; i += 32) {
        if constexpr (Width == 32) {
          add_product<X>(sums, advance(a, i), advance(b, i));
        } else {
          multiply_shared<X>(sums, advance(a, i), advance(b, i), 1);
        }
      }
      commit_products();
      if (chunk > 0) {
        wait_products<1>();
        free_stages(at, before.stage, x_before.stage);
      }
      before = at.ring;
      x_before = at.x_ring;
      at.ring.step(1, cut.stages);
      at.x_ring.step(1, cut.x_stages);
    }
    wait_products<0>();
    hold(sums);
    free_stages(at, before.stage, x_before.stage);
  }
  /// What no chunk will take nobody waits for, and the blocks that would hear of it may have ended.
  __device__ void free_stages(Place& at, int stage, int x_stage) const {
    arrive_as_warp(Barrier(shared_address(shared.empty) + stage * 8));
    if (--at.left < cut.x_stages) return;
    const std::uint32_t barrier = at.x_sharer + x_stage * 8;
    if constexpr (kArrivalsOfWarp == 1) {
      if (lane < cut.shares()) arrive_in_cluster(barrier);
    } else {
      for (int i = 0; i < cut.shares(); ++i) {
        arrive_in_cluster(__shfl_sync(kAllLanes, barrier, i));
      }
    }
  }

  __device__ void multiply() const {
    const OutputsOf out = outputs();
    const int all = turns();
    wait_for_writers();
    if (divides()) add_squares();
    Place at = place(all);
    for (int batch = 0; batch < all; ++batch) {
      const int tile = tile_of(batch);
      typename OutputsOf::Early early{};
      out.read_early(tile, early);
      float sums[OutputsOf::kSums]{};
      multiply_tile(at, sums);
      if (batch == 0 && divides()) wait_barrier(&shared.factored, 0);
      out.store(tile, sums, early, batch);
    }
  }
};

/// Wide tiles have too many sums for two blocks.
template <int Width>
constexpr int kBlocksBeside = Width == 128 ? 1 : 2;

template <class X, int Rows, int Width, bool Gated>
__global__ void __launch_bounds__(kThreads<Rows>, kBlocksBeside<Width>)
    multicast_kernel(const __grid_constant__ LinearCall p, const __grid_constant__ MulticastCut cut,
                     const __grid_constant__ LinearMaps maps) {
  extern __shared__ __align__(1024) std::byte memory[];
  const Multicast<X, Rows, Width, Gated> work{p, cut, maps, memory};
  if (threadIdx.x == kMultipliers<Rows>) {
    prefetch_map(maps.weight);
    if constexpr (Gated) prefetch_map(maps.gate_weight);
    prefetch_map(maps.x);
  }
  work.prepare();
  let_next_begin();  // which copies its weights while this kernel still waits
  const int helper = work.warp - work.kWarps;
  if (helper < 0) {
    work.multiply();
  } else if (helper == 0) {
    if (work.lane == 0) work.order_weights();
  } else if (work.lane == 0) {
    work.order_x();
  }
}

}  // namespace hybridattn::cuda::multicast
