// The implementations of gdn_decode on CUDA: one kernel for the shapes of the models at hand.
#include "src/cuda/kernels.h"
#include "src/cuda/smxx/gdn_decode.cuh"

namespace hybridattn::cuda {

const char* decode_refusal(const ops::GdnDecodeParams& p) {
  const GdnDecodeArgs& x = p.args;
  if (p.k_dim != 128 || p.v_dim != 128) {
    return "the fused kernel has K = V = 128 only";
  }
  const DType type = x.mixed_qkv.dtype;
  for (const DType other : {x.conv_weight.dtype, x.conv_state.dtype, x.a.dtype, x.b.dtype,
                            x.out.dtype, x.z.empty() ? type : x.z.dtype}) {
    if (other != type) return "the fused kernel takes activations of one dtype";
  }
  if (!rows_aligned(x.state)) return "the fused kernel needs rows of the state aligned to 16 bytes";
  return nullptr;
}

namespace {

const char* refusal(const ops::GdnDecodeParams& p, const core::DeviceInfo&) {
  return decode_refusal(p);
}

bool aligned(const void* data, std::uintptr_t bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % bytes == 0;
}

/// Whether the windows, taps and inputs of an even channel and the next can be read as words.
bool pairs_are_words(const GdnDecodeArgs& x, std::int64_t width) {
  const ConstTensorView mixed = x.mixed_qkv, weight = x.conv_weight, state = x.conv_state;
  return dtype_size(mixed.dtype) == 2 && width == 4 &&                                      //
         mixed.stride(1) == 1 && mixed.stride(0) % 2 == 0 && aligned(mixed.data, 4) &&      //
         weight.stride(1) == 1 && weight.stride(0) == width && aligned(weight.data, 16) &&  //
         state.stride(2) == 1 && state.stride(1) == width - 1 && state.stride(0) % 2 == 0 &&
         aligned(state.data, 4);
}

core::DeviceNeeds needs(const ops::GdnDecodeParams& p, const core::DeviceInfo&) {
  return {0, static_cast<std::size_t>(p.args.rows.device->count) *
                 static_cast<std::size_t>(p.args.num_k_heads)};
}

template <class X>
Status run_typed(const DecodeParams& p, const core::DeviceLaunch& launch) {
  if (p.state.dtype == DType::kF32) return run_decode<X, float, 128, 128>(p, launch);
  return run_decode<X, __nv_bfloat16, 128, 128>(p, launch);
}

Status run(const ops::GdnDecodeParams& p, const core::DeviceLaunch& launch) {
  const DecodeParams params = decode_params(p, launch);
  switch (p.args.mixed_qkv.dtype) {
    case DType::kBF16: return run_typed<__nv_bfloat16>(params, launch);
    case DType::kF16: return run_typed<__half>(params, launch);
    default: return run_typed<float>(params, launch);
  }
}

}  // namespace

DecodeParams decode_params(const ops::GdnDecodeParams& p, const core::DeviceLaunch& launch) {
  const GdnDecodeArgs& x = p.args;
  DecodeParams out{};
  out.rows = *x.rows.device;
  out.mixed = View(x.mixed_qkv);
  out.conv_weight = View(x.conv_weight);
  out.conv_state = View(x.conv_state);
  out.a = View(x.a);
  out.b = View(x.b);
  out.a_log = View(x.a_log);
  out.dt_bias = View(x.dt_bias);
  out.state = View(x.state);
  out.z = View(x.z);
  out.norm_weight = View(x.norm_weight);
  out.out = View(x.out);
  out.counters = launch.counters;
  out.v_heads = static_cast<int>(p.v_heads);
  out.k_heads = x.num_k_heads;
  out.width = static_cast<int>(p.width);
  out.scale = p.scale;
  out.beta_factor = x.allow_neg_eigval ? 2.0f : 1.0f;
  out.epsilon = x.norm_epsilon;
  out.sigmoid_gate = x.gate == GateKind::kSigmoid;
  out.channel_decay = x.a.rank == 3;
  out.paired = pairs_are_words(x, p.width);
  return out;
}

core::DeviceKernels<ops::GdnDecodeParams> gdn_decode_kernels() {
  return {{{"smxx", refusal, needs, run}}};
}

}  // namespace hybridattn::cuda
