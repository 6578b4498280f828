// Products of few rows, x [m, k] W^T with W [n, k]: memory sets the time, and between two products
// it must not rest. Weights depend on no kernel, so a thread of each block orders them to a ring of
// stages in shared memory as soon as the block has its place, which is long before the kernel in
// front ends: blocks take few registers and leave shared memory for those of other kernels. What is
// left when x is there are products out of shared memory.
//
// A tile is 64 weights; a stage holds 64 inner elements of them and of all rows of x. In the
// products weights are the left operand, 64 high, and x the right one, as wide as it has rows, so
// that few rows cost little. Where that shares them out more evenly the inner elements are cut into
// slices for the blocks of a cluster, which send one another their sums. With weights of a gate a
// tile has 32 of each.
//
// With a norm the threads that multiply make x (1 + weight) themselves, once and beside the stages,
// and add up its squares, so that the root mean square divides the sums, and no kernel has to go
// through x before. Better still the product that makes x hands both on.
#pragma once

#include "src/cuda/cluster.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/linear_call.cuh"
#include "src/cuda/linear_x.cuh"
#include "src/cuda/qk_rows.cuh"
#include "src/cuda/reduce.cuh"
#include "src/cuda/sm90/linear_ring.cuh"
#include "src/cuda/sm90/linear_streamed_cut.cuh"
#include "src/cuda/sm90/linear_streamed_outputs.cuh"
#include "src/cuda/sm90/linear_streamed_sums.cuh"
#include "src/cuda/sm90/wgmma_narrow.cuh"

namespace hybridattn::cuda::streamed {

constexpr int kThreads = kMultipliers + 32;
constexpr int kRowBytes = kInner * 2;
constexpr int kTileBytes = kWide * kRowBytes;
constexpr int kPiece = 8;                 // elements of 16 bytes
constexpr int kPieces = kInner / kPiece;  // of a row of a stage
constexpr int kStages = 16;               // at most
constexpr int kFetched = 24;              // chunks in stages and in the second-level cache, at most
constexpr int kLeastStages = 6;
constexpr int kNormedRows = 16;         // behind a norm, at most
constexpr int kNormedBytes = 64 << 10;  // of them, at most
// Shared memory of a block. More than half of what there is: then all weights of a tile of 1,024
// elements lie there when x comes, which is worth more than the next kernel's beside them. With 32
// rows of x less serves better, so that beside a block of one tile stands one that multiplies what
// it makes.
constexpr int kRoom = 140 << 10, kRoomBeside = 116 << 10;
// Clock cycles from chunk to chunk before x is there. At full speed the reads of the kernels in
// front, on which all wait, would queue behind weights that nobody needs yet.
constexpr int kPause = 600;

template <int Rows>
struct alignas(16) Shared {
  std::uint64_t full[kStages], empty[kStages];
  alignas(8) int x_is_there;  // or about to come: no pauses any more
  float squares[kWarps][Rows];
  float factors[Rows];       // that divide the sums of a row by its root mean square
  std::uint64_t arrived[2];  // see Exchange, whose sums stand behind all this
};
template <int Rows>
constexpr int stage_bytes(bool normed) {
  return kTileBytes + (normed ? 0 : Rows * kRowBytes);
}
/// Of x behind a norm, all of a slice.
template <int Rows>
__host__ __device__ int normed_bytes(const StreamedCut& cut) {
  return cut.slice_chunks * Rows * kRowBytes;
}
/// Of a block, beside its stages.
template <int Rows>
int fixed_bytes(const StreamedCut& cut, bool normed) {
  return static_cast<int>(sizeof(Shared<Rows>)) +
         cut.buffers * static_cast<int>(sizeof(Gathered<Rows>)) +
         (normed ? normed_bytes<Rows>(cut) : 0);
}

template <class X, int Rows, bool Gated, bool Normed>
struct Streamed {
  static constexpr int kOutputs = Gated ? kWide / 2 : kWide;  // of a tile
  static constexpr int kSums = kSumsOfThread<Rows>;
  static constexpr int kStage = stage_bytes<Rows>(Normed);
  static constexpr int kRowsOfWarp = (Rows + kWarps - 1) / kWarps;
  static constexpr int kSquaresAhead = 4;  // of a lane and row: all of 1,024 elements

