// Products of few rows, x [m, k] W^T with W [n, k]: memory sets the time, and between two products
// it must not rest. Weights depend on no kernel, so a warp of each block copies them to a ring of
// stages in shared memory as soon as the block has its place, which is long before the kernel in
// front ends: half of a multiprocessor's shared memory is enough for a block, and blocks of two
// kernels stand side by side. What is left when x is there are products out of shared memory.
//
// A stage is a tile of eight weights, as wide as the slice of the inner elements that the block
// has. Longer rows are cut into slices for the blocks of a cluster, which send one another their
// sums; so a block keeps its part of x in registers. In the products weights are the right operand,
// eight of them wide, and x the left one, 16 rows high; a thread takes eight elements that lie side
// by side and gives two to each of four places, in both operands alike. With weights of a gate a
// tile has four of each.
//
// With a norm x is made x (1 + weight) as it is loaded and its squares are added up, so that the
// root mean square divides the sums, and no kernel has to go through x before.
#include "src/cuda/sm90/linear_streamed.cuh"

#include "src/cuda/cluster.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/linear_call.cuh"
#include "src/cuda/linear_x.cuh"
#include "src/cuda/qk_rows.cuh"
#include "src/cuda/sm80/linear_few_rows.cuh"
#include "src/cuda/sm90/wgmma.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kWarps = 8;              // that multiply; one more copies
constexpr int kOutputs = kWarps * 32;  // of a batch of tiles: one for each thread
constexpr int kThreads = kOutputs + 32;
constexpr int kUnit = 32;             // inner elements of a warp at once
constexpr int kPiece = 8;             // those of a thread
constexpr int kWide = 8;              // weights of a tile
constexpr int kUnits = 5;             // of a warp at most, as x takes registers for each
constexpr int kStages = 8;            // at most
constexpr int kMostSlices = 8;        // blocks of a cluster
constexpr int kRingBytes = 68 << 10;  // of all stages: more take the room of the next kernels
constexpr int kMostGroups = kLinearStreamedRows / kWide;

/// How a call is cut.
struct Cut {
  int slices, slice;  // of the inner elements, and how many each has
  int tiles;
  int stages, stage_row;  // stage_row: bytes from weight to weight

  __host__ __device__ int stage_bytes() const { return kWide * stage_row; }
};

struct Shared {
  std::uint64_t full[kStages], empty[kStages];
  std::uint64_t arrived[2];                    // sums of all slices
  float gathered[2][kOutputs];                 // those of this block's outputs: [slice][output]
  float partial[kWarps][kOutputs];             // sums of each warp
  float squares[kWarps][kMostGroups * kWide];  // of each row
};
constexpr int kStagesAt = (static_cast<int>(sizeof(Shared)) + 127) / 128 * 128;

__device__ inline void wait_for_multipliers() {
  asm volatile("bar.sync 1, %0;" ::"n"(kOutputs) : "memory");
}

template <class X, int Groups, bool Gated, bool Normed>
struct Streamed {
  static constexpr int kRows = kWide * Groups;
  static constexpr int kHigh = (Groups + 1) / 2;              // products of 16 rows
  static constexpr int kBatch = kOutputs / (kRows * kWide);   // tiles that are summed up at once
  static constexpr int kColumns = Gated ? kWide / 2 : kWide;  // outputs of a tile
  static constexpr int kSize = static_cast<int>(sizeof(X));
  using Elements = uint4[kUnits][Groups];

  const LinearCall& p;
  const Cut& cut;
  Shared& shared;
  std::byte* const stages = reinterpret_cast<std::byte*>(&shared) + kStagesAt;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int slice = static_cast<int>(blockIdx.x) % cut.slices;
  const int first_inner = slice * cut.slice;
  const int inner = min(static_cast<int>(p.k) - first_inner, cut.slice);
  const int first_tile = static_cast<int>(blockIdx.x) / cut.slices;
  const int step = static_cast<int>(gridDim.x) / cut.slices;
  // Of this thread's output in a batch of tiles.
  const int tile_of_batch = thread / (kRows * kWide), row = thread / kWide % kRows;
  const int column = thread % kWide;
  const int share = kOutputs / cut.slices;  // outputs of a block of the cluster

