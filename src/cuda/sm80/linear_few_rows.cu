// Products of few rows, x [m, k] W^T with W [n, k]: memory sets the time, so that all that counts
// are many loads of weights on their way.
//
// A block takes tiles of weights, its warps every eighth unit of 32 inner elements: they add up
// their sums at the end of a tile. In the products weights are the right operand, eight of them
// wide, and x the left one, 16 rows high. Which of its inner elements an instruction calls the
// first does not matter as long as both operands agree: a thread loads 8 elements that lie side by
// side and gives two to each of four places. x is small and comes through the first-level cache,
// which weights leave alone.
//
// With a norm a thread makes its elements of x (1 + weight) as it loads them, and adds up their
// squares: the warps of a block see all of x between them, so that at the end of a tile the root
// mean square divides the sums, and no kernel has to go through x before.
#include "src/cuda/sm80/linear_few_rows.cuh"

#include "src/cuda/grid.cuh"
#include "src/cuda/linear_store.cuh"
#include "src/cuda/linear_x.cuh"
#include "src/cuda/mma.cuh"
#include "src/cuda/qk_rows.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kUnit = 32;  // inner elements of a step of a warp
constexpr int kPiece = 8;  // those of one load
constexpr int kWide = 8;   // weights of one product

__device__ inline uint4 load_weights(const std::byte* from, bool valid) {
  uint4 piece{};
  if (valid) {
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(piece.x), "=r"(piece.y), "=r"(piece.z), "=r"(piece.w)
                 : "l"(from));
  }
  return piece;
}

/// Blocks of a multiprocessor, as their registers allow: all that are launched, so that a block has
/// as many loads on their way as there is room for.
constexpr int blocks_at_once(int groups) { return groups == 1 ? 3 : 2; }

/// Groups: of eight rows of x. Tiles: of eight weights that a warp has at once; with Gated each
/// comes with as many weights of the gate. Normed: x is float32 and enters as its RMS norm.
template <class X, int Groups, int Tiles, bool Gated, bool Normed>
struct FewRows {
  static constexpr int kMatrices = Gated ? 2 : 1;
  static constexpr int kOperands = Tiles * kMatrices;
  static constexpr int kAhead = 8;                   // loads of weights of a thread on their way
  static constexpr int kUnits = kAhead / kOperands;  // units of a chunk
  static constexpr int kHigh = (Groups + 1) / 2;     // products of 16 rows
  static constexpr int kColumns = Tiles * kWide;
  static constexpr int kSums = kColumns * Groups * 8;  // of one matrix and tile
  static constexpr int kSquares = kHigh * 16;          // rows
  static constexpr int kShared = kWarps * (kMatrices * kSums + (Normed ? kSquares : 0)) * 4;
  static constexpr int kStep = kWarps * kUnit;  // from unit to unit of a warp
  static constexpr int kSize = static_cast<int>(sizeof(X));
  static_assert(kAhead % kOperands == 0);

  using Raw = uint4[kUnits][kOperands];
  using Sums = float[kOperands][kHigh][4];
  using Squares = float[2 * kHigh];  // of this thread's elements of a row of each group

  __device__ static int first_inner() {
    return static_cast<int>(threadIdx.x) / 32 * kUnit + static_cast<int>(threadIdx.x) % 4 * kPiece;
  }
  /// The row of weights that this thread loads of, nullptr beyond the last.
  __device__ static const std::byte* row_of(const LinearCall& p, std::int64_t tile, int operand) {
    const View& w = operand / Tiles == 0 ? p.weight : p.gate_weight;
    const std::int64_t row = tile * kColumns + operand % Tiles * kWide + threadIdx.x % 32 / 4;
    return row < p.n ? w.data + row * w.stride[0] * kSize : nullptr;
  }

