// The gate of a product's outputs: silu(gate) times a sum on its way to memory.
#include "src/cpu/simd-inl.h"

#if defined(HYBRIDATTN_CPU_LINEAR_GATE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_LINEAR_GATE_INL_H_
#undef HYBRIDATTN_CPU_LINEAR_GATE_INL_H_
#else
#define HYBRIDATTN_CPU_LINEAR_GATE_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// silu(gate) * sum, the factors in the order of silu_mul.
HWY_INLINE VF silu_times(VF gate, VF sum) { return hn::Mul(hn::Mul(gate, sigmoid(gate)), sum); }

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_LINEAR_GATE_INL_H_