  __device__ void prepare() const {
    if (thread == 0) {
      for (int i = 0; i < cut.stages; ++i) {
        init_barrier(&shared.full[i], 1);
        init_barrier(&shared.empty[i], kWarps * kArrivalsOfWarp);
      }
      for (std::uint64_t& barrier : shared.arrived) init_barrier(&barrier, 1);
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if (cut.slices > 1) {
      synchronize_cluster();
    } else {
      __syncthreads();
    }
  }

  struct Ring {
    int stage = 0, parity = 0;
    __device__ void advance(int stages) {
      if (++stage < stages) return;
      stage = 0;
      parity ^= 1;
    }
  };

  /// Weight `i` of a tile, from the slice's first element on; nullptr beyond the last.
  __device__ const std::byte* weight_of(int tile, int i) const {
    const bool of_gate = Gated && i >= kColumns;
    const View& w = of_gate ? p.gate_weight : p.weight;
    const std::int64_t n = std::int64_t{tile} * kColumns + i % kColumns;
    return n < p.n ? w.data + (n * w.stride[0] + first_inner) * kSize : nullptr;
  }
  /// The warp that copies: all tiles of the block, as stages become free.
  __device__ void copy_weights() const {
    Ring ring;
    for (int tile = first_tile; tile < cut.tiles; tile += step) {
      const std::byte* const from = lane < kWide ? weight_of(tile, lane) : nullptr;
      const int weights = __popc(__ballot_sync(0xffffffffu, from != nullptr));
      const Barrier full(&shared.full[ring.stage]);
      wait_barrier(&shared.empty[ring.stage], ring.parity ^ 1);
      if (lane == 0) arrive_expecting(full, weights * inner * kSize);
      __syncwarp();
      if (from != nullptr) {
        copy_bulk(stages + ring.stage * cut.stage_bytes() + lane * cut.stage_row, from,
                  inner * kSize, full);
      }
      ring.advance(cut.stages);
    }
  }
  /// First of this thread's inner elements of a unit, within the slice.
  __device__ int piece_of(int unit) const {
    return (unit * kWarps + warp) * kUnit + lane % 4 * kPiece;
  }
  __device__ const float* floats_of_x(int group, int k) const {
    return reinterpret_cast<const float*>(p.x.data) + (group * kWide + lane / 4) * p.x.stride[0] +
           k;
  }
  /// This thread's part of x, zeros beyond its rows and the slice. All loads first: those of
  /// elements that are not there go to others that are.
  __device__ void load_x(Elements& x) const {
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const std::byte* const from = p.x.data + row_of_x(g) * p.x.stride[0] * kSize;
        x[u][g] = __ldcg(reinterpret_cast<const uint4*>(from + (first_inner + there(u)) * kSize));
      }
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        if (!has(g, u)) x[u][g] = uint4{};
      }
    }
  }
  /// The same times 1 + the weights of the norm.
  __device__ void load_normed(const float4 (&weight)[kUnits][2], Elements& x,
                              float (&squares)[Groups]) const {
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
      float4 raw[kUnits][2];
      const float* const from =
          reinterpret_cast<const float*>(p.x.data) + row_of_x(g) * p.x.stride[0] + first_inner;
#pragma unroll
      for (int u = 0; u < kUnits; ++u) load_eight(from + there(u), raw[u]);
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const bool valid = has(g, u);
        const float more = add_squares(raw[u], squares[g]);
        const uint4 weighted = weigh(raw[u], weight[u]);
        squares[g] = valid ? more : squares[g];
        x[u][g] = valid ? weighted : uint4{};
      }
    }
  }
  __device__ bool has(int group, int unit) const {
    return piece_of(unit) < inner && group * kWide + lane / 4 < p.m;
  }
  __device__ std::int64_t row_of_x(int group) const {
    return min(group * kWide + lane / 4, static_cast<int>(p.m) - 1);
  }
  /// piece_of, or another within the slice.
  __device__ int there(int unit) const { return min(piece_of(unit), inner - kPiece); }
  /// The squares of elements that other slices have.
  __device__ void add_other_squares(float (&squares)[Groups]) const {
    const auto all = static_cast<int>(p.k);
    for (int k = warp * kUnit + lane % 4 * kPiece; k < all; k += kWarps * kUnit) {
      if (k >= first_inner && k < first_inner + inner) continue;
#pragma unroll
      for (int g = 0; g < Groups; ++g) {
        if (g * kWide + lane / 4 >= p.m) continue;
        float4 raw[2];
        load_eight(floats_of_x(g, k), raw);
        squares[g] = add_squares(raw, squares[g]);
      }
    }
  }
  /// This warp's part of the squares of each row.
  __device__ void keep_squares(const float (&squares)[Groups]) const {
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
      float sum = squares[g];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if (lane % 4 == 0) shared.squares[warp][g * kWide + lane / 4] = sum;
    }
  }
  /// What the sums of this thread's row are multiplied with.
  __device__ float norm_factor() const {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += shared.squares[w][row];
    return rms_factor(sum, p.k, p.norm_epsilon);
  }

  __device__ void multiply_tile(int stage, const Elements& x, float (&sums)[kHigh][4]) const {
    const std::uint32_t weights =
        shared_address(stages + stage * cut.stage_bytes() + lane / 4 * cut.stage_row);
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      if ((u * kWarps + warp) * kUnit >= inner) break;
      const int k = piece_of(u);
      const uint4 w =
          k < inner ? load_piece(weights + static_cast<std::uint32_t>(k * kSize)) : uint4{};
#pragma unroll
      for (int h = 0; h < kHigh; ++h) {
        const uint4 low = x[u][2 * h], high = Groups > 1 ? x[u][(2 * h + 1) % Groups] : uint4{};
        const std::uint32_t left[4]{low.x, high.x, low.y, high.y};
        const std::uint32_t right[4]{low.z, high.z, low.w, high.w};
        multiply_add<X>(sums[h], left, w.x, w.y);
        multiply_add<X>(sums[h], right, w.z, w.w);
      }
    }
  }
  /// This warp's sums of a tile to shared memory: [tile of the batch][row][column].
  __device__ void keep(const float (&sums)[kHigh][4], int tile) const {
    float* const to = shared.partial[warp] + (tile * kRows + lane / 4) * kWide + lane % 4 * 2;
#pragma unroll
    for (int h = 0; h < kHigh; ++h) {
#pragma unroll
      for (int half = 0; half < (Groups > 1 ? 2 : 1); ++half) {
        *reinterpret_cast<float2*>(to + (h * 16 + half * 8) * kWide) =
            make_float2(sums[h][2 * half], sums[h][2 * half + 1]);
      }
    }
  }

  /// Whether this block stores this thread's output.
  __device__ bool is_own() const { return thread / share == slice; }
  /// The sum of all warps, and where it is this block's, of all slices, in their order.
  __device__ float gather(int batch) const {
    wait_for_multipliers();
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += shared.partial[w][thread];
    wait_for_multipliers();  // before the next batch takes the place
    if (cut.slices == 1) return sum;
    // Twice the room: who sends for the batch after the next has had all sums of the next one, so
    // that all blocks are done with this.
    const int buffer = batch % 2;
    const std::uint32_t barrier = shared_address(&shared.arrived[buffer]);
    if (thread == slice * share) arrive_expecting(Barrier(barrier), sizeof(shared.gathered[0]));
    const auto owner = static_cast<unsigned>(thread / share);
    float* const place = &shared.gathered[buffer][slice * share + thread % share];
    send_in_cluster(address_in_cluster(shared_address(place), owner), sum,
                    address_in_cluster(barrier, owner));
    if (!is_own()) return 0;
    wait_barrier(Barrier(barrier), batch / 2 % 2);
    sum = 0;
    for (int s = 0; s < cut.slices; ++s) {
      sum += shared.gathered[buffer][s * share + thread % share];
    }
    return sum;
  }

  /// x after the wait, and of its norm what needs none before.
  __device__ void take_x(Elements& x) const {
    if constexpr (Normed) {
      float4 weight[kUnits][2];
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        load_constants(p.norm_weight + first_inner + there(u), weight[u]);
      }
      wait_for_writers();
      float squares[Groups]{};
      load_normed(weight, x, squares);
      if (cut.slices > 1) add_other_squares(squares);
      keep_squares(squares);
    } else {
      wait_for_writers();
      load_x(x);
    }
  }

  __device__ void multiply() const {
    Elements x;
    take_x(x);
    float factor = 1;
    Ring ring;
    int batch = 0;
    for (int tile = first_tile; tile < cut.tiles; ++batch) {
      const int own_tile = tile + tile_of_batch * step;
      const std::int64_t j = std::int64_t{own_tile} * kColumns + column;
      const bool stores =
          is_own() && own_tile < cut.tiles && row < p.m && column < kColumns && j < p.n;
      const std::int64_t at = stores ? p.out.at(row, j) : 0;
      const float before = stores && p.accumulate ? load(p.out, at) : 0.0f;
      for (int i = 0; i < kBatch && tile < cut.tiles; ++i, tile += step) {
        float sums[kHigh][4]{};
        wait_barrier(&shared.full[ring.stage], ring.parity);
        multiply_tile(ring.stage, x, sums);
        arrive_as_warp(&shared.empty[ring.stage]);
        ring.advance(cut.stages);
        keep(sums, i);
      }
      float sum = gather(batch);
      if (Normed && batch == 0) factor = norm_factor();
      sum *= factor;
      if constexpr (Gated) sum *= silu(__shfl_down_sync(0xffffffffu, sum, kColumns));
      if (stores) store(p.out, at, before + sum);
    }
  }
};

