// The kernel behind gdn_decode_verify.cuh. Included by the files that instantiate it.
#pragma once

#include "src/cuda/conv.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/smxx/gdn_decode_conv.cuh"
#include "src/cuda/smxx/gdn_decode_token.cuh"
#include "src/cuda/smxx/gdn_decode_verify.cuh"
#include "src/cuda/smxx/warp_state.cuh"

namespace hybridattn::cuda {

/// One channel of the convolution over the tokens of a row, each with the inputs of those that it
/// follows.
template <class X>
class DraftChannel {
 public:
  __device__ DraftChannel(const DecodeVerifyParams& p, const Row& row, int channel)
      : p_(p), row_(row), channel_(channel) {
    const X* weight = p.decode.conv_weight.as<const X>() + p.decode.conv_weight.at(channel);
#pragma unroll
    for (int w = 0; w < kMaxConvWidth; ++w) {
      const int tap = w - shift();
      taps_[w] = tap < 0 ? 0.0f : to_float(weight[tap * p.decode.conv_weight.stride[1]]);
    }
  }

  /// Loads the inputs of token i: its own, then its parent's and so on, then the window's.
  __device__ void load(int i) {
    const DecodeParams& d = p_.decode;
    std::int64_t at = i;  // below 0: a column of the window, counted from its end
#pragma unroll
    for (int w = kMaxConvWidth - 1; w >= 0; --w) {
      inputs_[w] = from_float<X>(0.0f);
      if (w < shift()) continue;
      if (at >= 0) {
        inputs_[w] = d.mixed.as<const X>()[d.mixed.at(row_.start + at, channel_)];
        at = parent_of(p_.parents, row_.start, at);
        continue;
      }
      if (row_.computed > 0) {
        inputs_[w] =
            d.conv_state.as<const X>()[d.conv_state.at(row_.slot, channel_, d.width - 1 + at)];
      }
      --at;
    }
  }
  __device__ float result() const {
    float inputs[kMaxConvWidth];
#pragma unroll
    for (int w = 0; w < kMaxConvWidth; ++w) inputs[w] = to_float(inputs_[w]);
    return convolve(inputs, taps_);
  }
  /// The window behind the token.
  __device__ void keep(std::int64_t slot) const {
    X* window = p_.kept_conv.as<X>() + p_.kept_conv.at(slot, channel_);
#pragma unroll
    for (int w = 1; w < kMaxConvWidth; ++w) {
      if (w > shift()) window[(w - 1 - shift()) * p_.kept_conv.stride[2]] = inputs_[w];
    }
  }

 private:
  /// Filters of fewer taps have zeros in front.
  __device__ int shift() const { return kMaxConvWidth - p_.decode.width; }

