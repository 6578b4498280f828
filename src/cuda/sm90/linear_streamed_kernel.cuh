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

#include <cuda.h>

#include "src/cuda/cluster.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/linear_call.cuh"
#include "src/cuda/linear_x.cuh"
#include "src/cuda/qk_rows.cuh"
#include "src/cuda/reduce.cuh"
#include "src/cuda/sm90/linear_streamed_cut.cuh"
#include "src/cuda/sm90/linear_streamed_sums.cuh"
#include "src/cuda/sm90/wgmma_narrow.cuh"

namespace hybridattn::cuda::streamed {

constexpr int kThreads = kMultipliers + 32;
constexpr int kRowBytes = kInner * 2;
constexpr int kTileBytes = kWide * kRowBytes;
constexpr int kPiece = 8;                 // elements of 16 bytes
constexpr int kPieces = kInner / kPiece;  // of a row of a stage
constexpr int kStages = 16;               // at most
constexpr int kLeastStages = 6;
constexpr int kNormedRows = 16;         // behind a norm, at most
constexpr int kNormedBytes = 64 << 10;  // of them, at most
// Shared memory of a block. More than half of what there is: then all weights of a tile of 1,024
// elements lie there when x comes, which is worth more than the next kernel's beside them. With 32
// rows of x less serves better, so that beside a block of one tile stands one that multiplies what
// it makes.
constexpr int kRoom = 140 << 10, kRoomBeside = 116 << 10;
constexpr int kMostShared = 227 << 10;  // that a block may have
// Clock cycles from chunk to chunk before x is there. At full speed the reads of the kernels in
// front, on which all wait, would queue behind weights that nobody needs yet.
constexpr int kPause = 600;

/// What the copy engine reads.
struct Maps {
  CUtensorMap weight, gate_weight, x;
};

template <int Rows>
struct alignas(16) Shared {
  std::uint64_t full[kStages], empty[kStages];
  alignas(8) int x_is_there;  // or about to come: no pauses any more
  float squares[kWarps][Rows];
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

__device__ inline void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

struct Ring {
  int stage = 0, parity = 0;
  __device__ void advance(int by, int stages) {
    for (stage += by; stage >= stages; stage -= stages) parity ^= 1;
  }
};

template <class X, int Rows, bool Gated, bool Normed>
struct Streamed {
  static constexpr int kOutputs = Gated ? kWide / 2 : kWide;  // of a tile
  static constexpr int kSums = kSumsOfThread<Rows>;
  static constexpr int kStage = stage_bytes<Rows>(Normed);
  static constexpr int kAhead = 2;  // outputs of a thread that are read before their sums are there

