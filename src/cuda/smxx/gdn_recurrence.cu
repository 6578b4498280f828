#include "src/cuda/smxx/gdn_recurrence.cuh"

#include "hybridattn/ops/l2norm.h"
#include "src/cuda/checkpoints.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/reduce.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kWarps = 4;
/// Rows of the state that a warp holds: more would starve a small batch of blocks.
constexpr int kWarpRows = 4;
constexpr int kBlockRows = kWarps * kWarpRows;

/// Zeros for a padded row.
__device__ void zero_out(const RecurrenceParams& p, const Row& row, int head, int first_v) {
  const int rows = min(kBlockRows, p.v_dim - first_v);
  for (int at = threadIdx.x; at < row.length * rows; at += blockDim.x) {
    store(p.out, p.out.at(row.start + at / rows, head, first_v + at % rows), 0.0f);
  }
}

/// Where a token's state comes from.
struct Origin {
  bool zero;
  bool in_registers;  // the token before it was the last one computed
  View view;
  std::int64_t slot;
};

__device__ Origin origin_of(const RecurrenceParams& p, const Row& row, int index, int i) {
  const std::int64_t parent = p.kept_row == nullptr ? i - 1 : parent_of(p.parents, row.start, i);
  if (parent >= 0 && parent == i - 1) return {false, true, View(), 0};
  if (parent >= 0) return {false, false, p.kept, p.kept_row[index] + parent};
  return {row.computed == 0, false, p.state, row.slot};
}

/// One lane's part of a head of q or k: channels lane, lane + 32, ...
template <int Parts>
__device__ void load_head(const View& x, std::int64_t token, int head, int dim, int lane,
                          float (&out)[Parts]) {
#pragma unroll
  for (int e = 0; e < Parts; ++e) {
    const int channel = e * 32 + lane;
    out[e] = channel < dim ? load(x, x.at(token, head, channel)) : 0.0f;
  }
}

template <int Parts>
__device__ float sum_squares(const float (&x)[Parts]) {
  float sum = 0.0f;
#pragma unroll
  for (int e = 0; e < Parts; ++e) sum = fmaf(x[e], x[e], sum);
  return sum_lanes(sum);
}

/// Any K up to 32 * Parts, any V, any strides. A warp holds kWarpRows rows of one head and walks
/// the row's tokens; it needs nothing of the other warps. Checkpoints: whether some are stored on
/// the way or begun with, which costs registers.
template <int Parts, bool Checkpoints>
__global__ void __launch_bounds__(kWarps * 32)
    recurrence_kernel(const __grid_constant__ RecurrenceParams p, unsigned v_blocks) {
  const auto heads = static_cast<unsigned>(p.v_heads);
  const unsigned task = blockIdx.x;  // 32 bits: a division of 64 is a subroutine
  const int first_v = static_cast<int>(task % v_blocks) * kBlockRows;
  const int head = static_cast<int>(task / v_blocks % heads);
  const int index = static_cast<int>(task / v_blocks / heads);
  const Row row = load_row(p.rows, index);
  const bool begun = Checkpoints && p.begin.data != nullptr;
  if (row.length == 0 && !begun) return;
  if (row.slot == kPadIndex) {
    if (!begun) zero_out(p, row, head, first_v);
    return;
  }
  const int lane = threadIdx.x % 32;
  const int my_v = first_v + static_cast<int>(threadIdx.x) / 32 * kWarpRows;
  const int rows = min(kWarpRows, p.v_dim - my_v);
  float s[kWarpRows][Parts];
  const auto for_state = [&](const auto& visit) {
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
#pragma unroll
      for (int e = 0; e < Parts; ++e) {
        if (r < rows && e * 32 + lane < p.k_dim) visit(r, e, my_v + r, e * 32 + lane);
      }
    }
  };
