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
// through x before.
#include "src/cuda/sm90/linear_streamed.cuh"

#include "src/cuda/cluster.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/linear_call.cuh"
#include "src/cuda/linear_x.cuh"
#include "src/cuda/qk_rows.cuh"
#include "src/cuda/reduce.cuh"
#include "src/cuda/sm80/linear_few_rows.cuh"
#include "src/cuda/sm90/linear_streamed_cut.cuh"
#include "src/cuda/sm90/tensor_map.h"
#include "src/cuda/sm90/wgmma_narrow.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kTeams = 2;      // that multiply, each every other chunk
constexpr int kTeamWarps = 4;  // as the wide products want it
constexpr int kTeamThreads = kTeamWarps * 32;
constexpr int kWarps = kTeams * kTeamWarps;  // that multiply; one more copies
constexpr int kMultipliers = kWarps * 32;
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
// elements lie there when x comes, which is worth more than the next kernel's beside them.
constexpr int kRoom = 140 << 10;
constexpr int kMostShared = 227 << 10;  // that a block may have
// Clock cycles from chunk to chunk before x is there. At full speed the reads of the kernels in
// front, on which all wait, would queue behind weights that nobody needs yet.
constexpr int kPause = 600;

/// What the copy engine reads.
struct Maps {
  CUtensorMap weight, gate_weight, x;
};

template <int Rows>
struct Shared {
  std::uint64_t full[kStages], empty[kStages];
  std::uint64_t arrived[2];   // sums of all slices
  alignas(8) int x_is_there;  // or about to come: no pauses any more
  float squares[kWarps][Rows];
  // Sums of this block's outputs: [slice][its weights, those of a gate behind][row of x]. Two tiles
  // in turn: who sends for the one after the next has had the sums of the next from all blocks,
  // which were done with this before they sent them. The padding keeps columns apart in the banks.
  alignas(16) float gathered[2][kTeams * kWide][Rows + 2];
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
  return static_cast<int>(sizeof(Shared<Rows>)) + (normed ? normed_bytes<Rows>(cut) : 0);
}

