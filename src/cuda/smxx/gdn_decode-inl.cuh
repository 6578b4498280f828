// The kernel behind gdn_decode.cuh. Included by the files that instantiate it.
#pragma once

#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/smxx/gdn_decode_conv.cuh"
#include "src/cuda/smxx/gdn_decode_token.cuh"
#include "src/cuda/smxx/warp_state.cuh"

namespace hybridattn::cuda {

constexpr unsigned kFewBlocks = 264;  // two on each multiprocessor of a large card: all have places

/// Lets the second-level cache have the state while the kernels in front still run, where all
/// blocks have their places at once. Should one of those write it, the cache has what it wrote.
template <class T, int K, int V>
__device__ void fetch_state(const DecodeParams& p, const Row& row, int head) {
  constexpr int kLine = 128 / static_cast<int>(sizeof(T));  // elements
  if (gridDim.x > kFewBlocks || row.length == 0 || row.slot == kPadIndex) return;
  const T* const state = p.state.as<T>() + p.state.at(row.slot, head);
  for (int i = static_cast<int>(threadIdx.x) * kLine; i < V * K; i += blockDim.x * kLine) {
    const T* const line = state + i / K * p.state.stride[2] + i % K;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
  }
}

/// A block: one head of one row of the batch. A warp computes a part of its rows while the next
/// kAhead are on their way. A head over several blocks, a cluster for the norm, was slower at every
/// size: the wait for the others costs more than the state takes to load.
template <class X, class T, int K, int V, int Rows, int kParts, int kAhead, int Warps>
__global__ void __launch_bounds__(Warps * 32)
    decode_kernel(const __grid_constant__ DecodeParams p) {
  using State = WarpState<T, K, Rows>;
  constexpr int kThreads = Warps * 32;
  constexpr int kWarpRows = Rows * kParts;
  constexpr int kQkPairs = (K + kThreads - 1) / kThreads;  // of a thread
  constexpr int kVPairs = (V / 2 + kThreads - 1) / kThreads;
  constexpr int kVParts = (V + kThreads - 1) / kThreads;
  static_assert(K % 2 == 0 && V % 2 == 0 && kWarpRows * Warps == V);
  __shared__ alignas(16) float qk[2 * K];
  __shared__ float decays[K];
  __shared__ alignas(8) float v[V];
  __shared__ float o[V];
  __shared__ float beta;
  __shared__ bool last_reader;

  const auto heads = static_cast<unsigned>(p.v_heads);
  const unsigned task = blockIdx.x;  // 32 bits: a division of 64 is a subroutine
  const int head = static_cast<int>(task % heads);
  const auto index = static_cast<int>(task / heads);
  const int tid = static_cast<int>(threadIdx.x);
  const int lane = tid % 32;
  const Row row = load_row(p.rows, index);  // uploaded before the first kernel of a step began
  let_next_begin();
  fetch_state<T, K, V>(p, row, head);
  wait_for_writers();
  if (row.length == 0) return;
  X* out = p.out.as<X>() + p.out.at(row.start, head);
  if (row.slot == kPadIndex) {
    for (int i = tid; i < V; i += kThreads) out[i] = from_float<X>(0.0f);
    return;
  }
  // All loads first, the small ones in front of the state: what is made of them is ready when the
  // state comes.
  const int group = p.v_heads / p.k_heads;
  const int k_head = head / group;
  const auto qk_channel = [&](int i) {
    return i < K ? k_head * K + i : (p.k_heads - 1 + k_head) * K + i;
  };
  const int v_channel = 2 * p.k_heads * K + head * V;
  const auto v_pair = [&](int part) {  // threads that have the fewest of q and k begin
    return part * kThreads + (tid + kThreads / 2) % kThreads;
  };
  ConvPair<X> qk_conv[kQkPairs], v_conv[kVPairs];
#pragma unroll
  for (int part = 0; part < kQkPairs; ++part) {
    const int i = part * kThreads + tid;
    if (i < K) qk_conv[part].load(p, row, qk_channel(2 * i));
  }
#pragma unroll
  for (int part = 0; part < kVPairs; ++part) {
    const int i = v_pair(part);
    if (i < V / 2) v_conv[part].load(p, row, v_channel + 2 * i);
  }
  float z[kVParts], norm_weight[kVParts];
#pragma unroll
  for (int part = 0; part < kVParts; ++part) {
    const int i = part * kThreads + tid;
    z[part] = norm_weight[part] = 0.0f;
    if (i < V && p.z.data != nullptr) {
      z[part] = to_float(p.z.as<const X>()[p.z.at(row.start, head, i)]);
      norm_weight[part] = load(p.norm_weight, p.norm_weight.at(i));
    }
  }
  T* state = p.state.as<T>() + p.state.at(row.slot, head, tid / 32 * kWarpRows);
  const std::int64_t part_step = Rows * p.state.stride[2];
  typename State::Raw raw[kAhead]{};
  if (row.computed > 0) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      State::fetch(state + i * part_step, p.state.stride[2], lane, raw[i]);
    }
  }
  if (p.channel_decay) {
    for (int i = tid; i < K; i += kThreads) decays[i] = decay_of<X>(p, row.start, head, i);
  } else if (tid == kThreads - 1) {
    decays[0] = decay_of<X>(p, row.start, head, 0);
  }
  // By another warp: one after the other their loads would wait for each other.
  if (tid == kThreads - 33) beta = beta_of<X>(p, row.start, head);