  /// Loads of chunk `chunk` of the weights from `tile` on.
  __device__ static void load(const LinearCall& p, std::int64_t tile, int chunk, Raw& raw) {
    const int first = chunk * kUnits * kStep + first_inner();
    const auto inner = static_cast<int>(p.k);
#pragma unroll
    for (int o = 0; o < kOperands; ++o) {
      const std::byte* const row = row_of(p, tile, o);
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const int k = first + u * kStep;
        raw[u][o] = load_weights(row + k * kSize, row != nullptr && k < inner);
      }
    }
  }

  /// Elements [k, k + 8) of a row.
  __device__ static uint4 load_x(const LinearCall& p, std::int64_t row, int k, float& squares) {
    const std::int64_t at = row * p.x.stride[0] + k;
    if constexpr (Normed) {
      float4 x[2], weight[2];
      load_eight(reinterpret_cast<const float*>(p.x.data) + at, x);
      load_constants(p.norm_weight + k, weight);
      squares = add_squares(x, squares);
      return weigh(x, weight);
    } else {
      return *reinterpret_cast<const uint4*>(p.x.data + at * kSize);
    }
  }

  __device__ static void multiply(const LinearCall& p, int chunk, const Raw& raw, Sums& sums,
                                  Squares& squares) {
    const int first = chunk * kUnits * kStep + first_inner();
    const auto inner = static_cast<int>(p.k), rows = static_cast<int>(p.m);
    const int own = threadIdx.x % 32 / 4;
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
      const int k = first + u * kStep;
#pragma unroll
      for (int h = 0; h < kHigh; ++h) {
        uint4 part[2]{};
#pragma unroll
        for (int g = 0; g < (Groups > 1 ? 2 : 1); ++g) {
          const int group = 2 * h + g;
          if (group * 8 + own < rows && k < inner) {
            part[g] = load_x(p, group * 8 + own, k, squares[group]);
          }
        }
        const std::uint32_t left[4]{part[0].x, part[1].x, part[0].y, part[1].y};
        const std::uint32_t right[4]{part[0].z, part[1].z, part[0].w, part[1].w};
#pragma unroll
        for (int o = 0; o < kOperands; ++o) {
          multiply_add<X>(sums[o][h], left, raw[u][o].x, raw[u][o].y);
          multiply_add<X>(sums[o][h], right, raw[u][o].z, raw[u][o].w);
        }
      }
    }
  }

  /// This warp's sums to shared memory: [matrix][row][column].
  __device__ static void keep(const Sums& sums, float* partial) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int o = 0; o < kOperands; ++o) {
      float* const matrix = partial + o / Tiles * kSums + o % Tiles * kWide + lane % 4 * 2;
#pragma unroll
      for (int h = 0; h < kHigh; ++h) {
#pragma unroll
        for (int half = 0; half < (Groups > 1 ? 2 : 1); ++half) {
          float* const at = matrix + (h * 16 + half * 8 + lane / 4) * kColumns;
          *reinterpret_cast<float2*>(at) =
              make_float2(sums[o][h][2 * half], sums[o][h][2 * half + 1]);
        }
      }
    }
  }

  /// This warp's part of the squares of each row.
  __device__ static void keep_squares(const Squares& squares, float* of_rows) {
#pragma unroll
    for (int g = 0; g < 2 * kHigh; ++g) {
      float sum = squares[g];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      if (threadIdx.x % 4 == 0) of_rows[g * 8 + threadIdx.x % 32 / 4] = sum;
    }
  }

  /// What the sums of a row are multiplied with. `squares`: of all warps.
  __device__ static float factor_of(const LinearCall& p, int row, const float* squares) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += squares[w * kSquares + row];
    return rms_factor(sum, p.k, p.norm_epsilon);
  }

  /// The sums of all warps, in their order, become outputs.
  __device__ static void finish(const LinearCall& p, std::int64_t tile, const float* partial,
                                const float* squares) {
    for (int i = threadIdx.x; i < kSums; i += kThreads) {
      const std::int64_t column = tile * kColumns + i % kColumns;
      if (i / kColumns >= p.m || column >= p.n) continue;
      float sum[2]{};
#pragma unroll
      for (int m = 0; m < kMatrices; ++m) {
#pragma unroll
        for (int w = 0; w < kWarps; ++w) sum[m] += partial[(w * kMatrices + m) * kSums + i];
      }
      if constexpr (Normed) {
        const float factor = factor_of(p, i / kColumns, squares);
        sum[0] *= factor;
        sum[1] *= factor;
      }
      store_product(p, i / kColumns, column, sum[0], sum[1]);
    }
  }
};

template <class X, int Groups, int Tiles, bool Gated, bool Normed>
__global__ void __launch_bounds__(kThreads, blocks_at_once(Groups))
    few_rows_kernel(const __grid_constant__ LinearCall p) {
  using Kernel = FewRows<X, Groups, Tiles, Gated, Normed>;
  constexpr int kPartial = Kernel::kMatrices * Kernel::kSums;  // of a warp
  extern __shared__ float partial[];                           // [kWarps][kPartial]
  float* const squares = partial + kWarps * kPartial;          // [kWarps][kSquares] with Normed
  constexpr int kChunk = Kernel::kUnits * Kernel::kStep;
  const auto chunks = static_cast<int>((p.k + kChunk - 1) / kChunk);
  typename Kernel::Raw raw;
  Kernel::load(p, blockIdx.x, 0, raw);  // weights, which no kernel before writes
  let_next_begin();
  wait_for_writers();
  for (std::int64_t tile = blockIdx.x; tile * Kernel::kColumns < p.n; tile += gridDim.x) {
    typename Kernel::Sums sums{};
    typename Kernel::Squares own{};
    for (int chunk = 0; chunk < chunks; ++chunk) {
      Kernel::multiply(p, chunk, raw, sums, own);
      const bool last = chunk + 1 == chunks;
      Kernel::load(p, last ? tile + gridDim.x : tile, last ? 0 : chunk + 1, raw);
    }
    Kernel::keep(sums, partial + threadIdx.x / 32 * kPartial);
    if constexpr (Normed) {
      Kernel::keep_squares(own, squares + threadIdx.x / 32 * Kernel::kSquares);
    }
    __syncthreads();
    Kernel::finish(p, tile, partial, squares);
    __syncthreads();
  }
}

