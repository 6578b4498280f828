// The gated delta rule for one token on the CPU: one pass over the state, in place.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/gdn_step.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/flush_denormals.h"
#include "src/cpu/gdn-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void gdn_step(const ops::GdnStepParams& p, core::Launch& launch) {
  launch.target = hwy::TargetName(HWY_TARGET);
  const std::int64_t heads = p.v.dim(1);
  parallel_for(launch.executor, p.rows.count * heads, [&](std::int64_t task, int worker) {
    const auto row = static_cast<std::int32_t>(task / heads);
    const std::int64_t head = task % heads;
    if (p.rows.length[row] == 0) return;
    const FlushDenormals flush;
    const std::int64_t token = p.rows.start[row];
    const std::int32_t slot = p.rows.slot[row];
    if (slot == kPadIndex) return zero_row(p.v.dim(2), row3(p.out, token, head), p.out.dtype);
    std::byte* state = row3(p.state, slot, head);
    const std::byte* from = p.rows.computed[row] == 0 ? nullptr : state;
    const StepStates states{from, p.state.stride(2), state, p.state.stride(2)};
    step_head(p, token, head, states, launch.scratch<float>(worker));
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(gdn_step);

core::CpuVariants<ops::GdnStepParams> gdn_step_variants() {
  return variants<ops::GdnStepParams>(HWY_DISPATCH_TABLE(gdn_step));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
