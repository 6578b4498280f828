// The implementations of attention on CUDA.
#include "src/core/context_impl.h"
#include "src/cuda/attention_gate.cuh"
#include "src/cuda/kernels.h"
#include "src/cuda/sm80/attention.cuh"
#include "src/cuda/sm90/attention.cuh"
#include "src/cuda/smxx/attention.cuh"

namespace hybridattn::cuda {
namespace {

/// Whether every page of a cache can be counted by 31 bits, and its places in 16-byte pieces by 32.
bool within_reach(const ConstTensorView& cache) {
  const std::int64_t last =
      (cache.dim(0) - 1) * cache.stride(0) + (cache.dim(1) - 1) * cache.stride(1);
  const auto pieces = last * static_cast<std::int64_t>(dtype_size(cache.dtype)) / 16;
  return cache.dim(0) <= 0x7fffffff && cache.stride(0) >= 0 && cache.stride(1) >= 0 &&
         pieces < 0xffffffff;
}

/// Why kernels over tiles cannot serve a call.
const char* tile_refusal(const ops::AttentionParams& p) {
  if (p.q.dtype == DType::kF32) return "kernels over tiles take q in bf16 or f16";
  if (p.k.dtype != p.v.dtype || (p.k.dtype != p.q.dtype && p.k.dtype != DType::kF8E4M3)) {
    return "kernels over tiles take k and v of q's type or in f8_e4m3";
  }
  if (p.out.dtype != p.q.dtype && p.out.dtype != DType::kF32) {
    return "kernels over tiles write q's type or f32";
  }
  if ((p.k_scale.each != nullptr || p.v_scale.each != nullptr) && p.k.dtype != DType::kF8E4M3) {
    return "kernels over tiles take a scale of each head for caches in f8_e4m3";
  }
  const std::int64_t dim = p.q.dim(2);
  if ((dim != 64 && dim != 128 && dim != 256) || p.v.dim(3) != dim) {
    return "kernels over tiles take D = DV = 64, 128 or 256";
  }
  if (!within_reach(p.k) || !within_reach(p.v)) {
    return "kernels over tiles take caches of less than 64 GiB a layer";
  }
  if (!p.gate.empty() && p.gate.dtype != p.q.dtype && p.gate.dtype != DType::kF32) {
    return "kernels over tiles take a gate of q's type or f32";
  }
  for (const ConstTensorView* view : {&p.q, &p.k, &p.v, &p.gate}) {
    if (!rows_aligned(*view)) return "kernels over tiles take rows aligned to 16 bytes";
  }
  return rows_aligned(p.out) ? nullptr : "kernels over tiles write rows aligned to 16 bytes";
}

const char* refusal_sm80(const ops::AttentionParams& p, const core::DeviceInfo& info) {
  if (info.compute_major < 8) return "the sm80 kernels need compute capability 8.0 or more";
  return tile_refusal(p);
}

#if defined(HYBRIDATTN_CUDA_SM90)
const char* refusal_sm90(const ops::AttentionParams& p, const core::DeviceInfo& info) {
  if (info.compute_major != 9) return "the sm90 kernels run on compute capability 9.0 alone";
  if (p.k.dtype == DType::kF8E4M3) return "the sm90 kernels take k and v of q's type";
  return tile_refusal(p);
}
#endif

core::DeviceNeeds needs_parts(const ops::AttentionParams& p, const core::DeviceInfo&) {
  return {ops::attention_parts_bytes(p.tables->part_rows, p.k.dim(2), p.q.dim(2)), 0};
}

AttentionTileParams tile_params(const ops::AttentionParams& p, const core::DeviceLaunch& launch) {
  AttentionTileParams params{};
  params.call = attention_call(p);
  params.gate_behind = p.batch_invariant;
  params.part_out = reinterpret_cast<float*>(launch.scratch);
  params.part_top =
      reinterpret_cast<float2*>(params.part_out + p.tables->part_rows * p.k.dim(2) * p.q.dim(2));
  return params;
}

/// Tiles of few rows by the sm80 kernels, those of many by `Many`.
template <class X, class KV, int D, class Many>
Status run_tiles(AttentionTileParams p, const core::DeviceLaunch& launch, const Many& many) {
  const AttentionCall whole = p.call;
  // Gates cost tiles of many more than a kernel of their own does: its reads are all on their way
  // at once. It rounds once more: with batch_invariant for every row or for none.
  const bool gated_behind =
      whole.gate.data != nullptr && (whole.tables.num_many > 0 || p.gate_behind);
  if (gated_behind) p.call.gate = View();
  HYBRIDATTN_TRY((run_attention_tiles<X, KV, D, true>(p, launch)));
  HYBRIDATTN_TRY(many(p, launch));
  HYBRIDATTN_TRY(join_attention_parts(p, D, launch));
  return gated_behind ? gate_attention_rows(whole, D, launch) : Status();
}

template <class X, class KV>
Status run_sm80_of(const ops::AttentionParams& p, const core::DeviceLaunch& launch) {
  const AttentionTileParams params = tile_params(p, launch);
  const std::int64_t dim = p.q.dim(2);
  if (dim == 64) {
    return run_tiles<X, KV, 64>(params, launch, run_attention_tiles<X, KV, 64, false>);
  }
  if (dim == 128) {
    return run_tiles<X, KV, 128>(params, launch, run_attention_tiles<X, KV, 128, false>);
  }
  return run_tiles<X, KV, 256>(params, launch, run_attention_tiles<X, KV, 256, false>);
}

Status run_sm80(const ops::AttentionParams& p, const core::DeviceLaunch& launch) {
  const bool f8 = p.k.dtype == DType::kF8E4M3;
  if (p.q.dtype == DType::kBF16) {
    return f8 ? run_sm80_of<__nv_bfloat16, std::uint8_t>(p, launch)
              : run_sm80_of<__nv_bfloat16, __nv_bfloat16>(p, launch);
  }
  return f8 ? run_sm80_of<__half, std::uint8_t>(p, launch) : run_sm80_of<__half, __half>(p, launch);
}

#if defined(HYBRIDATTN_CUDA_SM90)
template <class X>
Status run_sm90_of(const ops::AttentionParams& p, const core::DeviceLaunch& launch) {
  const AttentionTileParams params = tile_params(p, launch);
  const std::int64_t dim = p.q.dim(2);
  if (dim == 64) return run_tiles<X, X, 64>(params, launch, run_attention_sm90<X, 64>);
  if (dim == 128) return run_tiles<X, X, 128>(params, launch, run_attention_sm90<X, 128>);
  return run_tiles<X, X, 256>(params, launch, run_attention_sm90<X, 256>);
}

Status run_sm90(const ops::AttentionParams& p, const core::DeviceLaunch& launch) {
  return p.q.dtype == DType::kBF16 ? run_sm90_of<__nv_bfloat16>(p, launch)
                                   : run_sm90_of<__half>(p, launch);
}
#endif

}  // namespace

core::DeviceKernels<ops::AttentionParams> attention_kernels() {
  return {{
#if defined(HYBRIDATTN_CUDA_SM90)
      {"sm90", refusal_sm90, needs_parts, run_sm90},
#endif
      {"sm80", refusal_sm80, needs_parts, run_sm80},
      {"smxx", nullptr, nullptr, run_attention_rows},
  }};
}

}  // namespace hybridattn::cuda
