// A block draws the token of a row. What top-k and top-p keep are the first ids of an order by
// logit: a Cut. It is found digit by digit, by the counts and weights of all logits that share the
// digits found so far: first in steps below the largest, which spread most logits over many
// counters, then in the bits of the logit. The draw goes through what is kept by rising id.
#include "engine/ops/cuda/kernels.h"
#include "engine/ops/cuda/launch.cuh"

namespace hybridattn::engine::cuda {
namespace {

constexpr int kThreads = 1024, kWarps = kThreads / 32;
constexpr int kDigits = 2 * kThreads;  // of one round: two for each thread
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kStepsOfOne = 64;  // between two logits that are 1 apart

struct DrawParams {
  const float* logits;
  std::int64_t stride, vocab;
  const Draw* draws;
  NextToken* tokens;
};

/// All logits above `bits`, and of those that equal it the first `ties`.
struct Cut {
  std::uint32_t bits = 0;
  std::uint32_t ties = 0xffffffffu;
};

struct Shared {
  std::uint32_t counts[kDigits];
  unsigned long long weights[kDigits];
  unsigned long long of_warps[kWarps];
  std::uint32_t ties_of_warps[kWarps];
  float most_of_warps[kWarps];
  // What one thread has found for all.
  std::uint32_t digit, count;
  unsigned long long weight, place;
};

/// A logit that counts: a NaN is minus infinity.
__device__ inline float number(float logit) {
  return isnan(logit) ? -std::numeric_limits<float>::infinity() : logit;
}
/// Bits that compare as integers as the logits do; both zeros are one.
__device__ inline std::uint32_t ordered(float logit) {
  const auto bits = static_cast<std::uint32_t>(__float_as_int(logit + 0.0f));
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

/// One row as its block goes through it.
class Row {
 public:
  __device__ Row(const DrawParams& p, Shared& shared)
      : logits_(p.logits + std::int64_t{blockIdx.x} * p.stride), draw_(p.draws[blockIdx.x]),
        shared_(shared) {}

  /// Finds the largest logit; returns whether all of the row are finite.
  __device__ bool look(std::int64_t vocab) {
    float most = -std::numeric_limits<float>::infinity();
    bool finite = true;
    for (std::int64_t i = threadIdx.x; i < vocab; i += kThreads) {
      const float logit = logits_[i];
      finite = finite && isfinite(logit);
      if (i < draw_.limit) most = fmaxf(most, number(logit));
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, offset));
    }
    if (threadIdx.x % 32 == 0) shared_.most_of_warps[threadIdx.x / 32] = most;
    finite = __syncthreads_and(finite);
    for (const float other : shared_.most_of_warps) most = fmaxf(most, other);
    most_ = most;
    return finite;
  }

  __device__ std::int32_t take() {
    Cut cut;
    if (draw_.scale == 0) {
      cut = {ordered(most_), 1};
    } else if (draw_.top_k > 0 && draw_.top_k < draw_.limit) {
      cut = find<false>(static_cast<unsigned>(draw_.top_k));
    }
    if (draw_.scale != 0 && draw_.top_p < 1) {
      cut = find<true>(draw_target(draw_.top_p, weigh<false>(cut)));
    }
    return draw_within(cut);
  }

 private:
  struct Element {
    float logit, below;
    std::uint32_t bits;
  };
  __device__ Element element(std::int64_t id) const {
    const float logit = number(logits_[id]);
    return {logit, draw_below(logit, most_), ordered(logit)};
  }
  __device__ unsigned long long weight(const Element& x) const {
    // The largest alone where nothing is drawn.
    return draw_.scale == 0 ? x.below == 0 : draw_weight(x.below, draw_.scale);
  }
  /// Steps below the largest, which rise as logits fall.
  __device__ static std::uint32_t step_of(const Element& x) {
    const float steps = x.below * kStepsOfOne;
    return steps < kDigits - 1 ? static_cast<std::uint32_t>(steps) : kDigits - 1;
  }

