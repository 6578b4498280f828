// Norm and rotation of q and k and the store to pages on CUDA. Heads of 64, 128 and 256: 8 dims a
// thread, some heads at once, each read once. Others: a warp for each head, which reads a row of q
// or k twice where there is a norm, the second time from the first-level cache.
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"
#include "src/cuda/qk_rows.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kWarps = 4;

struct FusedParams {
  View q, k, v, q_norm, k_norm, cos, sin, q_out, k_out, k_cache, v_cache;
  const std::int64_t* token_slots;  // [tokens], with the caches
  std::int64_t tokens;
  std::int64_t q_heads, k_heads, v_heads;  // v_heads: those that are stored
  std::int64_t dim, v_dim, half, page_size;
  float epsilon;
  float offset;  // of the weights
  core::HeadScales k_scale, v_scale;
};

/// One row's way. What has no data is left out.
struct HeadRow {
  RowElements x, norm, cos, sin, out, place;
  std::int64_t dim, half;
  float scale;  // of the place

  template <int N>
  __device__ void finish(std::int64_t first, const float (&y)[N]) const {
    if (out.data != nullptr) store_elements(out, first, y);
    if (place.data != nullptr) store_scaled(place, first, y, scale);
  }
};

template <int N>
__device__ void pass_row(const HeadRow& row, float epsilon, float offset, int lane) {
  const bool normed = row.norm.data != nullptr;
  float factor = 1.0f;
  if (normed) {
    factor = rms_factor(sum_lanes(sum_squares<N>(row.x, row.dim, lane, 32)), row.dim, epsilon);
  }
  // A lane has both elements of a pair: in place nothing is read that another one has written.
  const std::int64_t pairs = row.half / N, units = pairs + (row.dim - 2 * row.half) / N;
#pragma unroll 1
  for (std::int64_t unit = lane; unit < units; unit += 32) {
    const bool rotated = unit < pairs;
    const std::int64_t first = rotated ? unit * N : row.half + unit * N;
    float lower[N];
    load_elements(row.x, first, lower);
    if (normed) scale_by_weight(lower, factor, row.norm, offset, first);
    if (rotated) {
      float upper[N];
      load_elements(row.x, first + row.half, upper);
      if (normed) scale_by_weight(upper, factor, row.norm, offset, first + row.half);
      rotate(lower, upper, row.cos, row.sin, first);
      row.finish(first + row.half, upper);
    }
    row.finish(first, lower);
  }
}

/// `head`: of q, then of k, then of v.
__device__ inline HeadRow make_row(const FusedParams& p, std::int64_t token, std::int64_t head) {
  HeadRow row{};
  row.dim = p.dim;
  row.scale = 1.0f;
  if (head < p.q_heads + p.k_heads && p.half > 0) {
    row.half = p.half;
    row.cos = row_of(p.cos, token);
    row.sin = row_of(p.sin, token);
  }
  if (head < p.q_heads) {
    row.x = row_of(p.q, token, head);
    row.norm = row_of(p.q_norm, 0);
    row.out = row_of(p.q_out, token, head);
    return row;
  }
  const std::int64_t slot = p.v_heads > 0 ? p.token_slots[token] : kPadIndex;
  head -= p.q_heads;
  if (head < p.k_heads) {
    row.x = row_of(p.k, token, head);
    row.norm = row_of(p.k_norm, 0);
    if (p.k_out.data != nullptr) row.out = row_of(p.k_out, token, head);
    if (slot != kPadIndex) row.place = place_of(p.k_cache, slot, p.page_size, head);
    row.scale = p.k_scale.of(head);
    return row;
  }
  head -= p.k_heads;
  row.x = row_of(p.v, token, head);
  row.dim = p.v_dim;
  if (slot != kPadIndex) row.place = place_of(p.v_cache, slot, p.page_size, head);
  row.scale = p.v_scale.of(head);
  return row;
}