template <class X, int Groups, bool Gated, bool Normed>
__global__ void __launch_bounds__(kThreads, 2)
    streamed_kernel(const __grid_constant__ LinearCall p, const __grid_constant__ Cut cut) {
  extern __shared__ __align__(128) std::byte memory[];
  const Streamed<X, Groups, Gated, Normed> work{p, cut, *reinterpret_cast<Shared*>(memory)};
  work.prepare();
  let_next_begin();  // which copies its weights while this kernel still waits
  if (work.warp == kWarps) {
    work.copy_weights();
  } else {
    work.multiply();
  }
}

/// Slices for whom x fits into registers, and more while there are fewer tiles than
/// multiprocessors.
int slices_of(std::int64_t k, std::int64_t tiles, int num_sms) {
  const std::int64_t units = (k + kUnit - 1) / kUnit;
  int slices = 1;
  while (units > std::int64_t{slices} * kWarps * kUnits) slices *= 2;
  while (slices < kMostSlices && 2 * slices * tiles <= num_sms && units >= 4 * slices * kWarps) {
    slices *= 2;
  }
  return slices;
}

Cut cut_of(const LinearCall& p, int columns, int size, int num_sms) {
  Cut cut{};
  cut.tiles = static_cast<int>((p.n + columns - 1) / columns);
  cut.slices = slices_of(p.k, cut.tiles, num_sms);
  const std::int64_t each = (p.k + cut.slices - 1) / cut.slices;
  cut.slice = static_cast<int>((each + kUnit - 1) / kUnit * kUnit);
  // Two neighbouring weights lie in different halves of the banks.
  cut.stage_row = (cut.slice * size + 127) / 128 * 128 + 64;
  cut.stages = std::clamp(kRingBytes / cut.stage_bytes(), 1, kStages);
  return cut;
}

