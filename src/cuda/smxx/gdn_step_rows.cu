#include "src/cuda/smxx/gdn_step_rows.cuh"

#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/smxx/warp_state.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kDim = 128;

/// A lane's channels of a head of q or k.
template <int N>
__device__ void load_lane(const View& x, std::int64_t token, int head, int first, float (&out)[N]) {
  const std::int64_t at = x.at(token, head, first);
#pragma unroll
  for (int e = 0; e < N; ++e) out[e] = load(x, at + e);
}

/// A lane's channels of q and k, normalised and scaled, and of the decays.
template <class State>
__device__ void load_step(const RecurrenceParams& p, std::int64_t token, int head, int lane,
                          float (&q)[State::kVector], float (&k)[State::kVector],
                          float (&decay)[State::kVector]) {
  const int first = State::channel(lane);
  load_lane(p.q, token, head / p.group, first, q);
  load_lane(p.k, token, head / p.group, first, k);
#pragma unroll
  for (int e = 0; e < State::kVector; ++e) {
    decay[e] = e > 0 && !p.channel_decay
                   ? decay[0]
                   : decay_factor(p.log_decay.as<const float>()[p.log_decay.at(
                         token, head, p.channel_decay ? first + e : 0)]);
  }
  State::scale_heads(q, k, p.scale, p.qk_l2norm);
}

/// A warp: kParts times Rows rows of one head of one row of the batch. While a part is computed the
/// next kAhead are on their way. Warps need nothing of each other.
template <class T, int Rows, int kParts, int kAhead, int Warps>
__global__ void __launch_bounds__(Warps * 32)
    step_rows_kernel(const __grid_constant__ RecurrenceParams p) {
  using State = WarpState<T, kDim, Rows>;
  constexpr int kRows = Rows * kParts;
  constexpr int kSplits = kDim / (kRows * Warps);
  __shared__ float v[Warps][kRows], o[Warps][kRows];
  const auto heads = static_cast<unsigned>(p.v_heads);
  const unsigned task = blockIdx.x;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first_v = (static_cast<int>(task % kSplits) * Warps + warp) * kRows;
  const int head = static_cast<int>(task / kSplits % heads);
  // Uploaded before the first kernel of a step began: read before the wait.
  const Row row = load_row(p.rows, static_cast<int>(task / kSplits / heads));
  let_next_begin();
  wait_for_writers();
  if (row.length == 0) return;
  const std::int64_t out = p.out.at(row.start, head, first_v);
  if (row.slot == kPadIndex) {
    if (lane < kRows) store(p.out, out + lane, 0.0f);
    return;
  }
  T* state = p.state.as<T>() + p.state.at(row.slot, head, first_v);
  const std::int64_t part_step = Rows * p.state.stride[2];
  typename State::Raw raw[kAhead]{};
  if (row.computed > 0) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      State::fetch(state + i * part_step, p.state.stride[2], lane, raw[i]);
    }
  }

  if (lane < kRows) v[warp][lane] = load(p.v, p.v.at(row.start, head, first_v + lane));
  float q[State::kVector], k[State::kVector], decay[State::kVector];
  load_step<State>(p, row.start, head, lane, q, k, decay);
  const float beta = p.beta.as<const float>()[p.beta.at(row.start, head)];
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    State s;
    s.unpack(raw[i % kAhead]);
    if (row.computed > 0 && i + kAhead < kParts) {
      State::fetch(state + (i + kAhead) * part_step, p.state.stride[2], lane, raw[i % kAhead]);
    }
    s.step(q, k, decay, beta, v[warp] + i * Rows, o[warp] + i * Rows, lane);
    s.store(state + i * part_step, p.state.stride[2], lane);
  }
  __syncwarp();
  if (lane < kRows) store(p.out, out + lane, o[warp][lane]);
}