  /// Where the first logits reach `target`, in number or in weight, which all of them do.
  template <bool kByWeight>
  __device__ Cut find(unsigned long long target) {
    const std::uint32_t step = find_digit<kByWeight>(
        target, [](const Element&) { return true; },
        [](const Element& x) { return kDigits - 1 - step_of(x); });
    std::uint32_t bits = 0;
    int before = 32;  // bits that are not known yet
#pragma unroll 1
    while (before > 0) {
      const int wide = before > 10 ? 11 : 10, left = before - wide;
      const std::uint32_t digit = find_digit<kByWeight>(
          target,
          [&](const Element& x) {
            const bool known = before == 32 || x.bits >> before == bits >> before;
            return known && kDigits - 1 - step_of(x) == step;
          },
          [&](const Element& x) { return x.bits >> left & ((1u << wide) - 1); });
      bits |= digit << left;
      before = left;
    }
    // What is left of the target is in equal logits.
    const unsigned long long each = kByWeight ? shared_.weight / shared_.count : 1;
    const unsigned long long ties = (target + each - 1) / each;
    return {bits, static_cast<std::uint32_t>(ties)};
  }

  /// The largest digit at which elements of it and of larger ones reach the target; those of the
  /// larger ones are taken off the target. Leaves its count and its weight in shared memory.
  template <bool kByWeight, class Which, class Digit>
  __device__ std::uint32_t find_digit(unsigned long long& target, const Which& which,
                                      const Digit& digit) {
    __syncthreads();
    for (int i = threadIdx.x; i < kDigits; i += kThreads) {
      shared_.counts[i] = 0;
      shared_.weights[i] = 0;
    }
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < draw_.limit; i += kThreads) {
      const Element x = element(i);
      if (!which(x)) continue;
      atomicAdd(&shared_.counts[digit(x)], 1u);
      if constexpr (kByWeight) atomicAdd(&shared_.weights[digit(x)], weight(x));
    }
    __syncthreads();
    const int high = kDigits - 1 - 2 * static_cast<int>(threadIdx.x), low = high - 1;
    const auto amount = [&](int i) -> unsigned long long {
      return kByWeight ? shared_.weights[i] : shared_.counts[i];
    };
    const unsigned long long own = amount(high) + amount(low);
    const unsigned long long before = sum_before(own);
    if (before < target && before + own >= target) {
      const bool in_high = before + amount(high) >= target;
      const int found = in_high ? high : low;
      shared_.digit = static_cast<std::uint32_t>(found);
      shared_.count = shared_.counts[found];
      shared_.weight = shared_.weights[found];
      shared_.place = before + (in_high ? 0 : amount(high));
    }
    __syncthreads();
    target -= shared_.place;
    return shared_.digit;
  }