template <int N>
__global__ void __launch_bounds__(kWarps * 32)
    qk_norm_rope_store_kernel(const __grid_constant__ FusedParams p) {
  let_next_begin();
  wait_for_writers();
  const std::int64_t heads = p.q_heads + p.k_heads + p.v_heads;
  for (std::int64_t i = flat_index() / 32; i < p.tokens * heads; i += flat_step() / 32) {
    const Split at = split(i, heads);
    const HeadRow row = make_row(p, at.whole, at.rest);
    if (row.out.data == nullptr && row.place.data == nullptr) continue;
    pass_row<N>(row, p.epsilon, p.offset, static_cast<int>(threadIdx.x % 32));
  }
}

/// Groups of `each` heads of q, of k and of v.
__host__ __device__ inline std::int64_t groups_of_token(const FusedParams& p, int each) {
  const auto groups = [&](std::int64_t count) { return (count + each - 1) / each; };
  return groups(p.q_heads) + groups(p.k_heads) + groups(p.v_heads);
}

/// Threads that have kPack dims of a head each.
template <int Lanes>
struct Team {
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % Lanes; }
  static __device__ std::int64_t index() { return flat_index() / Lanes; }
  static __device__ std::int64_t count() { return flat_step() / Lanes; }
  /// Teams of a warp need not go the same way.
  static __device__ unsigned mask() {
    return (kAllLanes >> (32 - Lanes)) << (threadIdx.x % 32 / Lanes * Lanes);
  }
  static __device__ float other(float x, int apart) { return __shfl_xor_sync(mask(), x, apart); }
  /// In the order of sum_lanes.
  static __device__ float sum(float x) {
#pragma unroll
    for (int apart = Lanes / 2; apart > 0; apart /= 2) x += other(x, apart);
    return x;
  }
};

/// Rows of one head after the other. No data, no rows.
struct HeadRows {
  std::byte* data = nullptr;
  std::int64_t step = 0;  // bytes
  DType dtype = DType::kF32;

  HeadRows() = default;
  /// From head `head` of what begins with `first`.
  __device__ HeadRows(const View& view, const RowElements& first, int of_heads)
      : data(first.data), step(view.stride[of_heads] << log2_size(view.dtype)), dtype(view.dtype) {}

  __device__ void next() { data += step; }
};

/// Some heads of a token, all of q, of k or of v, and their way.
struct HeadGroup {
  HeadRows x, out, place;
  RowElements norm;
  std::int64_t token;
  int first, heads;
  core::HeadScales scale;
  bool rotated;

  /// `i`: among all tokens' groups of `each` heads.
  __device__ HeadGroup(const FusedParams& p, std::int64_t i, int each) {
    const auto groups = [&](std::int64_t count) {
      return (static_cast<int>(count) + each - 1) / each;
    };
    const int of_q = groups(p.q_heads), of_k = groups(p.k_heads);
    const Split at = split(i, of_q + of_k + groups(p.v_heads));
    const auto group = static_cast<int>(at.rest);
    token = at.whole;
    rotated = p.half > 0;
    if (group < of_q) {
      take(group, p.q_heads, each);
      x = HeadRows(p.q, row_of(p.q, token, first), 1);
      out = HeadRows(p.q_out, row_of(p.q_out, token, first), 1);
      norm = row_of(p.q_norm, 0);
      return;
    }
    const std::int64_t slot = p.v_heads > 0 ? p.token_slots[token] : kPadIndex;
    if (group < of_q + of_k) {
      take(group - of_q, p.k_heads, each);
      x = HeadRows(p.k, row_of(p.k, token, first), 1);
      if (p.k_out.data != nullptr) out = HeadRows(p.k_out, row_of(p.k_out, token, first), 1);
      if (slot != kPadIndex) place = in_cache(p.k_cache, slot, p.page_size);
      norm = row_of(p.k_norm, 0);
      scale = p.k_scale;
      return;
    }
    rotated = false;
    take(group - of_q - of_k, p.v_heads, each);
    x = HeadRows(p.v, row_of(p.v, token, first), 1);
    if (slot != kPadIndex) place = in_cache(p.v_cache, slot, p.page_size);
    scale = p.v_scale;
  }

