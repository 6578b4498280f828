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

/// A warp: `Rows` rows of one head of one row of the batch. Warps need nothing of each other.
template <class T, int Rows, int Warps>
__global__ void __launch_bounds__(Warps * 32)
    step_rows_kernel(const __grid_constant__ RecurrenceParams p) {
  using State = WarpState<T, kDim, Rows>;
  constexpr int kSplits = kDim / (Rows * Warps);
  __shared__ float v[Warps][Rows], o[Warps][Rows];
  const auto heads = static_cast<unsigned>(p.v_heads);
  const unsigned task = blockIdx.x;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first_v = (static_cast<int>(task % kSplits) * Warps + warp) * Rows;
  const int head = static_cast<int>(task / kSplits % heads);
  const Row row = load_row(p.rows, static_cast<int>(task / kSplits / heads));
  if (row.length == 0) return;
  const std::int64_t out = p.out.at(row.start, head, first_v);
  if (row.slot == kPadIndex) {
    if (lane < Rows) store(p.out, out + lane, 0.0f);
    return;
  }
  T* state = p.state.as<T>() + p.state.at(row.slot, head, first_v);
  typename State::Raw raw{};
  if (row.computed > 0) State::fetch(state, p.state.stride[2], lane, raw);

  if (lane < Rows) v[warp][lane] = load(p.v, p.v.at(row.start, head, first_v + lane));
  float q[State::kVector], k[State::kVector], decay[State::kVector];
  const int first = State::channel(lane);
  load_lane(p.q, row.start, head / p.group, first, q);
  load_lane(p.k, row.start, head / p.group, first, k);
#pragma unroll
  for (int e = 0; e < State::kVector; ++e) {
    const int channel = p.channel_decay ? first + e : 0;
    decay[e] =
        decay_factor(p.log_decay.as<const float>()[p.log_decay.at(row.start, head, channel)]);
  }
  State::scale_heads(q, k, p.scale, p.qk_l2norm);
  const float beta = p.beta.as<const float>()[p.beta.at(row.start, head)];
  __syncwarp();
  State s;
  s.unpack(raw);
  s.step(q, k, decay, beta, v[warp], o[warp], lane);
  s.store(state, p.state.stride[2], lane);
  __syncwarp();
  if (lane < Rows) store(p.out, out + lane, o[warp][lane]);
}

template <class T, int Rows, int Warps>
Status launch_rows(const RecurrenceParams& p, cudaStream_t stream) {
  constexpr int kSplits = kDim / (Rows * Warps);
  return for_row_slices(p.rows, std::int64_t{p.v_heads} * kSplits,
                        [&](const DeviceRowTables& rows, std::int64_t, unsigned blocks) {
                          RecurrenceParams part = p;
                          part.rows = rows;
                          step_rows_kernel<T, Rows, Warps><<<blocks, Warps * 32, 0, stream>>>(part);
                          return check_launch("gdn_step");
                        });
}

template <class T>
Status run_typed(const RecurrenceParams& p, const core::DeviceLaunch& launch) {
  const std::int64_t heads = std::int64_t{p.rows.count} * p.v_heads;
  // Few heads: less work a warp, so that the card has enough loads in flight.
  if (heads < 4 * launch.info->num_sms) return launch_rows<T, 4, 4>(p, stream_of(launch));
  // Bytes in flight, not elements, fill the memory's pipe: a warp holds 4 KB.
  return launch_rows<T, 32 / static_cast<int>(sizeof(T)), 4>(p, stream_of(launch));
}

}  // namespace

const char* step_rows_refusal(const ops::GdnParams& p) {
  if (p.k.dim(2) != kDim || p.v.dim(2) != kDim) return "the fast kernel has K = V = 128 only";
  return rows_aligned(p.state) ? nullptr
                               : "the fast kernel needs rows of the state aligned to 16 bytes";
}

Status run_step_rows(const RecurrenceParams& p, const core::DeviceLaunch& launch) {
  return p.state.dtype == DType::kF32 ? run_typed<float>(p, launch)
                                      : run_typed<__nv_bfloat16>(p, launch);
}

}  // namespace hybridattn::cuda
