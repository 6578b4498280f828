// All CPU kernels, as register.cc takes them. A new kernel adds a line here and one there.
#pragma once

#include "src/core/kernel.h"
#include "src/ops/attention_params.h"
#include "src/ops/causal_conv_verify_params.h"
#include "src/ops/copy_kv_params.h"
#include "src/ops/copy_slots_params.h"
#include "src/ops/gated_rms_norm_params.h"
#include "src/ops/gdn_gates_params.h"
#include "src/ops/gdn_prefill_params.h"
#include "src/ops/gdn_step_params.h"
#include "src/ops/gdn_verify_params.h"
#include "src/ops/l2norm_params.h"
#include "src/ops/linear_int8_params.h"
#include "src/ops/linear_params.h"
#include "src/ops/qk_norm_rope_store_params.h"
#include "src/ops/rms_norm_params.h"
#include "src/ops/rotary_params.h"
#include "src/ops/sigmoid_gate_params.h"
#include "src/ops/silu_mul_params.h"
#include "src/ops/store_kv_params.h"

namespace hybridattn::cpu {

core::CpuVariants<ops::AttentionParams> attention_variants();
core::CpuVariants<ops::CausalConvParams> causal_conv_variants();
core::CpuVariants<ops::CausalConvVerifyParams> causal_conv_verify_variants();
core::CpuVariants<ops::CopyKvParams> copy_kv_variants();
core::CpuVariants<ops::CopySlotsParams> copy_slots_variants();
core::CpuVariants<ops::GatedRmsNormParams> gated_rms_norm_variants();
core::CpuVariants<ops::GdnGatesParams> gdn_gates_variants();
core::CpuVariants<ops::GdnPrefillParams> gdn_prefill_variants();
core::CpuVariants<ops::GdnStepParams> gdn_step_variants();
core::CpuVariants<ops::GdnVerifyParams> gdn_verify_variants();
core::CpuVariants<ops::L2NormParams> l2norm_variants();
core::CpuVariants<ops::LinearInt8Params> linear_int8_variants();
core::CpuVariants<ops::LinearParams> linear_variants();
core::CpuVariants<ops::MergeStatesParams> merge_states_variants();
core::CpuVariants<ops::QkNormRopeStoreParams> qk_norm_rope_store_variants();
core::CpuVariants<ops::RmsNormParams> rms_norm_variants();
core::CpuVariants<ops::RotaryParams> rotary_variants();
core::CpuVariants<ops::RotaryTableParams> rotary_table_variants();
core::CpuVariants<ops::SigmoidGateParams> sigmoid_gate_variants();
core::CpuVariants<ops::SiluMulParams> silu_mul_variants();
core::CpuVariants<ops::StoreKvParams> store_kv_variants();
core::CpuVariants<ops::ZeroSlotsParams> zero_slots_variants();

}  // namespace hybridattn::cpu
