// All CUDA kernels, as register.cc takes them. A new kernel adds a line here and one there.
#pragma once

#include "src/core/kernel.h"
#include "src/ops/attention_params.h"
#include "src/ops/causal_conv_verify_params.h"
#include "src/ops/copy_kv_params.h"
#include "src/ops/copy_slots_params.h"
#include "src/ops/gated_rms_norm_params.h"
#include "src/ops/gdn_decode_params.h"
#include "src/ops/gdn_decode_verify_params.h"
#include "src/ops/gdn_gates_params.h"
#include "src/ops/gdn_prefill_params.h"
#include "src/ops/gdn_step_params.h"
#include "src/ops/gdn_verify_params.h"
#include "src/ops/l2norm_params.h"
#include "src/ops/linear_params.h"
#include "src/ops/qk_norm_rope_store_params.h"
#include "src/ops/rms_norm_params.h"
#include "src/ops/rotary_params.h"
#include "src/ops/sigmoid_gate_params.h"
#include "src/ops/silu_mul_params.h"
#include "src/ops/store_kv_params.h"

namespace hybridattn::cuda {

core::DeviceKernels<ops::AttentionParams> attention_kernels();
core::DeviceKernels<ops::CausalConvParams> causal_conv_kernels();
core::DeviceKernels<ops::CausalConvVerifyParams> causal_conv_verify_kernels();
core::DeviceKernels<ops::CopyKvParams> copy_kv_kernels();
core::DeviceKernels<ops::CopySlotsParams> copy_slots_kernels();
core::DeviceKernels<ops::GatedRmsNormParams> gated_rms_norm_kernels();
core::DeviceKernels<ops::GdnDecodeParams> gdn_decode_kernels();
core::DeviceKernels<ops::GdnDecodeVerifyParams> gdn_decode_verify_kernels();
core::DeviceKernels<ops::GdnGatesParams> gdn_gates_kernels();
core::DeviceKernels<ops::GdnPrefillParams> gdn_prefill_kernels();
core::DeviceKernels<ops::GdnStepParams> gdn_step_kernels();
core::DeviceKernels<ops::GdnVerifyParams> gdn_verify_kernels();
core::DeviceKernels<ops::L2NormParams> l2norm_kernels();
core::DeviceKernels<ops::LinearParams> linear_kernels();
core::DeviceKernels<ops::MergeStatesParams> merge_states_kernels();
core::DeviceKernels<ops::QkNormRopeStoreParams> qk_norm_rope_store_kernels();
core::DeviceKernels<ops::RmsNormParams> rms_norm_kernels();
core::DeviceKernels<ops::RotaryParams> rotary_kernels();
core::DeviceKernels<ops::RotaryTableParams> rotary_table_kernels();
core::DeviceKernels<ops::SigmoidGateParams> sigmoid_gate_kernels();
core::DeviceKernels<ops::SiluMulParams> silu_mul_kernels();
core::DeviceKernels<ops::StoreKvParams> store_kv_kernels();
core::DeviceKernels<ops::ZeroSlotsParams> zero_slots_kernels();

}  // namespace hybridattn::cuda
