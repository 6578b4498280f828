// The one file that names the devices: it fills the kernel tables, explicitly, so that a static
// link drops nothing.
#include <mutex>

#include "src/core/context_impl.h"
#include "src/cpu/kernels.h"

namespace hybridattn::core {
namespace {

void register_cpu() {
  using namespace hybridattn::ops;
  kernel_entry<AttentionParams>.cpu = cpu::attention_variants();
  kernel_entry<CausalConvParams>.cpu = cpu::causal_conv_variants();
  kernel_entry<CausalConvVerifyParams>.cpu = cpu::causal_conv_verify_variants();
  kernel_entry<CopyKvParams>.cpu = cpu::copy_kv_variants();
  kernel_entry<CopySlotsParams>.cpu = cpu::copy_slots_variants();
  kernel_entry<GatedRmsNormParams>.cpu = cpu::gated_rms_norm_variants();
  kernel_entry<GdnGatesParams>.cpu = cpu::gdn_gates_variants();
  kernel_entry<GdnPrefillParams>.cpu = cpu::gdn_prefill_variants();
  kernel_entry<GdnStepParams>.cpu = cpu::gdn_step_variants();
  kernel_entry<GdnVerifyParams>.cpu = cpu::gdn_verify_variants();
  kernel_entry<L2NormParams>.cpu = cpu::l2norm_variants();
  kernel_entry<LinearParams>.cpu = cpu::linear_variants();
  kernel_entry<MergeStatesParams>.cpu = cpu::merge_states_variants();
  kernel_entry<RmsNormParams>.cpu = cpu::rms_norm_variants();
  kernel_entry<RotaryParams>.cpu = cpu::rotary_variants();
  kernel_entry<RotaryTableParams>.cpu = cpu::rotary_table_variants();
  kernel_entry<SigmoidGateParams>.cpu = cpu::sigmoid_gate_variants();
  kernel_entry<SiluMulParams>.cpu = cpu::silu_mul_variants();
  kernel_entry<StoreKvParams>.cpu = cpu::store_kv_variants();
  kernel_entry<ZeroSlotsParams>.cpu = cpu::zero_slots_variants();
}

}  // namespace

void register_kernels() {
  static std::once_flag once;
  std::call_once(once, register_cpu);
}

}  // namespace hybridattn::core