  const LinearCall& p;
  const StreamedCut& cut;
  const LinearMaps& maps;
  std::byte* const stages;
  std::byte* const normed = stages + cut.stages * kStage;  // [chunk][row], swizzled
  Shared<Rows>& shared =
      *reinterpret_cast<Shared<Rows>*>(normed + (Normed ? normed_bytes<Rows>(cut) : 0));
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int team = warp / kTeamWarps;
  const int slice = static_cast<int>(blockIdx.x) & (cut.slices() - 1);
  const int first_chunk = slice * cut.slice_chunks;
  const int chunks = max(0, min(cut.chunks - first_chunk, cut.slice_chunks));
  const int first_tile = static_cast<int>(blockIdx.x) >> cut.slices_log2;
  const int step = static_cast<int>(gridDim.x) >> cut.slices_log2;
  const Exchange<Rows, Gated> exchange{cut, slice, static_cast<int>(p.m), shared.arrived,
                                       reinterpret_cast<Gathered<Rows>*>(&shared + 1)};
  const int rows = static_cast<int>(p.m);
  // Blocks begin at chunks of their own, or all would ask for the same lines of x at once.
  const int turn = chunks > 0 ? first_tile % chunks : 0;

  __device__ void prepare() const {
    if (thread == 0) {
      shared.x_is_there = 0;
      for (int i = 0; i < cut.stages; ++i) {
        init_barrier(&shared.full[i], Normed ? 1 : 2);
        init_barrier(&shared.empty[i], kTeamWarps * kArrivalsOfWarp);
      }
      exchange.prepare();
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if (cut.slices() > 1) {
      synchronize_cluster();
    } else {
      __syncthreads();
    }
  }

  /// Chunk `i` of a tile in the order of this block.
  __device__ int turned(int i) const { return i + turn < chunks ? i + turn : i + turn - chunks; }
  /// Orders the weights of a chunk.
  __device__ void copy_weights(int stage, int tile, int chunk) const {
    std::byte* const to = stages + stage * kStage;
    const Barrier full(&shared.full[stage]);
    const int inner = (first_chunk + chunk) * kInner, first = tile * kOutputs;
    arrive_expecting(full, kTileBytes);
    copy_box(to, maps.weight, inner, first, full);
    if constexpr (Gated) copy_box(to + kTileBytes / 2, maps.gate_weight, inner, first, full);
  }
  /// Has the second-level cache fetch them.
  __device__ void fetch_weights(int tile, int chunk) const {
    const int inner = (first_chunk + chunk) * kInner, first = tile * kOutputs;
    fetch_box(maps.weight, inner, first);
    if constexpr (Gated) fetch_box(maps.gate_weight, inner, first);
  }
  /// Orders x of a chunk.
  __device__ void copy_x(int stage, int chunk) const {
    const Barrier full(&shared.full[stage]);
    arrive_expecting(full, Rows * kRowBytes);
    copy_box(stages + stage * kStage + kTileBytes, maps.x, (first_chunk + chunk) * kInner, 0, full);
  }
  /// How many chunks this block has in all its tiles.
  __device__ int all_chunks() const {
    return first_tile < cut.tiles ? (cut.tiles - first_tile + step - 1) / step * chunks : 0;
  }
  /// The thread that copies: all chunks of all tiles of the block, as stages become free. Until x
  /// is there it takes its time, and leaves x of the first stages to others.
  __device__ void copy() const {
    const int all = all_chunks(), ahead = min(all, cut.stages);
    const long long begin = clock64();
    const volatile int* const x_is_there = &shared.x_is_there;
    int tile = first_tile, chunk = 0;
    const auto next = [&] {
      if (++chunk < chunks) return;
      chunk = 0;
      tile += step;
    };
    const auto pause = [&](int i) {
      while (*x_is_there == 0 && clock64() - begin < i * kPause) {
      }
    };
    for (int i = 0; i < ahead; ++i, next()) {
      pause(i);
      copy_weights(i, tile, turned(chunk));
    }
    // What of the first tile finds no stage before x is there waits in the second-level cache.
    for (int i = ahead; i < min(chunks, kFetched) && *x_is_there == 0; ++i) {
      pause(i);
      fetch_weights(tile, turned(i));
    }
    Ring ring;
    for (int i = ahead; i < all; ++i, next()) {
      wait_barrier(&shared.empty[ring.stage], ring.parity);
      copy_weights(ring.stage, tile, turned(chunk));
      if constexpr (!Normed) copy_x(ring.stage, turned(chunk));
      ring.advance(1, cut.stages);
    }
  }

  __device__ void wait_for_x() const {
    wait_for_writers();
    if (thread == 0) shared.x_is_there = 1;
  }
  /// x (1 + weight) of this block's slice to shared memory, zeros behind the last element, and the
  /// squares of all of x.
  __device__ void take_x() const {
    const int all = static_cast<int>(p.k) / kPiece;
    const int own = first_chunk * kPieces, own_end = own + chunks * kPieces;
    float squares[Rows]{};
    float4 weight[2]{};
    const int own_piece = thread % kTeamThreads;
    if (own_piece < all) load_constants(p.norm_weight + own_piece * kPiece, weight);
    wait_for_x();
    for (int piece = own_piece; piece < max(all, own_end); piece += kTeamThreads) {
      const bool valid = piece < all, kept = piece >= own && piece < own_end;
      if (valid && piece != own_piece) load_constants(p.norm_weight + piece * kPiece, weight);
#pragma unroll
      for (int first = 0; first < Rows; first += 4) {
        if (first >= rows) break;
        if (first / 4 % kTeams != team) continue;
        take_piece(first, piece, valid, kept, weight, squares);
      }
    }
#pragma unroll
    for (int row = 0; row < Rows; ++row) {
      if (row >= rows) break;
      const float sum = sum_lanes(squares[row]);
      if (lane == 0) shared.squares[warp][row] = sum;
    }
    fence_async_proxy();
    wait_for_multipliers();
  }
  /// The same of eight elements of four rows, whose loads are on the way together.
  __device__ void take_piece(int first, int piece, bool valid, bool kept, const float4 (&weight)[2],
                             float (&squares)[Rows]) const {
    float4 x[4][2]{};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!valid || first + i >= rows) continue;
      const float* const from = reinterpret_cast<const float*>(p.x.data);
      load_eight(from + (first + i) * p.x.stride[0] + piece * kPiece, x[i]);
    }
    const int place = piece - first_chunk * kPieces;
    std::byte* const to = normed + place / kPieces * Rows * kRowBytes;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first + i;
      squares[row] = add_squares(x[i], squares[row]);
      if (!kept) continue;
      const int swizzled = (place % kPieces ^ row % 8) * 16;
      *reinterpret_cast<uint4*>(to + row * kRowBytes + swizzled) = weigh(x[i], weight);
    }
  }
  /// Squares of x as they were handed on, of the rows of this warp, the first of each lane.
  struct Squares {
    float of[kRowsOfWarp][kSquaresAhead];
  };
  __device__ const float* squares_of(int row) const {
    return p.x_squares.template as<const float>() + p.x_squares.at(row);
  }
  __device__ int all_squares() const { return static_cast<int>(p.k / ops::kLinearSquares); }
  /// Orders them: they come while the products run.
  __device__ void order_squares(Squares& squares) const {
#pragma unroll
    for (int r = 0; r < kRowsOfWarp; ++r) {
      const int row = warp + r * kWarps;
#pragma unroll
      for (int part = 0; part < kSquaresAhead; ++part) {
        const int i = part * 32 + lane;
        const bool valid = row < rows && i < all_squares();
        squares.of[r][part] = valid ? __ldcg(squares_of(row) + i) : 0.0f;
      }
    }
  }
  __device__ void take_squares(const Squares& squares) const {
#pragma unroll
    for (int r = 0; r < kRowsOfWarp; ++r) {
      const int row = warp + r * kWarps;
      if (row >= rows) break;
      float sum = 0;
#pragma unroll
      for (int part = 0; part < kSquaresAhead; ++part) sum += squares.of[r][part];
#pragma unroll 2
      for (int i = kSquaresAhead * 32 + lane; i < all_squares(); i += 32) {
        sum += __ldcg(squares_of(row) + i);
      }
      sum = sum_lanes(sum);
      if (lane == 0) shared.factors[row] = rms_factor(sum, p.k, p.norm_epsilon);
    }
    let_factors_be_seen();
  }
  /// The same of squares that this block added up.
  __device__ void add_squares_of_warps() const {
    if (thread < rows) {
      float sum = shared.squares[0][thread];
#pragma unroll
      for (int w = 1; w < kWarps; ++w) sum += shared.squares[w][thread];
      shared.factors[thread] = rms_factor(sum, p.k, p.norm_epsilon);
    }
    let_factors_be_seen();
  }
  /// What comes from other blocks says nothing of other warps of this one. In a block of its own
  /// gather does.
  __device__ void let_factors_be_seen() const {
    if (cut.slices() > 1) wait_for_multipliers();
  }
  __device__ bool divides() const { return Normed || p.x_squares.data != nullptr; }

  /// This team's part of a tile whose first chunk has the place `ring`: each stage is always of the
  /// same team, or one could take what the other has not had yet for the next turn.
  __device__ void multiply_tile(Ring& ring, int first, float (&sums)[kSums]) const {
    int before = -1;
    const int all = uniform(chunks), ring_stages = uniform(cut.stages);
    const std::uint32_t stage_first = shared_address(stages), full = shared_address(shared.full);
    Ring own = ring;
    own.advance(first, ring_stages);
    ring.advance(all, ring_stages);
    for (int chunk = first; chunk < all; chunk += kTeams) {
      const std::uint32_t stage = stage_first + own.stage * kStage;
      const std::uint32_t x =
          Normed ? shared_address(normed) + turned(chunk) * Rows * kRowBytes : stage + kTileBytes;
      const std::uint64_t left = matrix_descriptor(stage, 0);
      const std::uint64_t right = matrix_descriptor(x, 0);
      wait_barrier(Barrier(full + own.stage * 8), own.parity);
      begin_products();
#pragma unroll
      for (int i = 0; i < kRowBytes; i += 32) {
        add_product<X>(sums, advance(left, i), advance(right, i));
      }
      commit_products();
      if (before >= 0) {
        wait_products<1>();
        arrive_as_warp(&shared.empty[before]);
      }
      before = own.stage;
      own.step(kTeams, ring_stages);
    }
    wait_products<0>();
    hold(sums);
    if (before >= 0) arrive_as_warp(&shared.empty[before]);
  }

  __device__ void multiply() const {
    Squares squares{};
    if constexpr (Normed) {
      take_x();
      add_squares_of_warps();
    } else {
      wait_for_x();
      if (thread < min(all_chunks(), cut.stages)) copy_x(thread, turned(thread % chunks));
      if (divides()) order_squares(squares);
    }
    const Outputs<Rows, Gated> outputs{p, cut, exchange, divides() ? shared.factors : nullptr};
    Ring ring;
    int batch = 0;
    for (int tile = first_tile; tile < cut.tiles; tile += step, ++batch) {
      typename Outputs<Rows, Gated>::Early early;
      outputs.read_early(tile, early);
      float sums[kSums]{};
      multiply_tile(ring, (team + batch * chunks) % kTeams, sums);
      if constexpr (!Normed) {
        if (batch == 0 && divides()) take_squares(squares);
      }
      exchange.send(sums, batch % 2);
      exchange.gather(batch);
      outputs.store(tile, early, batch % 2);
      // What any thread sends next says of all of them that they are done with this tile.
      if (cut.slices() > 1) wait_for_multipliers();
    }
  }
};

/// Blocks for which a multiprocessor must have registers: of few rows those of this kernel, of the
/// ones in front and behind, and of the delta rule between them. Of more rows two find shared
/// memory, and behind a norm registers are needed.
template <int Rows, bool Normed>
constexpr int kBlocksBeside = Normed || Rows > 16 ? 2 : 4;

template <class X, int Rows, bool Gated, bool Normed>
__global__ void __launch_bounds__(kThreads, kBlocksBeside<Rows, Normed>)
    streamed_kernel(const __grid_constant__ LinearCall p, const __grid_constant__ StreamedCut cut,
                    const __grid_constant__ LinearMaps maps) {
  extern __shared__ __align__(1024) std::byte memory[];
  const Streamed<X, Rows, Gated, Normed> work{p, cut, maps, memory};
  if (threadIdx.x == kMultipliers) {
    prefetch_map(maps.weight);
    if constexpr (Gated) prefetch_map(maps.gate_weight);
    if constexpr (!Normed) prefetch_map(maps.x);
  }
  work.prepare();
  let_next_begin();  // which copies its weights while this kernel still waits
  if (work.warp < kWarps) {
    work.multiply();
  } else if (work.lane == 0) {
    work.copy();
  }
}

}  // namespace hybridattn::cuda::streamed
