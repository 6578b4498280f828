// The routed experts: routing, two grouped products, the weighted sum.
#include "engine/ops/experts.h"

#include <algorithm>
#include <cstdint>

#include "engine/ops/cuda/launch.cuh"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

using cuda::begin_kernel;

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kRouteWarps = 4;
constexpr int kGroupThreads = 1024;

struct RouteParams {
  const float* logits;
  std::int64_t stride, tokens;
  int num_experts, top_k;
  bool normalize;
  DeviceRouting routing;
};

__device__ inline float sum_lanes(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

/// Whether logit `a` of expert `i` comes before `b` of `j`: ties go to the lower index.
__device__ inline bool comes_before(float a, int i, float b, int j) {
  return a > b || (a == b && i < j);
}

/// A warp for each token: its next best expert, again and again.
__global__ void __launch_bounds__(kRouteWarps * 32)
    route_kernel(const __grid_constant__ RouteParams p) {
  begin_kernel();
  const int lane = threadIdx.x % 32;
  const std::int64_t token = std::int64_t{blockIdx.x} * kRouteWarps + threadIdx.x / 32;
  if (token >= p.tokens) return;
  const float* logits = p.logits + token * p.stride;
  float top = 0.0f, total = 0.0f, chosen = 0.0f, last = 0.0f;
  int last_expert = -1;
  for (int j = 0; j < p.top_k; ++j) {
    float best = 0.0f;
    int expert = p.num_experts;  // none
    for (int e = lane; e < p.num_experts; e += 32) {
      const bool is_left = last_expert < 0 || comes_before(last, last_expert, logits[e], e);
      if (is_left && (expert == p.num_experts || comes_before(logits[e], e, best, expert))) {
        best = logits[e];
        expert = e;
      }
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, best, offset);
      const int other_expert = __shfl_xor_sync(kAllLanes, expert, offset);
      const bool takes = other_expert < p.num_experts &&
                         (expert == p.num_experts || comes_before(other, other_expert, best, expert));
      if (takes) {
        best = other;
        expert = other_expert;
      }
    }
    if (j == 0) {
      top = best;
      for (int e = lane; e < p.num_experts; e += 32) total += expf(logits[e] - top);
      total = sum_lanes(total);
    }
    last = best;
    // A NaN comes before nothing: the token then has the first expert, and NaN as its weight.
    last_expert = expert < p.num_experts ? expert : 0;
    const float weight = expf(best - top) / total;
    chosen += weight;
    if (lane == 0) {
      p.routing.experts[token * p.top_k + j] = last_expert;
      p.routing.weights[token * p.top_k + j] = weight;
    }
  }
  if (!p.normalize || lane != 0) return;
  for (int j = 0; j < p.top_k; ++j) p.routing.weights[token * p.top_k + j] /= chosen;
}

/// One block groups the choices by expert. Their order within one is any: each is computed by
/// itself.
__global__ void __launch_bounds__(kGroupThreads) group_kernel(const __grid_constant__ RouteParams p) {
  __shared__ int counts[kMostDeviceExperts];
  begin_kernel();
  const auto choices = static_cast<int>(p.tokens * p.top_k);
  const int tid = static_cast<int>(threadIdx.x);
  for (int e = tid; e < p.num_experts; e += kGroupThreads) counts[e] = 0;
  __syncthreads();
  for (int i = tid; i < choices; i += kGroupThreads) atomicAdd(counts + p.routing.experts[i], 1);
  __syncthreads();
  if (tid == 0) {
    int sum = 0;
    for (int e = 0; e < p.num_experts; ++e) {
      const int count = counts[e];
      p.routing.offsets[e] = counts[e] = sum;
      sum += count;
    }
    p.routing.offsets[p.num_experts] = sum;
  }
  __syncthreads();
  for (int i = tid; i < choices; i += kGroupThreads) {
    const int entry = atomicAdd(counts + p.routing.experts[i], 1);
    p.routing.tokens[entry] = i / p.top_k;
    p.routing.entries[i] = entry;
  }
}

constexpr int kSide = 64, kSlab = 16, kEach = 4;
constexpr int kThreads = (kSide / kEach) * (kSide / kEach);
using Slab = float[kSlab][kSide + 4];  // [inner][row]

