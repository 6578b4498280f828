// The sigmoid output gate on the CPU.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/sigmoid_gate.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/head_rows-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void sigmoid_gate(const ops::SigmoidGateParams& p, core::Launch& launch) {
  const std::int64_t dim = p.x.dim(2);
  for_head_rows(launch, p.x.dim(0), p.x.dim(1), dim, [&](auto t, auto h, float* scratch) {
    if (p.pad != nullptr && p.pad[t] != 0) {
      return zero_row(dim, row3(p.out, t, h), p.out.dtype);
    }
    const float* x = row_f32(row3(p.x, t, h), p.x.dtype, dim, scratch);
    const float* gate = row_f32(row3(p.gate, t, h), p.gate.dtype, dim, scratch + dim);
    float* y = scratch + 2 * dim;
    for_vectors(dim, [&](std::int64_t i, std::int64_t n) {
      store_part(hn::Mul(load_part(x + i, n), sigmoid(load_part(gate + i, n))), y + i, n);
    });
    store_row(y, dim, row3(p.out, t, h), p.out.dtype);
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(sigmoid_gate);

core::CpuVariants<ops::SigmoidGateParams> sigmoid_gate_variants() {
  return variants<ops::SigmoidGateParams>(HWY_DISPATCH_TABLE(sigmoid_gate));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
