// The one file that names the devices: it fills the kernel tables, explicitly, so that a static
// link drops nothing.
#include <mutex>

#include "src/core/context_impl.h"
#include "src/cpu/kernels.h"
#ifdef HYBRIDATTN_CUDA
#include "src/cuda/device.h"
#include "src/cuda/kernels.h"
#endif

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
  kernel_entry<LinearInt8Params>.cpu = cpu::linear_int8_variants();
  kernel_entry<LinearParams>.cpu = cpu::linear_variants();
  kernel_entry<MergeStatesParams>.cpu = cpu::merge_states_variants();
  kernel_entry<QkNormRopeStoreParams>.cpu = cpu::qk_norm_rope_store_variants();
  kernel_entry<RmsNormParams>.cpu = cpu::rms_norm_variants();
  kernel_entry<RotaryParams>.cpu = cpu::rotary_variants();
  kernel_entry<RotaryTableParams>.cpu = cpu::rotary_table_variants();
  kernel_entry<SigmoidGateParams>.cpu = cpu::sigmoid_gate_variants();
  kernel_entry<SiluMulParams>.cpu = cpu::silu_mul_variants();
  kernel_entry<StoreKvParams>.cpu = cpu::store_kv_variants();
  kernel_entry<ZeroSlotsParams>.cpu = cpu::zero_slots_variants();
}

#ifdef HYBRIDATTN_CUDA
void register_cuda() {
  using namespace hybridattn::ops;
  open_cuda = cuda::open_device;
  kernel_entry<AttentionParams>.cuda = cuda::attention_kernels();
  kernel_entry<CausalConvParams>.cuda = cuda::causal_conv_kernels();
  kernel_entry<CausalConvVerifyParams>.cuda = cuda::causal_conv_verify_kernels();
  kernel_entry<CopyKvParams>.cuda = cuda::copy_kv_kernels();
  kernel_entry<CopySlotsParams>.cuda = cuda::copy_slots_kernels();
  kernel_entry<GatedRmsNormParams>.cuda = cuda::gated_rms_norm_kernels();
  kernel_entry<GdnDecodeParams>.cuda = cuda::gdn_decode_kernels();
  kernel_entry<GdnDecodeVerifyParams>.cuda = cuda::gdn_decode_verify_kernels();
  kernel_entry<GdnGatesParams>.cuda = cuda::gdn_gates_kernels();
  kernel_entry<GdnPrefillParams>.cuda = cuda::gdn_prefill_kernels();
  kernel_entry<GdnStepParams>.cuda = cuda::gdn_step_kernels();
  kernel_entry<GdnVerifyParams>.cuda = cuda::gdn_verify_kernels();
  kernel_entry<L2NormParams>.cuda = cuda::l2norm_kernels();
  kernel_entry<LinearParams>.cuda = cuda::linear_kernels();
  kernel_entry<MergeStatesParams>.cuda = cuda::merge_states_kernels();
  kernel_entry<QkNormRopeStoreParams>.cuda = cuda::qk_norm_rope_store_kernels();
  kernel_entry<RmsNormParams>.cuda = cuda::rms_norm_kernels();
  kernel_entry<RotaryParams>.cuda = cuda::rotary_kernels();
  kernel_entry<RotaryTableParams>.cuda = cuda::rotary_table_kernels();
  kernel_entry<SigmoidGateParams>.cuda = cuda::sigmoid_gate_kernels();
  kernel_entry<SiluMulParams>.cuda = cuda::silu_mul_kernels();
  kernel_entry<StoreKvParams>.cuda = cuda::store_kv_kernels();
  kernel_entry<ZeroSlotsParams>.cuda = cuda::zero_slots_kernels();
}
#else
void register_cuda() {}
#endif

}  // namespace

void register_kernels() {
  static std::once_flag once;
  std::call_once(once, [] {
    register_cpu();
    register_cuda();
  });
}

}  // namespace hybridattn::core