/// out [entries, n] = x W_e^T, row by row with the weights of the entry's expert. With `gated` W_e
/// has 2 n rows, those of the gate first.
struct GroupedParams {
  const float* x;
  const float* weight;  // [E * rows of one, k], dense
  float* out;           // [entries, n], dense
  const std::int32_t* offsets;
  const std::int32_t* tokens;  // row of x of each entry, or nullptr: its own
  std::int64_t x_stride, n, k;
  int num_experts;
  bool gated;
};

/// Tile `index` of 64 entries of one expert, counted over all experts. False behind the last.
__device__ bool find_tile(const GroupedParams& p, int index, int& expert, int& first, int& count) {
  for (int e = 0; e < p.num_experts; ++e) {
    const int begin = p.offsets[e], end = p.offsets[e + 1];
    const int tiles = (end - begin + kSide - 1) / kSide;
    if (index < tiles) {
      expert = e;
      first = begin + index * kSide;
      count = min(kSide, end - first);
      return true;
    }
    index -= tiles;
  }
  return false;
}

__device__ void load_weights(const float* rows, std::int64_t first, std::int64_t n, std::int64_t k,
                             std::int64_t inner, Slab& slab) {
#pragma unroll
  for (int i = 0; i < kSide * kSlab / kThreads; ++i) {
    const int at = i * kThreads + static_cast<int>(threadIdx.x);
    const std::int64_t row = first + at / kSlab, column = k + at % kSlab;
    const bool inside = row < n && column < inner;
    slab[at % kSlab][at / kSlab] = inside ? rows[row * inner + column] : 0.0f;
  }
}

__device__ void add_products(const Slab& x, const Slab& w, int row, int column,
                             float (&sums)[kEach][kEach]) {
#pragma unroll
  for (int k = 0; k < kSlab; ++k) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        sums[i][j] = fmaf(x[k][row + i], w[k][column + j], sums[i][j]);
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads) grouped_kernel(const __grid_constant__ GroupedParams p) {
  __shared__ Slab x, w, g;
  __shared__ const float* rows[kSide];
  __shared__ int tile[3];
  __shared__ bool is_tile;
  begin_kernel();
  const int tid = static_cast<int>(threadIdx.x);
  if (tid == 0) {
    is_tile = find_tile(p, static_cast<int>(blockIdx.y), tile[0], tile[1], tile[2]);
  }
  __syncthreads();
  if (!is_tile) return;
  const int first = tile[1], count = tile[2];
  for (int i = tid; i < kSide; i += kThreads) {
    const int entry = first + min(i, count - 1);
    rows[i] = p.x + (p.tokens != nullptr ? p.tokens[entry] : entry) * p.x_stride;
  }
  const float* weight = p.weight + tile[0] * (p.gated ? 2 : 1) * p.n * p.k;
  const std::int64_t first_n = std::int64_t{blockIdx.x} * kSide;
  const int row = tid / (kSide / kEach) * kEach, column = tid % (kSide / kEach) * kEach;
  float sums[kEach][kEach]{}, gates[kEach][kEach]{};
  for (std::int64_t k = 0; k < p.k; k += kSlab) {
    __syncthreads();  // rows are there; the slab before has been read
#pragma unroll
    for (int i = 0; i < kSide * kSlab / kThreads; ++i) {
      const int at = i * kThreads + tid;
      const std::int64_t inner = k + at % kSlab;
      x[at % kSlab][at / kSlab] = inner < p.k ? rows[at / kSlab][inner] : 0.0f;
    }
    load_weights(p.gated ? weight + p.n * p.k : weight, first_n, p.n, k, p.k, w);
    if (p.gated) load_weights(weight, first_n, p.n, k, p.k, g);
    __syncthreads();
    add_products(x, w, row, column, sums);
    if (p.gated) add_products(x, g, row, column, gates);
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if (row + i >= count || first_n + column + j >= p.n) continue;
      float value = sums[i][j];
      if (p.gated) value *= gates[i][j] / (1.0f + expf(-gates[i][j]));
      p.out[(first + row + i) * p.n + first_n + column + j] = value;
    }
  }
}

Status grouped_product(Context& context, const GroupedParams& p, std::int64_t entries) {
  // As many tiles as there may be, whatever the router says.
  const std::int64_t tiles = entries / kSide + std::min<std::int64_t>(entries, p.num_experts);
  const dim3 grid(static_cast<unsigned>((p.n + kSide - 1) / kSide), static_cast<unsigned>(tiles));
  return cuda::launch(context, "experts", grouped_kernel, grid, kThreads, p);
}