  /// The values of all threads before this one.
  __device__ unsigned long long sum_before(unsigned long long value) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const unsigned long long sum = sum_of_lanes_up_to(value);
    if (lane == 31) shared_.of_warps[warp] = sum;
    __syncthreads();
    unsigned long long before = sum - value;
    for (int w = 0; w < warp; ++w) before += shared_.of_warps[w];
    __syncthreads();
    return before;
  }
  __device__ static unsigned long long sum_of_lanes_up_to(unsigned long long value) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const unsigned long long other = __shfl_up_sync(kAllLanes, value, offset);
      if (lane >= offset) value += other;
    }
    return value;
  }

  /// The ids of a warp: as many for each, in whole lines of lanes, warp after warp.
  __device__ std::int64_t ids_of_warp() const {
    const std::int64_t lines = (std::int64_t{draw_.limit} + 31) / 32;
    return (lines + kWarps - 1) / kWarps * 32;
  }
  /// f(element, whether there is one, id), one line of lanes after the other, until it returns
  /// false. kFar: with those that are further below the largest than may be drawn.
  template <bool kFar, class F>
  __device__ void each_line(const F& f) const {
    const std::int64_t wide = ids_of_warp(), first = std::int64_t{threadIdx.x / 32} * wide;
    for (std::int64_t i = first; i < first + wide && i < draw_.limit; i += 32) {
      const std::int64_t id = i + threadIdx.x % 32;
      const bool there = id < draw_.limit;
      const Element x = there ? element(id) : Element{};
      if (!f(x, there && (kFar || x.below <= draw_.most_below), id)) return;
    }
  }

  /// Whether an element is kept whatever its place, and whether its place among its equals decides.
  __device__ static bool above(const Cut& cut, const Element& x, bool there) {
    return there && x.bits > cut.bits;
  }
  __device__ static bool tied(const Cut& cut, const Element& x, bool there) {
    return there && x.bits == cut.bits;
  }

  /// The weight of what the cut keeps, with kDrawn of what min-p keeps of that. Leaves in shared
  /// memory, for each warp's ids, the weight above the cut and how many equal it.
  template <bool kDrawn>
  __device__ unsigned long long weigh(const Cut& cut) {
    unsigned long long sum = 0;
    std::uint32_t ties = 0;
    each_line<!kDrawn>([&](const Element& x, bool there, std::int64_t) {
      if (above(cut, x, there)) sum += weight(x);
      ties += __popc(__ballot_sync(kAllLanes, tied(cut, x, there)));
      return true;
    });
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, offset);
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
      shared_.of_warps[threadIdx.x / 32] = sum;
      shared_.ties_of_warps[threadIdx.x / 32] = ties;
    }
    __syncthreads();
    const unsigned long long of_tie = weight_of(cut.bits);
    unsigned long long total = 0;
    std::uint32_t left = cut.ties;
    for (int w = 0; w < kWarps; ++w) {
      const std::uint32_t taken = min(left, shared_.ties_of_warps[w]);
      total += shared_.of_warps[w] + taken * of_tie;
      left -= taken;
    }
    return total;
  }
  /// Of a logit by its ordered bits.
  __device__ unsigned long long weight_of(std::uint32_t bits) const {
    const std::uint32_t raw = (bits & 0x80000000u) != 0 ? bits & 0x7fffffffu : ~bits;
    const float logit = number(__int_as_float(static_cast<int>(raw)));
    return weight({logit, draw_below(logit, most_), bits});
  }

  __device__ std::int32_t draw_within(const Cut& cut) {
    const unsigned long long total = weigh<true>(cut);
    unsigned long long place = draw_place(draw_.random, total);
    const unsigned long long of_tie = weight_of(cut.bits);
    std::uint32_t left = cut.ties;
    int warp = 0;
    for (; warp + 1 < kWarps; ++warp) {
      const std::uint32_t taken = min(left, shared_.ties_of_warps[warp]);
      const unsigned long long sum = shared_.of_warps[warp] + taken * of_tie;
      if (place < sum) break;
      place -= sum;
      left -= taken;
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) / 32 == warp) {
      each_line<false>([&](const Element& x, bool there, std::int64_t id) {
        const unsigned ties = __ballot_sync(kAllLanes, tied(cut, x, there));
        const unsigned before = __popc(ties & ((1u << threadIdx.x % 32) - 1));
        const bool kept = above(cut, x, there) || (tied(cut, x, there) && before < left);
        const unsigned long long own = kept ? weight(x) : 0;
        const unsigned long long sum = sum_of_lanes_up_to(own);
        if (sum - own <= place && place < sum) shared_.digit = static_cast<std::uint32_t>(id);
        const unsigned long long all = __shfl_sync(kAllLanes, sum, 31);
        if (place < all) return false;
        place -= all;
        left -= min(left, static_cast<std::uint32_t>(__popc(ties)));
        return true;
      });
    }
    __syncthreads();
    return static_cast<std::int32_t>(shared_.digit);
  }

  const float* logits_;
  Draw draw_;
  Shared& shared_;
  float most_ = 0;
};

__global__ void __launch_bounds__(kThreads, 1) draw_kernel(const __grid_constant__ DrawParams p) {
  __shared__ Shared shared;
  begin_kernel();
  Row row(p, shared);
  const bool finite = row.look(p.vocab);
  const std::int32_t id = row.take();
  if (threadIdx.x == 0) p.tokens[blockIdx.x] = {id, finite ? 1 : 0};
}

}  // namespace

Status draw_tokens(Context& context, const ConstTensorView& logits, const Draw* draws,
                   NextToken* tokens) {
  const auto rows = static_cast<unsigned>(logits.dim(0));
  if (rows == 0) return {};
  const DrawParams p{static_cast<const float*>(logits.data), logits.stride(0), logits.dim(1), draws,
                     tokens};
  return launch(context, "draw_tokens", draw_kernel, dim3(rows), kThreads, p);
}

}  // namespace hybridattn::engine::cuda