template <class X, int Groups, int Tiles, bool Gated, bool Normed>
Status launch_kernel(const LinearCall& p, const core::DeviceLaunch& launch) {
  using Kernel = FewRows<X, Groups, Tiles, Gated, Normed>;
  const std::int64_t tiles = (p.n + Kernel::kColumns - 1) / Kernel::kColumns;
  const std::int64_t most = std::int64_t{launch.info->num_sms} * blocks_at_once(Groups);
  static_assert(Kernel::kShared <= 48 * 1024);
  return launch_early("linear", launch, few_rows_kernel<X, Groups, Tiles, Gated, Normed>,
                      static_cast<unsigned>(std::min(tiles, most)), kThreads, Kernel::kShared, p);
}

template <class X, int Groups, bool Normed>
Status launch_groups(const LinearCall& p, const core::DeviceLaunch& launch) {
  if (p.gate_weight.data != nullptr) return launch_kernel<X, Groups, 1, true, Normed>(p, launch);
  // Wide tiles have all their loads on the way where rows are short; narrow ones are enough for
  // every multiprocessor.
  constexpr std::int64_t kShort = 4 * kWarps * kUnit;
  const std::int64_t blocks = std::int64_t{launch.info->num_sms} * blocks_at_once(Groups);
  const bool wide = p.n >= 4 * blocks * kWide || (p.k <= kShort && p.n >= blocks * kWide);
  return wide ? launch_kernel<X, Groups, 2, false, Normed>(p, launch)
              : launch_kernel<X, Groups, 1, false, Normed>(p, launch);
}

template <class X, bool Normed>
Status launch_type(const LinearCall& p, const core::DeviceLaunch& launch) {
  if (p.m <= 8) return launch_groups<X, 1, Normed>(p, launch);
  return launch_groups<X, 2, Normed>(p, launch);
}

}  // namespace

const char* refusal_linear_few_rows(const ops::LinearParams& p) {
  if (p.x.dim(0) > kLinearFewRows) return "x must have at most 16 rows";
  if (const char* why = refusal_linear_handed_on(p)) return why;
  return refusal_linear_halves(p);
}

const char* refusal_linear_halves(const ops::LinearParams& p) {
  if (p.batch_invariant) return "results would depend on how many rows there are";
  const bool half = p.weight.dtype == DType::kBF16 || p.weight.dtype == DType::kF16;
  if (!p.norm_weight.empty()) {
    // Before it is divided x can be beyond the range of f16.
    const bool floats = p.x.dtype == DType::kF32 && p.norm_weight.dtype == DType::kF32;
    if (!floats || p.weight.dtype != DType::kBF16) {
      return "a norm must be of f32 and for weights in bf16";
    }
  } else if (!half || p.weight.dtype != p.x.dtype) {
    return "x and weight must both be bf16 or both f16";
  }
  if (!p.gate_weight.empty() && p.gate_weight.dtype != p.weight.dtype) {
    return "gate_weight must be of the type of weight";
  }
  const bool aligned = rows_aligned(p.x) && rows_aligned(p.weight) && rows_aligned(p.gate_weight) &&
                       rows_aligned(p.norm_weight);
  if (!aligned || p.x.dim(1) % kPiece != 0) return "rows must begin at multiples of 16 bytes";
  return nullptr;
}

Status run_linear_few_rows(const ops::LinearParams& params, const core::DeviceLaunch& launch) {
  const LinearCall p(params);
  if (p.m * p.n == 0) return {};
  if (p.norm_weight != nullptr) return launch_type<__nv_bfloat16, true>(p, launch);
  return params.x.dtype == DType::kBF16 ? launch_type<__nv_bfloat16, false>(p, launch)
                                        : launch_type<__half, false>(p, launch);
}

}  // namespace hybridattn::cuda