 private:
  __device__ void take(int group, std::int64_t all, int each) {
    first = group * each;
    heads = min(each, static_cast<int>(all) - first);
  }
  __device__ HeadRows in_cache(const View& cache, std::int64_t slot, std::int64_t page_size) const {
    return {cache, place_of(cache, slot, page_size, first), 2};
  }
};

/// What a thread multiplies its dims of every head of a group with.
template <int Lanes>
struct LaneFactors {
  float weight[kPack], cosine[kPack], sine[kPack];
  int apart;
  bool normed, in_pair;

  __device__ LaneFactors(const FusedParams& p, const HeadGroup& group)
      : apart(group.rotated ? static_cast<int>(p.half) / kPack : 0),
        normed(group.norm.data != nullptr) {
    const int lane = Team<Lanes>::lane();
    in_pair = lane < 2 * apart;
    if (normed) {
      load_elements(group.norm, lane * kPack, weight);
#pragma unroll
      for (float& w : weight) w += p.offset;
    }
    if (!in_pair) return;
    load_elements(row_of(p.cos, group.token), lane % apart * kPack, cosine);
    load_elements(row_of(p.sin, group.token), lane % apart * kPack, sine);
#pragma unroll
    for (float& s : sine) s = lane < apart ? -s : s;
  }

  __device__ void apply(const FusedParams& p, float (&x)[kPack]) const {
    if (normed) {
      float squares = 0.0f;
#pragma unroll
      for (int i = 0; i < kPack; ++i) squares = fmaf(x[i], x[i], squares);
      const float factor = rms_factor(Team<Lanes>::sum(squares), p.dim, p.epsilon);
#pragma unroll
      for (int i = 0; i < kPack; ++i) x[i] = x[i] * factor * weight[i];
    }
    if (apart == 0) return;
    float other[kPack];
#pragma unroll
    for (int i = 0; i < kPack; ++i) other[i] = Team<Lanes>::other(x[i], apart);
    if (!in_pair) return;
#pragma unroll
    for (int i = 0; i < kPack; ++i) x[i] = fmaf(other[i], sine[i], x[i] * cosine[i]);
  }
};

/// `AtOnce` heads of a token, whose elements, all in X, are on their way before the first is
/// needed.
template <DType X, int Lanes, int AtOnce>
__device__ void pass_heads(const FusedParams& p, HeadGroup& group) {
  const int first = Team<Lanes>::lane() * kPack;
  RawElements raw[AtOnce];
#pragma unroll
  for (int n = 0; n < AtOnce; ++n) {
    if (n < group.heads) raw[n] = fetch_elements({group.x.data, X}, first);
    group.x.next();
  }
  const LaneFactors<Lanes> factors(p, group);
#pragma unroll
  for (int n = 0; n < AtOnce; ++n) {
    if (n >= group.heads) break;
    float values[kPack];
    unpack_elements(raw[n], X, values);
    factors.apply(p, values);
    if (group.out.data != nullptr) {
      store_elements({group.out.data, X}, first, values);
      group.out.next();
    }
    if (group.place.data != nullptr) {
      store_scaled({group.place.data, group.place.dtype}, first, values,
                   group.scale.of(group.first + n));
      group.place.next();
    }
  }
}

template <DType X, int Lanes, int AtOnce>
__global__ void __launch_bounds__(kWarps * 32)
    heads_at_once_kernel(const __grid_constant__ FusedParams p) {
  let_next_begin();
  wait_for_writers();
  const std::int64_t groups = p.tokens * groups_of_token(p, AtOnce);
  for (std::int64_t i = Team<Lanes>::index(); i < groups; i += Team<Lanes>::count()) {
    HeadGroup group(p, i, AtOnce);
    pass_heads<X, Lanes, AtOnce>(p, group);
  }
}