/// A warp: Rows rows of one head of one row of the batch, from token to token; every state is kept.
/// The arithmetic of step_rows_kernel.
template <class T, int Rows, int Warps>
__global__ void __launch_bounds__(Warps * 32)
    verify_rows_kernel(const __grid_constant__ RecurrenceParams p) {
  using State = WarpState<T, kDim, Rows>;
  constexpr int kSplits = kDim / (Rows * Warps);
  __shared__ float v[Warps][Rows], o[Warps][Rows];
  let_next_begin();
  wait_for_writers();
  const auto heads = static_cast<unsigned>(p.v_heads);
  const unsigned task = blockIdx.x;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first_v = (static_cast<int>(task % kSplits) * Warps + warp) * Rows;
  const int head = static_cast<int>(task / kSplits % heads);
  const auto index = static_cast<int>(task / kSplits / heads);
  const Row row = load_row(p.rows, index);
  const std::int64_t kept = p.kept_row[index];
  const auto kept_rows = [&](std::int64_t i) {
    return p.kept.as<T>() + p.kept.at(kept + i, head, first_v);
  };
  State s;
  for (int i = 0; i < row.length; ++i) {
    const std::int64_t token = row.start + i;
    const std::int64_t out = p.out.at(token, head, first_v);
    if (row.slot == kPadIndex) {
      if (lane < Rows) store(p.out, out + lane, 0.0f);
      continue;
    }
    const std::int64_t parent = parent_of(p.parents, row.start, i);
    if (i == 0 || parent != i - 1) {
      typename State::Raw raw{};
      if (parent >= 0) {  // this thread wrote what it reads
        State::fetch(kept_rows(parent), p.kept.stride[2], lane, raw);
      } else if (row.computed > 0) {
        State::fetch(p.state.as<const T>() + p.state.at(row.slot, head, first_v), p.state.stride[2],
                     lane, raw);
      }
      s.unpack(raw);
    }
    __syncwarp();
    if (lane < Rows) v[warp][lane] = load(p.v, p.v.at(token, head, first_v + lane));
    float q[State::kVector], k[State::kVector], decay[State::kVector];
    load_step<State>(p, token, head, lane, q, k, decay);
    const float beta = p.beta.as<const float>()[p.beta.at(token, head)];
    __syncwarp();
    s.step(q, k, decay, beta, v[warp], o[warp], lane);
    s.store(kept_rows(i), p.kept.stride[2], lane);
    s.round();  // as at rest: what the next token starts from
    __syncwarp();
    if (lane < Rows) store(p.out, out + lane, o[warp][lane]);
  }
}

template <class T, int Rows, int kParts, int kAhead, int Warps>
Status launch_rows(const RecurrenceParams& p, const core::DeviceLaunch& launch) {
  constexpr int kSplits = kDim / (Rows * kParts * Warps);
  return for_row_slices(p.rows, std::int64_t{p.v_heads} * kSplits,
                        [&](const DeviceRowTables& rows, std::int64_t, unsigned blocks) {
                          RecurrenceParams part = p;
                          part.rows = rows;
                          return launch_early("gdn_step", launch,
                                              step_rows_kernel<T, Rows, kParts, kAhead, Warps>,
                                              blocks, Warps * 32, 0, part);
                        });
}

template <class T>
Status run_typed(const RecurrenceParams& p, const core::DeviceLaunch& launch) {
  const std::int64_t heads = std::int64_t{p.rows.count} * p.v_heads;
  // Few heads: less work a warp, so that the card has enough loads in flight.
  if (heads < 4 * launch.info->num_sms) return launch_rows<T, 4, 1, 1, 4>(p, launch);
  // A 16-bit state is twice the work a byte: a block takes a whole head, whose q and k it reads
  // once, in parts small enough that their registers leave room for many blocks.
  if constexpr (sizeof(T) == 2) return launch_rows<T, 4, 8, 2, 4>(p, launch);
  return launch_rows<T, 8, 2, 1, 4>(p, launch);
}

}  // namespace

const char* step_rows_refusal(const ops::GdnParams& p) {
  if (p.k.dim(2) != kDim || p.v.dim(2) != kDim) return "the fast kernel has K = V = 128 only";
  return rows_aligned(p.state) ? nullptr
                               : "the fast kernel needs rows of the state aligned to 16 bytes";
}

Status run_verify_rows(const RecurrenceParams& p, const core::DeviceLaunch& launch) {
  constexpr int kRows = 4, kWarps = 4;
  return for_row_slices(
      p.rows, std::int64_t{p.v_heads} * kDim / (kRows * kWarps),
      [&](const DeviceRowTables& rows, std::int64_t first, unsigned blocks) {
        RecurrenceParams part = p;
        part.rows = rows;
        part.kept_row += first;
        const auto kernel = p.state.dtype == DType::kF32
                                ? verify_rows_kernel<float, kRows, kWarps>
                                : verify_rows_kernel<__nv_bfloat16, kRows, kWarps>;
        return launch_early("gdn_verify", launch, kernel, blocks, kWarps * 32, 0, part);
      });
}

Status run_step_rows(const RecurrenceParams& p, const core::DeviceLaunch& launch) {
  return p.state.dtype == DType::kF32 ? run_typed<float>(p, launch)
                                      : run_typed<__nv_bfloat16>(p, launch);
}

}  // namespace hybridattn::cuda