  const DecodeVerifyParams& p_;
  const Row& row_;
  int channel_;
  X inputs_[kMaxConvWidth];  // the newest last
  float taps_[kMaxConvWidth];
};

/// A block: one head of one row of the batch, whose state stays in registers from token to token. A
/// thread has one channel of the convolution.
template <class X, class T, int K, int V, int Rows>
__global__ void __launch_bounds__(V / Rows * 32)
    decode_verify_kernel(const __grid_constant__ DecodeVerifyParams params) {
  using State = WarpState<T, K, Rows>;
  constexpr int kThreads = V / Rows * 32;
  static_assert(2 * K + V <= kThreads && V % 32 == 0);
  __shared__ alignas(16) float qk[2 * K];
  __shared__ float decays[K];
  __shared__ float v[V], o[V];
  __shared__ float beta;

  const DecodeParams& p = params.decode;
  const auto heads = static_cast<unsigned>(p.v_heads);
  const int head = static_cast<int>(blockIdx.x % heads);
  const auto index = static_cast<int>(blockIdx.x / heads);
  const int tid = static_cast<int>(threadIdx.x);
  const int lane = tid % 32;
  const int first_v = tid / 32 * Rows;
  const Row row = load_row(p.rows, index);  // uploaded before the first kernel of a step began
  let_next_begin();
  wait_for_writers();
  if (row.length == 0) return;
  if (row.slot == kPadIndex) {
    for (int at = tid; at < row.length * V; at += kThreads) {
      p.out.as<X>()[p.out.at(row.start + at / V, head, at % V)] = from_float<X>(0.0f);
    }
    return;
  }
  const int group = p.v_heads / p.k_heads;
  const int k_head = head / group;
  const bool of_qk = tid < 2 * K, of_channel = tid < 2 * K + V;
  const int channel = tid < K      ? k_head * K + tid
                      : of_qk      ? (p.k_heads + k_head) * K + tid - K
                      : of_channel ? 2 * p.k_heads * K + head * V + tid - 2 * K
                                   : 0;
  DraftChannel<X> conv(params, row, channel);
  const bool keeps = of_channel && (!of_qk || head % group == 0);  // of a group's heads one
  const std::int64_t kept_first = params.kept_row[index];
  State s;
  for (int i = 0; i < row.length; ++i) {
    const std::int64_t token = row.start + i;
    const std::int64_t parent = parent_of(params.parents, row.start, i);
    if (i == 0 || parent != i - 1) {
      typename State::Raw raw{};
      if (parent >= 0) {  // this thread wrote what it reads
        State::fetch(params.kept.as<const T>() + params.kept.at(kept_first + parent, head, first_v),
                     params.kept.stride[2], lane, raw);
      } else if (row.computed > 0) {
        State::fetch(p.state.as<const T>() + p.state.at(row.slot, head, first_v), p.state.stride[2],
                     lane, raw);
      }
      s.unpack(raw);
    }
    float z = 0.0f, norm_weight = 0.0f;
    if (tid < V && p.z.data != nullptr) {
      z = to_float(p.z.as<const X>()[p.z.at(token, head, tid)]);
      norm_weight = load(p.norm_weight, p.norm_weight.at(tid));
    }
    if (of_channel) {
      conv.load(i);
      (of_qk ? qk[tid] : v[tid - 2 * K]) = conv.result();
      if (keeps) conv.keep(kept_first + i);
    }
    if (p.channel_decay) {
      for (int c = tid; c < K; c += kThreads) decays[c] = decay_of<X>(p, token, head, c);
    } else if (tid == kThreads - 1) {
      decays[0] = decay_of<X>(p, token, head, 0);
    }
    if (tid == kThreads - 33) beta = beta_of<X>(p, token, head);
    __syncthreads();
    float q[State::kVector], k[State::kVector], decay[State::kVector];
    load_head<State, K>(p, qk, decays, lane, q, k, decay);
    s.step(q, k, decay, beta, v + first_v, o + first_v, lane);
    s.store(params.kept.as<T>() + params.kept.at(kept_first + i, head, first_v),
            params.kept.stride[2], lane);
    s.round();  // as at rest: what the next token starts from
    __syncthreads();
    X* out = p.out.as<X>() + p.out.at(token, head);
    if (p.z.data == nullptr) {
      if (tid < V) out[tid] = from_float<X>(o[tid]);
      continue;
    }
    const float factor = norm_factor<V>(p, o, lane);
    if (tid < V) out[tid] = from_float<X>(normed(p, o[tid], factor, norm_weight, z));
  }
}

template <class X, class T, int K, int V>
Status run_decode_verify(const DecodeVerifyParams& p, const core::DeviceLaunch& launch) {
  constexpr int kRows = 8;
  return for_row_slices(p.decode.rows, p.decode.v_heads,
                        [&](const DeviceRowTables& rows, std::int64_t first, unsigned blocks) {
                          DecodeVerifyParams part = p;
                          part.decode.rows = rows;
                          part.kept_row += first;
                          return launch_early("gdn_decode_verify", launch,
                                              decode_verify_kernel<X, T, K, V, kRows>, blocks,
                                              V / kRows * 32, 0, part);
                        });
}

}  // namespace hybridattn::cuda
