// The routed experts of a mixture on a GPU: nothing of what the router says comes to the host.
#pragma once

#include <cstdint>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine {

/// Which experts serve which tokens, on the device.
struct DeviceRouting {
  std::int32_t* experts;  ///< [T, top_k] the chosen ones, best first
  float* weights;         ///< [T, top_k]
  std::int32_t* offsets;  ///< [E + 1] expert e serves entries [offsets[e], offsets[e + 1])
  std::int32_t* tokens;   ///< [T * top_k] token of each entry
  std::int32_t* entries;  ///< [T, top_k] entry of each token's choice
};

/// The most experts that there may be.
inline constexpr std::int64_t kMostDeviceExperts = 1024;

struct ExpertsArgs {
  ConstTensorView x{};        ///< [T, H] f32
  ConstTensorView logits{};   ///< [T, E] f32, of the router
  ConstTensorView gate_up{};  ///< [E * 2 I, H] f32: of each expert gate, then up
  ConstTensorView down{};     ///< [E * H, I] f32
  std::int32_t top_k = 0;
  bool normalize = false;   ///< weights are divided by their sum
  DeviceRouting routing{};  ///< scratch
  TensorView gated{};       ///< [T * top_k, I] f32, scratch
  TensorView outputs{};     ///< [T * top_k, H] f32, scratch
  TensorView hidden{};      ///< [T, H] f32: what the experts give is added
};

/// hidden[t] += sum_j weight_j down_e(silu(gate_e x_t) * up_e x_t) over the top_k experts e of the
/// token, as route and combine_experts say, in float32. The result of a token does not depend on
/// the others. Can be recorded. Errors: unsupported on the CPU and for more than
/// kMostDeviceExperts; device_error.
Status run_device_experts(Context& context, const ExpertsArgs& args);

/// hidden[t] += sigmoid(gate[t]) * x[t] on the device. gate [T, 1] f32, x and hidden [T, H] f32.
Status add_gated_on_device(Context& context, const ConstTensorView& gate, const ConstTensorView& x,
                           const TensorView& hidden);

}  // namespace hybridattn::engine
