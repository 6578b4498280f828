// Norm and rotation of q and k and the store to pages on CUDA. Heads of 64, 128 and 256: 8 dims a
// thread, some heads at once, each read once. Others: a warp for each head, which reads a row of q or
// k twice where there is a norm, the second time from the first-level cache.
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
__device__ inline RowElements source_of(const FusedParams& p, std::int64_t token,
                                        std::int64_t head) {
  if (head < p.q_heads) return row_of(p.q, token, head);
  head -= p.q_heads;
  return head < p.k_heads ? row_of(p.k, token, head) : row_of(p.v, token, head - p.k_heads);
}

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
  wait_for_writers();
  let_next_begin();
  const std::int64_t heads = p.q_heads + p.k_heads + p.v_heads;
  for (std::int64_t i = flat_index() / 32; i < p.tokens * heads; i += flat_step() / 32) {
    const Split at = split(i, heads);
    const HeadRow row = make_row(p, at.whole, at.rest);
    if (row.out.data == nullptr && row.place.data == nullptr) continue;
    pass_row<N>(row, p.epsilon, p.offset, static_cast<int>(threadIdx.x % 32));
  }
}

constexpr int kAtOnce = 4;  // heads of a thread whose elements are on their way

/// The pairs' angles of a thread's dims, and how they are rotated: pairs lie `apart` lanes apart.
struct LaneAngles {
  float c[kPack], s[kPack];

  __device__ void load(const FusedParams& p, std::int64_t token, std::int64_t first) {
    load_elements(row_of(p.cos, token), first, c);
    load_elements(row_of(p.sin, token), first, s);
  }
  /// Of all lanes of a warp; changes those of pairs.
  __device__ void rotate(float (&x)[kPack], int lane, int apart, bool rotated) const {
    const bool upper = lane >= apart;
#pragma unroll
    for (int i = 0; i < kPack; ++i) {
      const float other = __shfl_xor_sync(kAllLanes, x[i], apart);
      if (rotated) x[i] = fmaf(upper ? other : -other, s[i], x[i] * c[i]);
    }
  }
};

/// Heads [begin, begin + kAtOnce) of all tokens' heads, those under `count`, by `Lanes` threads each
/// of which has kPack dims.
template <int Lanes>
__device__ void pass_heads(const FusedParams& p, std::int64_t begin, std::int64_t count) {
  const std::int64_t heads = p.q_heads + p.k_heads + p.v_heads;
  const int lane = static_cast<int>(threadIdx.x) % Lanes, apart = static_cast<int>(p.half) / kPack;
  const Split start = split(begin, heads);
  std::int64_t token = start.whole, head = start.rest;
  RawElements raw[kAtOnce];
#pragma unroll
  for (int n = 0; n < kAtOnce; ++n) {
    if (begin + n < count) raw[n] = fetch_elements(source_of(p, token, head), lane * kPack);
    if (++head == heads) ++token, head = 0;
  }
  const bool in_pair = lane < 2 * apart;
  const std::int64_t pair = lane % max(apart, 1) * kPack;
  LaneAngles angles;
  if (in_pair && begin < count) angles.load(p, start.whole, pair);
  token = start.whole, head = start.rest;
#pragma unroll
  for (int n = 0; n < kAtOnce; ++n) {
    const bool there = begin + n < count;
    HeadRow row{};
    if (there) row = make_row(p, token, head);
    float x[kPack] = {};
    if (there) unpack_elements(raw[n], row.x.dtype, x);
    if (p.q_norm.data != nullptr || p.k_norm.data != nullptr) {
      float squares = 0.0f;
#pragma unroll
      for (int i = 0; i < kPack; ++i) squares = fmaf(x[i], x[i], squares);
      const float factor = rms_factor(sum_lanes<Lanes>(squares), p.dim, p.epsilon);
      if (there && row.norm.data != nullptr) {
        scale_by_weight(x, factor, row.norm, p.offset, lane * kPack);
      }
    }
    if (apart > 0) angles.rotate(x, lane, apart, there && row.half > 0 && in_pair);
    if (there) row.finish(lane * kPack, x);
    if (++head < heads) continue;
    ++token, head = 0;
    if (in_pair && begin + n + 1 < count) angles.load(p, token, pair);
  }
}

template <int Lanes>
__global__ void __launch_bounds__(kWarps * 32)
    heads_at_once_kernel(const __grid_constant__ FusedParams p) {
  constexpr int kTeams = 32 / Lanes;
  wait_for_writers();
  let_next_begin();
  const std::int64_t count = p.tokens * (p.q_heads + p.k_heads + p.v_heads);
  const int team = static_cast<int>(threadIdx.x) % 32 / Lanes;
  // All lanes of a warp stay together.
  for (std::int64_t i = flat_index() / 32 * kTeams * kAtOnce; i < count;
       i += flat_step() / 32 * kTeams * kAtOnce) {
    pass_heads<Lanes>(p, i + team * kAtOnce, count);
  }
}

/// The kernel that takes some heads at once, or nullptr where there is none for these.
void (*heads_at_once(const FusedParams& p))(FusedParams) {
  if (p.v_heads > 0 && p.v_dim != p.dim) return nullptr;
  if (p.half % kPack != 0 || (p.half & (p.half - 1)) != 0) return nullptr;  // pairs: lanes ^ apart
  if (p.dim == 64) return heads_at_once_kernel<8>;
  if (p.dim == 128) return heads_at_once_kernel<16>;
  return p.dim == 256 ? heads_at_once_kernel<32> : nullptr;
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
  if (const auto kernel = packs ? heads_at_once(params) : nullptr; kernel != nullptr) {
    const auto each = kWarps * 32 / (params.dim / kPack) * kAtOnce;
    return launch_early("qk_norm_rope_store", launch, kernel, grid_for(rows, each, *launch.info),
                        kWarps * 32, 0, params);
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