#pragma unroll
  for (int r = 0; r < kWarpRows; ++r) {
#pragma unroll
    for (int e = 0; e < Parts; ++e) s[r][e] = 0.0f;
  }
  if (begun) {
    for_state([&](int r, int e, int v, int k) {
      s[r][e] = load(p.begin, p.begin.at(index, head, v, k));
    });
  }
  const auto store_state = [&](std::int64_t slot) {
    for_state(
        [&](int r, int e, int v, int k) { store(p.state, p.state.at(slot, head, v, k), s[r][e]); });
  };
  CheckpointsLeft left;
  if constexpr (Checkpoints) left = CheckpointsLeft(p.checkpoints, index);
  for (int i = 0; i < row.length; ++i) {
    const std::int64_t token = row.start + i;
    const Origin from = origin_of(p, row, index, i);
    if (!from.in_registers && !begun) {
      for_state([&](int r, int e, int v, int k) {
        s[r][e] = from.zero ? 0.0f : load(from.view, from.view.at(from.slot, head, v, k));
      });
    }
    float q[Parts], k[Parts], decay[Parts];
    load_head(p.q, token, head / p.group, p.k_dim, lane, q);
    load_head(p.k, token, head / p.group, p.k_dim, lane, k);
    float q_factor = p.scale, k_factor = 1.0f;
    if (p.qk_l2norm) {
      q_factor = p.scale * inverse_root(sum_squares(q) + kL2NormEpsilon);
      k_factor = inverse_root(sum_squares(k) + kL2NormEpsilon);
    }
#pragma unroll
    for (int e = 0; e < Parts; ++e) {
      q[e] *= q_factor;
      k[e] *= k_factor;
      const int channel = p.channel_decay ? min(e * 32 + lane, p.k_dim - 1) : 0;
      decay[e] = decay_factor(p.log_decay.as<const float>()[p.log_decay.at(token, head, channel)]);
    }
    const float beta = p.beta.as<const float>()[p.beta.at(token, head)];
#pragma unroll
    for (int r = 0; r < kWarpRows; ++r) {
      if (r >= rows) break;
      float recalled = 0.0f;
#pragma unroll
      for (int e = 0; e < Parts; ++e) {
        s[r][e] *= decay[e];
        recalled = fmaf(s[r][e], k[e], recalled);
      }
      const float v = load(p.v, p.v.at(token, head, my_v + r));
      const float u = beta * (v - sum_lanes(recalled));
      float o = 0.0f;
#pragma unroll
      for (int e = 0; e < Parts; ++e) {
        s[r][e] = fmaf(u, k[e], s[r][e]);
        o = fmaf(s[r][e], q[e], o);
      }
      o = sum_lanes(o);
      if (lane == 0 && !begun) store(p.out, p.out.at(token, head, my_v + r), o);
    }
    if (Checkpoints && left.next < left.end && p.checkpoints.tokens[left.next] == i + 1) {
      const std::int32_t slot = p.checkpoints.slot[left.next++];
      if (slot != kPadIndex) store_state(slot);
    }
    if (p.kept_row != nullptr) {
      const std::int64_t slot = p.kept_row[index] + i;
      for_state([&](int r, int e, int v, int k_at) {
        store(p.kept, p.kept.at(slot, head, v, k_at), s[r][e]);
      });
      // A bf16 state at rest is what the next token starts from.
      if (p.kept.dtype != DType::kF32) {
        for_state([&](int r, int e, int, int) {
          s[r][e] = to_float(from_float<__nv_bfloat16>(s[r][e]));
        });
      }
    }
  }
  if (p.kept_row == nullptr) store_state(row.slot);
}

template <int Parts, bool Checkpoints>
Status launch_rows(const char* op, const RecurrenceParams& p, cudaStream_t stream) {
  const int v_blocks = (p.v_dim + kBlockRows - 1) / kBlockRows;
  return for_row_slices(p.rows, std::int64_t{p.v_heads} * v_blocks,
                        [&](const DeviceRowTables& rows, std::int64_t first, unsigned blocks) {
                          RecurrenceParams part = p;
                          part.rows = rows;
                          if (part.kept_row != nullptr) part.kept_row += first;
                          if (part.checkpoints.first != nullptr) part.checkpoints.first += first;
                          if (part.begin.data != nullptr) {
                            part.begin.data +=
                                first * p.begin.stride[0] * std::int64_t{sizeof(float)};
                          }
                          recurrence_kernel<Parts, Checkpoints><<<blocks, kWarps * 32, 0, stream>>>(
                              part, static_cast<unsigned>(v_blocks));
                          return check_launch(op);
                        });
}

template <int Parts>
Status launch_kernel(const char* op, const RecurrenceParams& p, cudaStream_t stream) {
  const bool checkpoints = p.checkpoints.first != nullptr || p.begin.data != nullptr;
  return checkpoints ? launch_rows<Parts, true>(op, p, stream)
                     : launch_rows<Parts, false>(op, p, stream);
}

}  // namespace

RecurrenceParams recurrence_params(const ops::GdnParams& p) {
  RecurrenceParams out{};
  out.rows = *p.rows.device;
  out.q = View(p.q);
  out.k = View(p.k);
  out.v = View(p.v);
  out.out = View(p.out);
  out.log_decay = View(p.log_decay);
  out.beta = View(p.beta);
  out.state = View(p.state);
  out.v_heads = static_cast<int>(p.v.dim(1));
  out.group = static_cast<int>(p.group);
  out.k_dim = static_cast<int>(p.k.dim(2));
  out.v_dim = static_cast<int>(p.v.dim(2));
  out.scale = p.scale;
  out.qk_l2norm = p.qk_l2norm;
  out.channel_decay = p.channel_decay();
  return out;
}

RecurrenceParams recurrence_params(const ops::GdnVerifyParams& p) {
  RecurrenceParams out = recurrence_params(p.gdn);
  out.kept = View(p.kept);
  out.kept_row = p.verify.device_kept;
  out.parents = p.verify.device_parents;
  return out;
}

RecurrenceParams recurrence_params(const ops::GdnPrefillParams& p) {
  RecurrenceParams out = recurrence_params(static_cast<const ops::GdnParams&>(p));
  out.checkpoints = p.checkpoints;
  return out;
}

Status finish_checkpoints(const ops::GdnPrefillParams& p, const View& boundary,
                          const core::DeviceLaunch& launch) {
  RecurrenceParams tails = recurrence_params(static_cast<const ops::GdnParams&>(p));
  tails.rows = DeviceRowTables{};
  tails.rows.start = p.checkpoints.start;
  tails.rows.length = p.checkpoints.length;
  tails.rows.slot = p.checkpoints.slot;
  tails.rows.computed = p.checkpoints.computed;
  tails.rows.count = p.checkpoints.host.count;
  tails.begin = boundary;
  return run_recurrence("gdn_prefill", tails, launch);
}

Status run_recurrence(const char* op, const RecurrenceParams& p, const core::DeviceLaunch& launch) {
  const cudaStream_t stream = stream_of(launch);
  if (p.k_dim <= 64) return launch_kernel<2>(op, p, stream);
  if (p.k_dim <= 128) return launch_kernel<4>(op, p, stream);
  return launch_kernel<8>(op, p, stream);
}

}  // namespace hybridattn::cuda