#pragma unroll
  for (int part = 0; part < kQkPairs; ++part) {
    const int i = part * kThreads + tid;
    if (i < K) qk_conv[part].results(qk + 2 * i);
  }
#pragma unroll
  for (int part = 0; part < kVPairs; ++part) {
    const int i = v_pair(part);
    if (i >= V / 2) continue;
    v_conv[part].results(v + 2 * i);
    v_conv[part].store_windows(p, row, v_channel + 2 * i);  // nobody else reads them
  }
  __syncthreads();
  // The windows of q and k are read by all blocks of the key head; the last one moves them on.
  // Counted by a thread that has stored nothing, or the fence would wait for it; looked at when the
  // step is done.
  std::uint32_t* const counter = p.counters + std::int64_t{index} * p.k_heads + k_head;
  unsigned readers = 0;
  if (tid == 0) {
    __threadfence();
    readers = atomicAdd(counter, 1u);
  }

  float q[State::kVector], k[State::kVector], decay[State::kVector];
  load_head<State, K>(p, qk, decays, lane, q, k, decay);
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    State s;
    s.unpack(raw[i % kAhead]);
    if (row.computed > 0 && i + kAhead < kParts) {
      State::fetch(state + (i + kAhead) * part_step, p.state.stride[2], lane, raw[i % kAhead]);
    }
    const int first = tid / 32 * kWarpRows + i * Rows;
    s.step(q, k, decay, beta, v + first, o + first, lane);
    s.store(state + i * part_step, p.state.stride[2], lane);
  }
  if (tid == 0) {
    last_reader = readers == static_cast<unsigned>(group - 1);
    if (last_reader) *counter = 0;
  }
  __syncthreads();
  if (last_reader) {
#pragma unroll
    for (int part = 0; part < kQkPairs; ++part) {
      const int i = part * kThreads + tid;
      if (i < K) qk_conv[part].store_windows(p, row, qk_channel(2 * i));
    }
  }
  if (p.z.data == nullptr) {
    for (int i = tid; i < V; i += kThreads) out[i] = from_float<X>(o[i]);
    return;
  }
  const float factor = norm_factor<V>(p, o, lane);
#pragma unroll
  for (int part = 0; part < kVParts; ++part) {
    const int i = part * kThreads + tid;
    if (i >= V) continue;
    out[i] = from_float<X>(normed(p, o[i], factor, norm_weight[part], z[part]));
  }
}

template <class X, class T, int K, int V, int Rows, int kParts, int kAhead, int Warps>
Status launch_decode(const DecodeParams& p, const core::DeviceLaunch& launch) {
  return for_row_slices(
      p.rows, p.v_heads, [&](const DeviceRowTables& rows, std::int64_t, unsigned blocks) {
        DecodeParams part = p;
        part.rows = rows;
        EarlyLaunch shape{blocks, Warps * 32};
        shape.most_shared = blocks <= kFewBlocks;
        return launch_early("gdn_decode", launch,
                            decode_kernel<X, T, K, V, Rows, kParts, kAhead, Warps>, shape, part);
      });
}

template <class X, class T, int K, int V>
Status run_decode(const DecodeParams& p, const core::DeviceLaunch& launch) {
  [[maybe_unused]] const std::int64_t heads = std::int64_t{p.rows.count} * p.v_heads;
  // A 16-bit state is twice the work a byte: where many blocks follow one another, small parts
  // leave registers for more of them.
  if constexpr (sizeof(T) == 2) {
    if (heads >= 16 * launch.info->num_sms) {
      return launch_decode<X, T, K, V, 4, V / 16, 2, 4>(p, launch);
    }
  }
  // Eight warps to a head. With sixteen or more, what each does for all rows (the norms of q and k,
  // the wait for the others) takes longer than the state, with four too few loads are on their way.
  return launch_decode<X, T, K, V, V / 8, 1, 1, 8>(p, launch);
}

}  // namespace hybridattn::cuda
