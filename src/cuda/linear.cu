// Matrix products on CUDA: of few rows by kernels that read weights at the speed of memory, of many
// by cuBLASLt, of mixed types and odd strides by a plain kernel.
#include "hybridattn/status_macros.h"
#include "src/cuda/cublas_lt.h"
#include "src/cuda/element.cuh"
#include "src/cuda/kernels.h"
#include "src/cuda/sm80/linear_few_rows.cuh"
#ifdef HYBRIDATTN_CUDA_SM90
#include "src/cuda/sm90/linear_multicast.cuh"
#include "src/cuda/sm90/linear_streamed.cuh"
#endif
#include "src/cuda/smxx/linear_tiles.cuh"

namespace hybridattn::cuda {
namespace {

bool is_gated(const ops::LinearParams& p) { return !p.gate.empty() || !p.gate_weight.empty(); }

/// x as it enters the product: with a norm it is made in scratch.
ConstTensorView multiplied_x(const ops::LinearParams& p, std::byte* scratch) {
  if (p.norm_weight.empty()) return p.x;
  return TensorView(scratch, p.weight.dtype, {p.x.dim(0), p.x.dim(1)});
}

std::size_t normed_bytes(const ops::LinearParams& p) {
  if (p.norm_weight.empty()) return 0;
  return static_cast<std::size_t>(p.x.num_elements()) * dtype_size(p.weight.dtype);
}

core::DeviceNeeds norm_needs(const ops::LinearParams& p, const core::DeviceInfo&) {
  return {normed_bytes(p), 0};
}

/// The call behind the norm, which is made in scratch.
Result<ops::LinearParams> normalize(const ops::LinearParams& p, std::byte* scratch,
                                    const core::DeviceLaunch& launch) {
  if (p.norm_weight.empty()) return p;
  ops::LinearParams normed = p;
  const TensorView x(scratch, p.weight.dtype, {p.x.dim(0), p.x.dim(1)});
  normed.x = x;
  normed.norm_weight = {};
  const auto one_head = [](const auto& rows) {
    return rows.at(0, {rows.dim(0), 1, rows.dim(1)}, {rows.stride(0), 0, rows.stride(1)});
  };
  HYBRIDATTN_TRY(rms_norm_kernels()[0].run(
      {one_head(p.x), p.norm_weight, one_head(x), p.norm_epsilon, true}, launch));
  return normed;
}

const char* refusal_lt(const ops::LinearParams& p, const core::DeviceInfo&) {
  if (const char* why = refusal_linear_handed_on(p)) return why;
  const ConstTensorView x = multiplied_x(p, nullptr);
  if (p.weight.dtype != x.dtype) return "x and weight must be of one type";
  if (p.out.dtype != DType::kF32 && p.out.dtype != x.dtype) {
    return "out must be f32 or of the type of weight";
  }
  if (!p.gate_weight.empty() && p.gate_weight.dtype != x.dtype) {
    return "gate_weight must be of the type of weight";
  }
  if (p.accumulate && is_gated(p)) return "gated products are not added to out";
  const bool aligned = rows_aligned(x) && rows_aligned(p.weight) && rows_aligned(p.out) &&
                       rows_aligned(p.gate_weight);
  if (!aligned || x.dim(1) == 0) return "rows must begin at multiples of 16 bytes";
  return refusal_cublas_lt();
}

/// Rows of scratch behind cuBLASLt's: products that a gate multiplies, those of its weights first.
std::int64_t scratch_columns(const ops::LinearParams& p) {
  if (!is_gated(p)) return 0;
  const std::int64_t padded = (p.weight.dim(0) + 7) / 8 * 8;
  return p.gate_weight.empty() ? padded : 2 * padded;
}

std::size_t gated_bytes(const ops::LinearParams& p) {
  const auto gated = static_cast<std::size_t>(p.x.dim(0) * scratch_columns(p));
  return (gated * dtype_size(p.out.dtype) + 63) / 64 * 64;
}

core::DeviceNeeds lt_needs(const ops::LinearParams& p, const core::DeviceInfo&) {
  return {ops::kLinearCudaWorkspaceBytes + gated_bytes(p) + normed_bytes(p), 0};
}

Status multiply(const ops::LinearParams& p, const ConstTensorView& weight, std::int64_t columns,
                const TensorView& out, const core::DeviceLaunch& launch) {
  return multiply_cublas_lt(
      {p.x.dtype, out.dtype, p.x.dim(0), columns, p.x.dim(1), p.x.data, weight.data, out.data,
       p.x.stride(0), weight.stride(0), out.stride(0), p.accumulate, p.batch_invariant},
      launch);
}

/// out = silu(gate) * product. The product is rounded to the type of out on its way.
Status run_lt_gated(const ops::LinearParams& p, const core::DeviceLaunch& launch) {
  const std::int64_t n = p.weight.dim(0), m = p.x.dim(0), wide = scratch_columns(p);
  const TensorView scratch(launch.scratch + ops::kLinearCudaWorkspaceBytes, p.out.dtype, {m, wide});
  const auto part = [&](std::int64_t first) { return scratch.at(first, {m, n}, {wide, 1}); };
  const core::DeviceKernel<ops::SiluMulParams> silu_mul = silu_mul_kernels()[0];
  if (p.gate_weight.empty()) {
    HYBRIDATTN_TRY(multiply(p, p.weight, n, part(0), launch));
    return silu_mul.run({p.gate, part(0), p.out}, launch);
  }
  const auto size = static_cast<std::int64_t>(dtype_size(p.weight.dtype));
  const bool joined =
      p.gate_weight.stride(0) == p.weight.stride(0) && wide == 2 * n &&
      static_cast<const std::byte*>(p.gate_weight.data) + n * p.weight.stride(0) * size ==
          p.weight.data;
  if (joined) {
    HYBRIDATTN_TRY(multiply(p, p.gate_weight, 2 * n, scratch, launch));
  } else {
    HYBRIDATTN_TRY(multiply(p, p.gate_weight, n, part(0), launch));
    HYBRIDATTN_TRY(multiply(p, p.weight, n, part(wide / 2), launch));
  }
  return silu_mul.run({part(0), part(wide / 2), p.out}, launch);
}

Status run_lt(const ops::LinearParams& params, const core::DeviceLaunch& launch) {
  if (params.x.dim(0) * params.weight.dim(0) == 0) return {};
  std::byte* const behind = launch.scratch + ops::kLinearCudaWorkspaceBytes + gated_bytes(params);
  HYBRIDATTN_ASSIGN(const ops::LinearParams p, normalize(params, behind, launch));
  return is_gated(p) ? run_lt_gated(p, launch)
                     : multiply(p, p.weight, p.weight.dim(0), p.out, launch);
}

/// A kernel to which x comes normed.
template <Status (*Run)(const ops::LinearParams&, const core::DeviceLaunch&)>
Status run_normed(const ops::LinearParams& params, const core::DeviceLaunch& launch) {
  if (params.x.dim(0) * params.weight.dim(0) == 0) return {};
  HYBRIDATTN_ASSIGN(const ops::LinearParams p, normalize(params, launch.scratch, launch));
  return Run(p, launch);
}

#ifdef HYBRIDATTN_CUDA_SM90
/// Whether x enters the streamed kernel as it is.
bool streams_as_given(const ops::LinearParams& p, const core::DeviceInfo& info) {
  return p.norm_weight.empty() || takes_norm_streamed(p, info);
}

core::DeviceNeeds streamed_needs(const ops::LinearParams& p, const core::DeviceInfo& info) {
  return {streams_as_given(p, info) ? 0 : normed_bytes(p), 0};
}

Status run_streamed(const ops::LinearParams& params, const core::DeviceLaunch& launch) {
  if (params.x.dim(0) * params.weight.dim(0) == 0) return {};
  if (streams_as_given(params, *launch.info)) return run_linear_streamed(params, launch);
  HYBRIDATTN_ASSIGN(const ops::LinearParams p, normalize(params, launch.scratch, launch));
  return run_linear_streamed(p, launch);
}

/// What no other fast kernel takes they take. A norm that they would not hand on a kernel of its
/// own makes.
bool faster_multicast(const ops::LinearParams& p, const core::DeviceInfo& info) {
  const bool alone = p.next_norm.empty() && refusal_lt(p, info) != nullptr;
  return alone || faster_linear_multicast(p);
}
#endif

const char* refusal_tiles(const ops::LinearParams& p, const core::DeviceInfo&) {
  return refusal_linear_handed_on(p);
}

const char* refusal_few_rows(const ops::LinearParams& p, const core::DeviceInfo&) {
  return refusal_linear_few_rows(p);
}

}  // namespace

core::DeviceKernels<ops::LinearParams> linear_kernels() {
  return {{
#ifdef HYBRIDATTN_CUDA_SM90
      {"streamed", refusal_linear_streamed, streamed_needs, run_streamed, faster_linear_streamed},
#endif
      {"few_rows", refusal_few_rows, nullptr, run_linear_few_rows},
#ifdef HYBRIDATTN_CUDA_SM90
      {"multicast", refusal_linear_multicast, norm_needs, run_normed<run_linear_multicast>,
       faster_multicast},
#endif
      {"cublaslt", refusal_lt, lt_needs, run_lt},
      {"tiles", refusal_tiles, norm_needs, run_normed<run_linear_tiles>}}};
}

}  // namespace hybridattn::cuda