/// Tiles of each cluster.
int tiles_of_cluster(const Cut& cut, int num_sms) {
  const int clusters = num_sms / cut.slices;
  return (cut.tiles + clusters - 1) / clusters;
}

template <class X, int Groups, bool Gated, bool Normed>
Status launch_kernel(const LinearCall& p, const core::DeviceLaunch& launch) {
  const int num_sms = launch.info->num_sms;
  Cut cut = cut_of(p, Gated ? kWide / 2 : kWide, static_cast<int>(sizeof(X)), num_sms);
  const int each = tiles_of_cluster(cut, num_sms);
  cut.stages = std::min(cut.stages, each);
  auto* const kernel = streamed_kernel<X, Groups, Gated, Normed>;
  HYBRIDATTN_TRY(allow_shared_memory("linear", kernel, kStagesAt + kRingBytes));
  const auto blocks = static_cast<unsigned>((cut.tiles + each - 1) / each * cut.slices);
  return launch_early_clusters("linear", launch, kernel, blocks, cut.slices, kThreads,
                               kStagesAt + cut.stages * cut.stage_bytes(), p, cut);
}

template <class X, int Groups, bool Normed>
Status launch_groups(const LinearCall& p, const core::DeviceLaunch& launch) {
  return p.gate_weight.data != nullptr ? launch_kernel<X, Groups, true, Normed>(p, launch)
                                       : launch_kernel<X, Groups, false, Normed>(p, launch);
}

template <class X, bool Normed>
Status launch_type(const LinearCall& p, const core::DeviceLaunch& launch) {
  if (p.m <= kWide) return launch_groups<X, 1, Normed>(p, launch);
  return launch_groups<X, 2, Normed>(p, launch);
}

}  // namespace

const char* refusal_linear_streamed(const ops::LinearParams& p, const core::DeviceInfo& info) {
  if (info.compute_major != 9) return "the device must be of compute capability 9";
  if (p.x.dim(0) > kLinearStreamedRows) return "x must have at most 16 rows";
  if (p.x.dim(1) > kUnit * kWarps * kUnits * kMostSlices) {
    return "x must have at most 10240 columns";
  }
  if (!p.gate.empty()) return "a gate must be given by its weights";
  return refusal_linear_halves(p);
}

Status run_linear_streamed(const ops::LinearParams& params, const core::DeviceLaunch& launch) {
  const LinearCall p(params);
  if (p.m * p.n == 0) return {};
  if (p.norm_weight != nullptr) return launch_type<__nv_bfloat16, true>(p, launch);
  return params.x.dtype == DType::kBF16 ? launch_type<__nv_bfloat16, false>(p, launch)
                                        : launch_type<__half, false>(p, launch);
}

}  // namespace hybridattn::cuda