  const LinearCall& p;
  const StreamedCut& cut;
  const Maps& maps;
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
  const int share_log2 = exchange.share_log2, share = exchange.share;  // outputs of this block
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
    for (int i = 0; i < ahead; ++i, next()) {
      while (*x_is_there == 0 && clock64() - begin < i * kPause) {
      }
      copy_weights(i, tile, turned(chunk));
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
  /// The squares of x as they were handed on, a warp for each row.
  __device__ void take_squares() const {
    const int sums = static_cast<int>(p.k / ops::kLinearSquares);
    for (int row = warp; row < rows; row += kWarps) {
      const float* const from = p.x_squares.template as<const float>() + p.x_squares.at(row);
      float sum = 0;
#pragma unroll 4
      for (int i = lane; i < sums; i += 32) sum += __ldcg(from + i);
      sum = sum_lanes(sum);
      if (lane == 0) shared.squares[0][row] = sum;
    }
    // What comes from other blocks says nothing of other warps of this one.
    if (cut.slices() > 1) wait_for_multipliers();
  }
  /// What the sums of a row are multiplied with.
  __device__ float norm_factor(int row) const {
    float sum = shared.squares[0][row];
    if constexpr (Normed) {
#pragma unroll
      for (int w = 1; w < kWarps; ++w) sum += shared.squares[w][row];
    }
    return rms_factor(sum, p.k, p.norm_epsilon);
  }
  __device__ bool divides() const { return Normed || p.x_squares.data != nullptr; }

  /// This team's part of a tile whose first chunk has the place `ring`: each stage is always of the
  /// same team, or one could take what the other has not had yet for the next turn.
  __device__ void multiply_tile(Ring& ring, int first, float (&sums)[kSums]) const {
    int before = -1;
    Ring own = ring;
    own.advance(first, cut.stages);
    ring.advance(chunks, cut.stages);
    for (int chunk = first; chunk < chunks; chunk += kTeams) {
      const std::byte* const stage = stages + own.stage * kStage;
      const std::byte* const x =
          Normed ? normed + turned(chunk) * Rows * kRowBytes : stage + kTileBytes;
      const std::uint64_t left = matrix_descriptor(shared_address(stage), 0);
      const std::uint64_t right = matrix_descriptor(shared_address(x), 0);
      wait_barrier(&shared.full[own.stage], own.parity);
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
      own.advance(kTeams, cut.stages);
    }
    wait_products<0>();
    hold(sums);
    if (before >= 0) arrive_as_warp(&shared.empty[before]);
  }

  /// Output `i` of this block in a tile.
  struct Output {
    int row, column;
    std::int64_t j, at;
    bool valid;
  };
  __device__ Output output(int i, int tile) const {
    const int column = i & (share - 1), row = i >> share_log2;  // a power of two
    const std::int64_t j = std::int64_t{tile} * kOutputs + slice * share + column;
    const bool valid = row < rows && j < p.n;
    return {row, column, j, valid ? p.out.at(row, j) : 0, valid};
  }
  /// What of output `i` is read before its sums are there: what they are added to, and a weight of
  /// the norm behind them.
  struct Early {
    float before = 0, weight = 0;
  };
  __device__ Early early(const Output& output) const {
    Early out;
    if (!output.valid) return out;
    if (p.accumulate) out.before = load(p.out, output.at);
    if (p.next_norm != nullptr) out.weight = __ldg(p.next_norm + output.j);
    return out;
  }
  /// The half of the next norm that comes before its product. Eight neighbouring lanes have outputs
  /// of one row, all valid or none.
  __device__ void hand_on(const Output& output, float x, float weight) const {
    store(p.next_x, p.next_x.at(output.row, output.j), fmaf(x, weight, x));
    static_assert(ops::kLinearSquares == 8);
    const unsigned eight = 0xFFu << (lane & 24);
    float squares = x * x;
#pragma unroll
    for (int by = 1; by < 8; by *= 2) squares += __shfl_xor_sync(eight, squares, by);
    if (lane % 8 == 0) {
      store(p.next_squares, p.next_squares.at(output.row, output.j / 8), squares);
    }
  }
  __device__ void store_output(const Output& output, const Early& early, int buffer) const {
    if (!output.valid) return;
    float factor = 1;
    if (divides()) factor = norm_factor(output.row);
    float sum = factor * exchange.total(buffer, output.column, output.row);
    if constexpr (Gated)
      sum *= silu(factor * exchange.total(buffer, share + output.column, output.row));
    const float x = early.before + sum;
    store(p.out, output.at, x);
    if constexpr (!Gated) {
      if (p.next_norm != nullptr) hand_on(output, x, early.weight);
    }
  }

  __device__ void multiply() const {
    if constexpr (Normed) {
      take_x();
    } else {
      wait_for_x();
      if (thread < min(all_chunks(), cut.stages)) copy_x(thread, turned(thread % chunks));
      if (p.x_squares.data != nullptr) take_squares();
    }
    Ring ring;
    int batch = 0;
    for (int tile = first_tile; tile < cut.tiles; tile += step, ++batch) {
      Early ahead[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (p.accumulate || p.next_norm != nullptr) {
          ahead[i] = early(output(thread + i * kMultipliers, tile));
        }
      }
      float sums[kSums]{};
      multiply_tile(ring, (team + batch * chunks) % kTeams, sums);
      exchange.send(sums, batch % 2);
      exchange.gather(batch);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        store_output(output(thread + i * kMultipliers, tile), ahead[i], batch % 2);
      }
      for (int i = thread + kAhead * kMultipliers; i < rows * share; i += kMultipliers) {
        const Output out = output(i, tile);
        store_output(out, early(out), batch % 2);
      }
      // What any thread sends next says of all of them that they are done with this tile.
      if (cut.slices() > 1) wait_for_multipliers();
    }
  }
};

template <class X, int Rows, bool Gated, bool Normed>
__global__ void __launch_bounds__(kThreads)
    streamed_kernel(const __grid_constant__ LinearCall p, const __grid_constant__ StreamedCut cut,
                    const __grid_constant__ Maps maps) {
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