struct CombineParams {
  const float* outputs;  // [T * top_k, width], dense
  float* hidden;
  std::int64_t hidden_stride, width;
  int top_k;
  DeviceRouting routing;
};

__global__ void __launch_bounds__(kThreads) combine_kernel(const __grid_constant__ CombineParams p) {
  begin_kernel();
  const std::int64_t token = blockIdx.x;
  for (std::int64_t i = threadIdx.x; i < p.width; i += kThreads) {
    float sum = p.hidden[token * p.hidden_stride + i];
    for (int j = 0; j < p.top_k; ++j) {
      const std::int64_t entry = p.routing.entries[token * p.top_k + j];
      sum = fmaf(p.routing.weights[token * p.top_k + j], p.outputs[entry * p.width + i], sum);
    }
    p.hidden[token * p.hidden_stride + i] = sum;
  }
}

struct GateParams {
  const float* gate;
  const float* x;
  float* hidden;
  std::int64_t gate_stride, x_stride, hidden_stride, width;
};

__global__ void __launch_bounds__(kThreads) add_gated_kernel(const __grid_constant__ GateParams p) {
  begin_kernel();
  const std::int64_t token = blockIdx.x;
  const float weight = 1.0f / (1.0f + expf(-p.gate[token * p.gate_stride]));
  for (std::int64_t i = threadIdx.x; i < p.width; i += kThreads) {
    float& at = p.hidden[token * p.hidden_stride + i];
    at = fmaf(weight, p.x[token * p.x_stride + i], at);
  }
}

}  // namespace

Status run_device_experts(Context& context, const ExpertsArgs& a) {
  const std::int64_t tokens = a.x.dim(0), hidden = a.x.dim(1), experts = a.logits.dim(1);
  if (experts > kMostDeviceExperts) {
    return error(StatusCode::kUnsupported, "experts: there are ", experts, ", must be at most ",
                 kMostDeviceExperts, " on cuda");
  }
  if (tokens == 0) return {};
  const RouteParams route{static_cast<const float*>(a.logits.data), a.logits.stride(0), tokens,
                          static_cast<int>(experts), a.top_k, a.normalize, a.routing};
  const auto blocks = static_cast<unsigned>((tokens + kRouteWarps - 1) / kRouteWarps);
  HYBRIDATTN_TRY(
      cuda::launch(context, "experts", route_kernel, dim3(blocks), kRouteWarps * 32, route));
  HYBRIDATTN_TRY(cuda::launch(context, "experts", group_kernel, dim3(1), kGroupThreads, route));
  const std::int64_t entries = tokens * a.top_k;
  GroupedParams product{static_cast<const float*>(a.x.data),
                        static_cast<const float*>(a.gate_up.data),
                        static_cast<float*>(a.gated.data),
                        a.routing.offsets,
                        a.routing.tokens,
                        a.x.stride(0),
                        a.gated.dim(1),
                        hidden,
                        static_cast<int>(experts),
                        true};
  HYBRIDATTN_TRY(grouped_product(context, product, entries));
  product.x = product.out;
  product.x_stride = product.k = a.gated.dim(1);
  product.weight = static_cast<const float*>(a.down.data);
  product.out = static_cast<float*>(a.outputs.data);
  product.tokens = nullptr;
  product.n = hidden;
  product.gated = false;
  HYBRIDATTN_TRY(grouped_product(context, product, entries));
  const CombineParams combine{static_cast<const float*>(a.outputs.data),
                              static_cast<float*>(a.hidden.data), a.hidden.stride(0), hidden,
                              a.top_k, a.routing};
  return cuda::launch(context, "experts", combine_kernel, dim3(static_cast<unsigned>(tokens)),
                      kThreads, combine);
}

Status add_gated_on_device(Context& context, const ConstTensorView& gate, const ConstTensorView& x,
                           const TensorView& hidden) {
  if (hidden.dim(0) == 0) return {};
  const GateParams p{static_cast<const float*>(gate.data),
                     static_cast<const float*>(x.data),
                     static_cast<float*>(hidden.data),
                     gate.stride(0),
                     x.stride(0),
                     hidden.stride(0),
                     hidden.dim(1)};
  return cuda::launch(context, "add_gated", add_gated_kernel,
                      dim3(static_cast<unsigned>(hidden.dim(0))), kThreads, p);
}

}  // namespace hybridattn::engine