template <DType X, int Lanes>
Status run_heads_at_once(const FusedParams& p, const core::DeviceLaunch& launch) {
  // More heads at once keep memory busy, one at a time is done sooner.
  constexpr int kAtOnce = 4;
  constexpr std::int64_t kTeams = kWarps * 32 / Lanes;
  const std::int64_t enough = std::int64_t{launch.info->num_sms} * 16 * 32 / Lanes;
  const std::int64_t groups = p.tokens * groups_of_token(p, kAtOnce);
  if (groups < enough) {
    return launch_early("qk_norm_rope_store", launch, heads_at_once_kernel<X, Lanes, 1>,
                        grid_for(p.tokens * groups_of_token(p, 1), kTeams, *launch.info),
                        kWarps * 32, 0, p);
  }
  return launch_early("qk_norm_rope_store", launch, heads_at_once_kernel<X, Lanes, kAtOnce>,
                      grid_for(groups, kTeams, *launch.info), kWarps * 32, 0, p);
}

template <DType X>
Status run_heads_at_once(const FusedParams& p, const core::DeviceLaunch& launch) {
  if (p.dim == 64) return run_heads_at_once<X, 8>(p, launch);
  if (p.dim == 128) return run_heads_at_once<X, 16>(p, launch);
  return run_heads_at_once<X, 32>(p, launch);
}

/// Whether heads can be taken at once: a pair's lanes are lane and lane ^ (half / kPack).
bool fits_teams(const FusedParams& p) {
  const bool dim = p.dim == 64 || p.dim == 128 || p.dim == 256;
  for (const View* view : {&p.k, &p.v, &p.q_out, &p.k_out}) {
    if (view->data != nullptr && view->dtype != p.q.dtype) return false;
  }
  return dim && (p.v_heads == 0 || p.v_dim == p.dim) && p.half % kPack == 0 &&
         (p.half & (p.half - 1)) == 0;
}

/// Whether every row that the call names can be moved in packs.
bool all_in_packs(const ops::QkNormRopeStoreParams& p) {
  const auto as_const = [](const TensorView& view) { return ConstTensorView(view); };
  return in_packs(p.half(), p.cos, p.sin) &&
         in_packs(p.q.dim(2), p.q, p.k, p.q_norm, p.k_norm, as_const(p.q_out), as_const(p.k_out),
                  as_const(p.k_cache)) &&
         in_packs(p.v_dim(), p.v, as_const(p.v_cache));
}

Status run(const ops::QkNormRopeStoreParams& p, const core::DeviceLaunch& launch) {
  const bool stores = p.k_cache.rank != 0;
  const FusedParams params{View(p.q),       View(p.k),
                           View(p.v),       View(p.q_norm),
                           View(p.k_norm),  View(p.cos),
                           View(p.sin),     View(p.q_out),
                           View(p.k_out),   View(p.k_cache),
                           View(p.v_cache), p.token_slots,
                           p.q.dim(0),      p.q.dim(1),
                           p.kv_heads(),    stores ? p.kv_heads() : 0,
                           p.q.dim(2),      p.v_dim(),
                           p.half(),        stores ? p.k_cache.dim(1) : 1,
                           p.epsilon,       p.zero_centered ? 1.0f : 0.0f,
                           p.k_scale,       p.v_scale};
  const std::int64_t rows = params.tokens * (params.q_heads + params.k_heads + params.v_heads);
  if (rows == 0) return {};
  const bool packs = all_in_packs(p);
  if (packs && fits_teams(params)) {
    if (p.q.dtype == DType::kBF16) return run_heads_at_once<DType::kBF16>(params, launch);
    if (p.q.dtype == DType::kF16) return run_heads_at_once<DType::kF16>(params, launch);
    return run_heads_at_once<DType::kF32>(params, launch);
  }
  return launch_early("qk_norm_rope_store", launch,
                      packs ? qk_norm_rope_store_kernel<kPack> : qk_norm_rope_store_kernel<1>,
                      grid_for(rows, kWarps, *launch.info), kWarps * 32, 0, params);
}

}  // namespace

core::DeviceKernels<ops::QkNormRopeStoreParams> qk_norm_rope_store_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
