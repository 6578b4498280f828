// The largest logit of each row: blocks look through parts of a row, a warp puts them together.
#include <algorithm>
#include <cstdint>

#include "engine/ops/cuda/kernels.h"
#include "engine/ops/cuda/launch.cuh"

namespace hybridattn::engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kAtOnce = 4;  // loads of a thread on their way
constexpr unsigned kAllLanes = 0xffffffffu;
/// The place of the largest logit, in an order in which larger is better: the logit's bits, made to
/// compare as integers, then the id from its complement. 0: none. The lowest bit of the ids' word
/// is free, as ids have 31 bits: set where a logit is not finite.
using Best = std::uint64_t;

struct GreedyParams {
  const float* logits;
  std::int64_t stride, vocab;
  bool packed;  // rows begin at multiples of 16 bytes
  const std::int32_t* limits;
  Best* parts;  // [rows][kGreedyParts]
  NextToken* tokens;
};

__device__ inline Best place_of(float logit, std::int64_t id, std::int64_t limit) {
  const auto bits = static_cast<std::uint32_t>(__float_as_int(logit + 0.0f));  // one zero
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  if (!finite && (bits & 0x007fffffu) != 0) return 1;  // a NaN
  if (id >= limit) return finite ? 0 : 1;
  const std::uint32_t order = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<Best>(order) << 32 |
         static_cast<std::uint32_t>(0x7fffffff - id) << 1 | (finite ? 0u : 1u);
}
__device__ inline Best better(Best a, Best b) { return max(a, b) | ((a | b) & 1u); }

__device__ inline Best best_of_lanes(Best best) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    best = better(best, __shfl_xor_sync(kAllLanes, best, offset));
  }
  return best;
}

__global__ void __launch_bounds__(kThreads) parts_kernel(const __grid_constant__ GreedyParams p) {
  __shared__ Best warps[kThreads / 32];
  begin_kernel();
  const std::int64_t row = blockIdx.y;
  const float* logits = p.logits + row * p.stride;
  const std::int64_t limit = p.limits[row], step = std::int64_t{gridDim.x} * kThreads;
  Best best = 0;
  const auto take = [&](std::int64_t i, float logit) {
    best = better(best, place_of(logit, i, limit));
  };
  const std::int64_t first = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  // Where rows begin at multiples of 16 bytes: several loads of a thread are on their way.
  const std::int64_t quads = p.packed ? p.vocab / 4 : 0;
  const auto* const packs = reinterpret_cast<const float4*>(logits);
  for (std::int64_t i = first; i < quads; i += kAtOnce * step) {
    float4 pack[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      if (i + u * step < quads) pack[u] = packs[i + u * step];
    }
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      const std::int64_t at = 4 * (i + u * step);
      if (at >= 4 * quads) break;
      take(at, pack[u].x);
      take(at + 1, pack[u].y);
      take(at + 2, pack[u].z);
      take(at + 3, pack[u].w);
    }
  }
  for (std::int64_t i = 4 * quads + first; i < p.vocab; i += step) take(i, logits[i]);
  best = best_of_lanes(best);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = best_of_lanes(threadIdx.x < kThreads / 32 ? warps[threadIdx.x] : 0);
  if (threadIdx.x == 0) p.parts[row * kGreedyParts + blockIdx.x] = best;
}

__global__ void __launch_bounds__(32)
    tokens_kernel(const __grid_constant__ GreedyParams p, int parts) {
  begin_kernel();
  const std::int64_t row = blockIdx.x;
  Best best = 0;
  for (int i = static_cast<int>(threadIdx.x); i < parts; i += 32) {
    best = better(best, p.parts[row * kGreedyParts + i]);
  }
  best = best_of_lanes(best);
  if (threadIdx.x != 0) return;
  const bool any = best >> 32 != 0;
  p.tokens[row].id =
      any ? 0x7fffffff - static_cast<std::int32_t>(static_cast<std::uint32_t>(best) >> 1) : 0;
  p.tokens[row].finite = (best & 1u) == 0;
}

}  // namespace

Status greedy_tokens(Context& context, const ConstTensorView& logits, const std::int32_t* limits,
                     std::byte* scratch, NextToken* tokens) {
  const auto rows = static_cast<unsigned>(logits.dim(0));
  if (rows == 0) return {};
  const bool packed =
      reinterpret_cast<std::uintptr_t>(logits.data) % 16 == 0 && logits.stride(0) % 4 == 0;
  const GreedyParams p{static_cast<const float*>(logits.data), logits.stride(0), logits.dim(1),
                       packed, limits, reinterpret_cast<Best*>(scratch), tokens};
  // A part is one round of loads; with many rows fewer parts fill the card.
  constexpr std::int64_t kRound = kThreads * kAtOnce * 4, kBlocks = 2048;
  const std::int64_t most = std::max<std::int64_t>(1, kBlocks / std::int64_t{rows});
  const auto parts = static_cast<int>(
      std::clamp<std::int64_t>((p.vocab + kRound - 1) / kRound, 1, std::min(kGreedyParts, most)));
  Status done = launch(context, "greedy_tokens", parts_kernel,
                       dim3(static_cast<unsigned>(parts), rows), kThreads, p);
  if (!done.ok()) return done;
  return launch(context, "greedy_tokens", tokens_kernel, dim3(rows), 32, p, parts);
}

}  // namespace hybridattn::engine::cuda
