// Gated RMSNorm on CUDA: a warp for each token and head.
#include "src/cuda/element.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"
#include "src/cuda/reduce.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kWarps = 8;

struct NormParams {
  View x, z, weight, out;
  const std::uint8_t* pad;  // optional [tokens]
  std::int64_t tokens;
  int heads, dim;
  float epsilon;
  bool sigmoid_gate;
};

__global__ void __launch_bounds__(kWarps * 32)
    gated_rms_norm_kernel(const __grid_constant__ NormParams p) {
  let_next_begin();
  wait_for_writers();
  const int lane = threadIdx.x % 32;
  for (std::int64_t i = flat_index() / 32; i < p.tokens * p.heads; i += flat_step() / 32) {
    const std::int64_t token = i / p.heads;
    const std::int64_t head = i % p.heads;
    const std::uint8_t kind = p.pad == nullptr ? std::uint8_t{kNormed} : p.pad[token];
    if (kind == kLeftOut) continue;
    if (kind != kNormed) {
      for (int d = lane; d < p.dim; d += 32) store(p.out, p.out.at(token, head, d), 0.0f);
      continue;
    }
    float squares = 0.0f;
#pragma unroll 1
    for (int d = lane; d < p.dim; d += 32) {
      const float x = load(p.x, p.x.at(token, head, d));
      squares = fmaf(x, x, squares);
    }
    const float factor = inverse_root(sum_lanes(squares) / static_cast<float>(p.dim) + p.epsilon);
#pragma unroll 1
    for (int d = lane; d < p.dim; d += 32) {
      const float z = load(p.z, p.z.at(token, head, d));
      const float normed =
          load(p.x, p.x.at(token, head, d)) * factor * load(p.weight, p.weight.at(d));
      store(p.out, p.out.at(token, head, d), normed * (p.sigmoid_gate ? sigmoid(z) : silu(z)));
    }
  }
}

/// The same where a head is 128 elements of one type, four side by side for each lane: read once.
template <class X>
__global__ void __launch_bounds__(kWarps * 32)
    gated_rms_norm_128_kernel(const __grid_constant__ NormParams p) {
  constexpr int kMine = 4;
  struct alignas(kMine * sizeof(X)) Raw {
    X x[kMine];
  };
  let_next_begin();
  wait_for_writers();
  const int first = static_cast<int>(threadIdx.x) % 32 * kMine;
  float weight[kMine];
#pragma unroll
  for (int i = 0; i < kMine; ++i) weight[i] = load(p.weight, p.weight.at(first + i));
  for (std::int64_t i = flat_index() / 32; i < p.tokens * p.heads; i += flat_step() / 32) {
    const std::int64_t token = i / p.heads;
    const std::int64_t head = i % p.heads;
    const std::uint8_t kind = p.pad == nullptr ? std::uint8_t{kNormed} : p.pad[token];
    if (kind == kLeftOut) continue;
    Raw out;
    if (kind != kNormed) {
#pragma unroll
      for (int e = 0; e < kMine; ++e) out.x[e] = from_float<X>(0.0f);
    } else {
      const Raw x = *reinterpret_cast<const Raw*>(p.x.as<const X>() + p.x.at(token, head, first));
      const Raw z = *reinterpret_cast<const Raw*>(p.z.as<const X>() + p.z.at(token, head, first));
      float squares = 0.0f;
#pragma unroll
      for (int e = 0; e < kMine; ++e) {
        squares = fmaf(to_float(x.x[e]), to_float(x.x[e]), squares);
      }
      const float factor = inverse_root(sum_lanes(squares) * (1.0f / 128) + p.epsilon);
#pragma unroll
      for (int e = 0; e < kMine; ++e) {
        const float gate = to_float(z.x[e]);
        out.x[e] = from_float<X>(to_float(x.x[e]) * factor * weight[e] *
                                 (p.sigmoid_gate ? sigmoid(gate) : silu(gate)));
      }
    }
    *reinterpret_cast<Raw*>(p.out.as<X>() + p.out.at(token, head, first)) = out;
  }
}

/// Whether a head of each tensor is 128 elements of one type that words of four may be taken from.
bool is_packed(const ops::GatedRmsNormParams& p) {
  return p.x.dim(2) == 128 && p.z.dtype == p.x.dtype && p.out.dtype == p.x.dtype &&
         rows_aligned(p.x) && rows_aligned(p.z) && rows_aligned(p.out);
}

Status run(const ops::GatedRmsNormParams& p, const core::DeviceLaunch& launch) {
  const NormParams params{View(p.x),
                          View(p.z),
                          View(p.weight),
                          View(p.out),
                          p.pad,
                          p.x.dim(0),
                          static_cast<int>(p.x.dim(1)),
                          static_cast<int>(p.x.dim(2)),
                          p.epsilon,
                          p.gate == GateKind::kSigmoid};
  const std::int64_t count = params.tokens * params.heads;
  if (count == 0) return {};
  const unsigned grid = grid_for(count, kWarps, *launch.info);
  const auto kernel = !is_packed(p)               ? gated_rms_norm_kernel
                      : p.x.dtype == DType::kBF16 ? gated_rms_norm_128_kernel<__nv_bfloat16>
                      : p.x.dtype == DType::kF16  ? gated_rms_norm_128_kernel<__half>
                                                  : gated_rms_norm_128_kernel<float>;
  return launch_early("gated_rms_norm", launch, kernel, grid, kWarps * 32, 0, params);
}

}  // namespace

core::DeviceKernels<ops::GatedRmsNormParams> gated_rms_norm_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
