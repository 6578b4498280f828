// The state of one head of one row in registers: a block of four warps has 64 of its rows, V
// channels, for as long as it walks over chunks. They exchange nothing with anybody: S is the left
// operand of every product, converted in place.
#pragma once

#include "src/cuda/mma.cuh"
#include "src/cuda/sm80/gdn_chunk.cuh"

namespace hybridattn::cuda {

inline constexpr int kWalkers = 128;                      // threads
inline constexpr int kChannels = kChunkDim / kWalkParts;  // V channels of a block
static_assert(kChannels == kWalkers / 32 * 16, "the rows of a product of each warp");

/// What a block walks over: chunks of a row, all or a segment. The row's start and length are those
/// of the walk.
struct WalkTask {
  Row row;
  int head, first_v, first_chunk, chunks;
};

/// The state's rows of a thread: g and g + 8 of its warp's 16, all columns.
template <class Visit>
__device__ void for_state(const WalkTask& task, const Visit& visit) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = task.first_v + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int n = 0; n < kChunkDim / 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      visit(4 * n + 2 * half, row + 8 * half, 8 * n + lane % 4 * 2);
    }
  }
}

__device__ inline float2 load_pair(const View& x, std::int64_t at) {
  if (x.dtype == DType::kF32) return *reinterpret_cast<const float2*>(x.as<const float>() + at);
  return unpack<__nv_bfloat16>(
      *reinterpret_cast<const std::uint32_t*>(x.as<const __nv_bfloat16>() + at));
}
__device__ inline void store_pair(const View& x, std::int64_t at, float a, float b) {
  if (x.dtype == DType::kF32) {
    *reinterpret_cast<float2*>(x.as<float>() + at) = make_float2(a, b);
  } else {
    *reinterpret_cast<std::uint32_t*>(x.as<__nv_bfloat16>() + at) = pack<__nv_bfloat16>(a, b);
  }
}

/// Accumulators, a row of 16 Steps columns for each 8 of them, as the left operand of a product.
template <class X, int Steps>
__device__ void to_operand(const float (&d)[8 * Steps], std::uint32_t (&a)[Steps][4]) {
#pragma unroll
  for (int k = 0; k < Steps; ++k) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      a[k][r] = pack<X>(d[8 * k + 2 * r], d[8 * k + 2 * r + 1]);
    }
  }
}

/// Two floats in two bf16 parts whose sum has 16 bits.
__device__ inline void split_pair(const float* x, std::uint32_t& high, std::uint32_t& low) {
  high = pack<__nv_bfloat16>(x[0], x[1]);
  const float2 taken = unpack<__nv_bfloat16>(high);
  low = pack<__nv_bfloat16>(x[0] - taken.x, x[1] - taken.y);
}

/// The factors of this thread's columns 8 n + 2 t and the next.
__device__ inline float2 column_factors(const float* factors, int n) {
  return *reinterpret_cast<const float2*>(factors + 8 * n + threadIdx.x % 4 * 2);
}

/// Where a lane's output goes: 8 channels of each 16th token of a chunk.
template <class X>
struct OutputPlace {
  X* next;              // of the lane's first token in this chunk
  std::int64_t each;    // elements between its tokens
  std::uint32_t piece;  // in a tile of [tokens][64 channels]

  /// Eight lanes read from all banks: a piece each of eight tokens.
  __device__ static int token() {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    return lane / 16 * 8 + lane % 8;
  }

  __device__ OutputPlace(const ChunkParams& p, const WalkTask& task) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) % 128 / 32;
    next = p.out.as<X>() + p.out.at(task.row.start + token(), task.head,
                                    task.first_v + 16 * warp + lane / 8 % 2 * 8);
    each = 16 * p.out.stride[0];
    piece = in_tile();
  }
  __device__ static std::uint32_t in_tile() {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) % 128 / 32;
    return static_cast<std::uint32_t>(swizzled(token(), 2 * warp + lane / 8 % 2));
  }
};

/// Accumulators of the output, [64 channels][16 Groups tokens], to a tile; `place`: OutputPlace's
/// piece of it. The warp's 16 channels of the tile are nobody else's.
template <class X, int Groups>
__device__ void put_output(std::uint32_t place, const float* out) {
#pragma unroll
  for (int i = 0; i < Groups; ++i) {
    const float* at = out + 8 * i;
    store_transposed(place + i * 2048, {pack<X>(at[0], at[1]), pack<X>(at[2], at[3]),
                                        pack<X>(at[4], at[5]), pack<X>(at[6], at[7])});
  }
}

/// Accumulators of the output, [64 channels][64 tokens], to memory by way of a tile of 16 tokens
/// for each of `AtOnce`.
template <int AtOnce, class X>
__device__ void store_output(OutputPlace<X>& place, std::uint32_t tile, const float* out,
                             int count) {
  const int token = OutputPlace<X>::token();
#pragma unroll
  for (int first = 0; first < 4; first += AtOnce) {
    if (first > 0) __syncwarp();
    put_output<X, AtOnce>(tile + place.piece, out + 8 * first);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < AtOnce; ++i) {
      const uint4 piece = load_piece(tile + place.piece + i * 2048);
      if (16 * (first + i) + token < count) *reinterpret_cast<uint4*>(place.next) = piece;
      place.next += place.each;
    }
  }
}

/// The rows of S that four warps walk with.
struct StateRows {
  float s[64];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 64; ++i) s[i] = 0.0f;
  }
  /// The state at rest, or zero where it has seen nothing. Narrow: K may be less than kChunkDim,
  /// which kernels that have not the registers for it leave out.
  template <bool Narrow = false>
  __device__ void load(const ChunkParams& p, const WalkTask& task) {
    if (task.row.computed == 0) return clear();
    for_state(task, [&](int i, int v, int k) {
      float2 pair = make_float2(0.0f, 0.0f);
      if (!Narrow || k < p.k.channels) {
        pair = load_pair(p.state, p.state.at(task.row.slot, task.head, v, k));
      }
      s[i] = pair.x;
      s[i + 1] = pair.y;
    });
  }
  /// A state in scratch: float [128][128].
  __device__ void load(const float* state, const WalkTask& task) {
    for_state(task, [&](int i, int v, int k) {
      const float2 pair = *reinterpret_cast<const float2*>(state + v * kChunkDim + k);
      s[i] = pair.x;
      s[i + 1] = pair.y;
    });
  }
  __device__ void store(float* state, const WalkTask& task) const {
    for_state(task, [&](int i, int v, int k) {
      *reinterpret_cast<float2*>(state + v * kChunkDim + k) = make_float2(s[i], s[i + 1]);
    });
  }
  template <bool Narrow = false>
  __device__ void store(const ChunkParams& p, const WalkTask& task) const {
    for_state(task, [&](int i, int v, int k) {
      if (!Narrow || k < p.k.channels) {
        store_pair(p.state, p.state.at(task.row.slot, task.head, v, k), s[i], s[i + 1]);
      }
    });
  }
};

/// Zeros for a padded row.
template <class X>
__device__ void zero_out(const ChunkParams& p, const WalkTask& task, int channels) {
  const int pieces = channels / 8;
  for (int at = static_cast<int>(threadIdx.x); at < task.row.length * pieces;
       at += static_cast<int>(blockDim.x)) {
    *reinterpret_cast<uint4*>(p.out.as<X>() + p.out.at(task.row.start + at / pieces, task.head,
                                                       task.first_v + at % pieces * 8)) =
        make_uint4(0, 0, 0, 0);
  }
}

}  // namespace hybridattn::cuda