__device__ inline void wait_for_multipliers() {
  asm volatile("bar.sync 1, %0;" ::"n"(kMultipliers) : "memory");
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
  static constexpr int kSums = kWide * Rows / kTeamThreads;   // of a thread
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
  // Outputs of a block of the cluster, and its weights.
  const int weights_log2 = kWideLog2 - cut.slices_log2;
  const int share_log2 = weights_log2 - (Gated ? 1 : 0), share = 1 << share_log2;
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
      for (std::uint64_t& barrier : shared.arrived) init_barrier(&barrier, 1);
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
  /// What the sums of a row are multiplied with.
  __device__ float norm_factor(int row) const {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += shared.squares[w][row];
    return rms_factor(sum, p.k, p.norm_epsilon);
  }

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

  /// This thread's sums to the blocks that store their outputs.
  __device__ void send(const float (&sums)[kSums], int buffer) const {
    const std::uint32_t barrier = shared_address(&shared.arrived[buffer]);
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
        float* const to = &shared.gathered[buffer][place][row];
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
    const Barrier barrier(&shared.arrived[batch % 2]);
    if (thread == 0) arrive_expecting(barrier, kTeams * kWide * ((rows + 1) / 2) * 8);
    wait_barrier(barrier, batch / 2 % 2);
  }
  /// Sums of all slices, in their order.
  __device__ float total(int buffer, int place, int row) const {
    float sum = 0;
    for (int s = 0; s < kTeams * cut.slices(); ++s) {
      sum += shared.gathered[buffer][(s << weights_log2) + place][row];
    }
    return sum;
  }

  /// Output `i` of this block in a tile.
  struct Output {
    int row, column;
    std::int64_t at;
    bool valid;
  };
  __device__ Output output(int i, int tile) const {
    const int column = i & (share - 1), row = i >> share_log2;  // a power of two
    const std::int64_t j = std::int64_t{tile} * kOutputs + slice * share + column;
    const bool valid = row < rows && j < p.n;
    return {row, column, valid ? p.out.at(row, j) : 0, valid};
  }
  __device__ void store_output(const Output& output, float before, int buffer) const {
    if (!output.valid) return;
    float factor = 1;
    if constexpr (Normed) factor = norm_factor(output.row);
    float sum = factor * total(buffer, output.column, output.row);
    if constexpr (Gated) sum *= silu(factor * total(buffer, share + output.column, output.row));
    store(p.out, output.at, before + sum);
  }

  __device__ void multiply() const {
    if constexpr (Normed) {
      take_x();
    } else {
      wait_for_x();
      if (thread < min(all_chunks(), cut.stages)) copy_x(thread, turned(thread % chunks));
    }
    Ring ring;
    int batch = 0;
    for (int tile = first_tile; tile < cut.tiles; tile += step, ++batch) {
      float before[kAhead]{};
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (!p.accumulate) break;
        const Output out = output(thread + i * kMultipliers, tile);
        if (out.valid) before[i] = load(p.out, out.at);
      }
      float sums[kSums]{};
      multiply_tile(ring, (team + batch * chunks) % kTeams, sums);
      send(sums, batch % 2);
      gather(batch);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        store_output(output(thread + i * kMultipliers, tile), before[i], batch % 2);
      }
      for (int i = thread + kAhead * kMultipliers; i < rows * share; i += kMultipliers) {
        const Output out = output(i, tile);
        store_output(out, p.accumulate && out.valid ? load(p.out, out.at) : 0.0f, batch % 2);
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

/// Stages of a ring for `all` chunks: an even number, so that each is of one team, or one for each
/// chunk.
template <int Rows>
int stages_of(const StreamedCut& cut, bool normed, int all) {
  const int room = kRoom - fixed_bytes<Rows>(cut, normed);
  const int most = std::clamp(room / stage_bytes<Rows>(normed), kLeastStages, kStages);
  return all <= most ? all : most / kTeams * kTeams;
}

Status encode_maps(const LinearCall& p, int rows, Maps* maps) {
  const int outputs = outputs_of_tile(p);
  HYBRIDATTN_TRY(encode_row_boxes(p.weight, p.n, p.k, outputs, &maps->weight));
  if (p.gate_weight.data != nullptr) {
    HYBRIDATTN_TRY(encode_row_boxes(p.gate_weight, p.n, p.k, outputs, &maps->gate_weight));
  }
  if (p.norm_weight != nullptr) return {};
  return encode_row_boxes(p.x, p.m, p.k, rows, &maps->x);
}

template <class X, int Rows, bool Gated, bool Normed>
Status launch_kernel(const LinearCall& p, StreamedCut cut, const core::DeviceLaunch& launch) {
  const int clusters = clusters_of(cut.slices(), launch.info->num_sms);
  const int each = (cut.tiles + clusters - 1) / clusters;
  const auto blocks = static_cast<unsigned>((cut.tiles + each - 1) / each * cut.slices());
  cut.stages = stages_of<Rows>(cut, Normed, each * cut.slice_chunks);
  Maps maps{};
  HYBRIDATTN_TRY(encode_maps(p, Rows, &maps));
  auto* const kernel = streamed_kernel<X, Rows, Gated, Normed>;
  HYBRIDATTN_TRY(allow_shared_memory("linear", kernel, kMostShared));
  const int bytes = cut.stages * stage_bytes<Rows>(Normed) + fixed_bytes<Rows>(cut, Normed);
  return launch_early_clusters("linear", launch, kernel, blocks, cut.slices(), kThreads, bytes, p,
                               cut, maps);
}

template <class X, int Rows, bool Normed>
Status launch_rows(const LinearCall& p, const StreamedCut& cut, const core::DeviceLaunch& launch) {
  return p.gate_weight.data != nullptr ? launch_kernel<X, Rows, true, Normed>(p, cut, launch)
                                       : launch_kernel<X, Rows, false, Normed>(p, cut, launch);
}

template <class X>
Status launch_type(const LinearCall& p, const StreamedCut& cut, const core::DeviceLaunch& launch) {
  if (p.m <= 8) return launch_rows<X, 8, false>(p, cut, launch);
  if (p.m <= 16) return launch_rows<X, 16, false>(p, cut, launch);
  return launch_rows<X, 32, false>(p, cut, launch);
}

Status launch_normed(const LinearCall& p, const StreamedCut& cut,
                     const core::DeviceLaunch& launch) {
  return p.m <= 8 ? launch_rows<__nv_bfloat16, 8, true>(p, cut, launch)
                  : launch_rows<__nv_bfloat16, kNormedRows, true>(p, cut, launch);
}

/// Whether a map can have this stride.
bool is_dense(const ConstTensorView& x) {
  return x.empty() || x.dim(0) <= 1 || x.stride(0) >= x.dim(1);
}

}  // namespace

const char* refusal_linear_streamed(const ops::LinearParams& p, const core::DeviceInfo& info) {
  if (info.compute_major != 9) return "the device must be of compute capability 9";
  if (p.x.dim(0) > kLinearStreamedRows) return "x must have at most 32 rows";
  if (p.x.dim(1) == 0) return "x must have columns";
  if (!p.gate.empty()) return "a gate must be given by its weights";
  if (!is_dense(p.x) || !is_dense(p.weight) || !is_dense(p.gate_weight)) {
    return "rows must not overlap";
  }
  return refusal_linear_halves(p);
}

bool takes_norm_streamed(const ops::LinearParams& params, const core::DeviceInfo& info) {
  const LinearCall p(params);
  if (p.m > kNormedRows) return false;
  const StreamedCut cut = cut_of(p, info.num_sms);
  return (p.m <= 8 ? normed_bytes<8>(cut) : normed_bytes<kNormedRows>(cut)) <= kNormedBytes;
}

Status run_linear_streamed(const ops::LinearParams& params, const core::DeviceLaunch& launch) {
  const LinearCall p(params);
  const StreamedCut cut = cut_of(p, launch.info->num_sms);
  if (p.norm_weight != nullptr) return launch_normed(p, cut, launch);
  return params.x.dtype == DType::kBF16 ? launch_type<__nv_bfloat16>(p, cut, launch)
                                        : launch_type<__half>(p, cut, launch);
}

}  // namespace hybridattn::cuda
