// The gated delta rule for drafted tokens on the CPU: the step of decode from the state of the
// token that each follows, into a state of its own.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/gdn_verify.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/flush_denormals.h"
#include "src/cpu/gdn-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void verify_head(const ops::GdnVerifyParams& v, std::int32_t row, std::int64_t head,
                 float* scratch) {
  const ops::GdnParams& p = v.gdn;
  const std::int64_t begin = p.rows.start[row];
  const std::int64_t kept = v.verify.kept[row];
  const std::int32_t slot = p.rows.slot[row];
  for (std::int64_t i = 0; i < p.rows.length[row]; ++i) {
    const std::int64_t parent = parent_of(v.verify.parents, begin, i);
    StepStates states{nullptr, v.kept.stride(2), row3(v.kept, kept + i, head), v.kept.stride(2)};
    if (parent >= 0) {
      states.from = row3(v.kept, kept + parent, head);
    } else if (p.rows.computed[row] > 0) {
      states.from = row3(p.state, slot, head);
      states.from_stride = p.state.stride(2);
    }
    step_head(p, begin + i, head, states, scratch);
  }
}

void gdn_verify(const ops::GdnVerifyParams& v, core::Launch& launch) {
  launch.target = hwy::TargetName(HWY_TARGET);
  const ops::GdnParams& p = v.gdn;
  const std::int64_t heads = p.v.dim(1);
  parallel_for(launch.executor, p.rows.count * heads, [&](std::int64_t task, int worker) {
    const auto row = static_cast<std::int32_t>(task / heads);
    const std::int64_t head = task % heads;
    const FlushDenormals flush;
    if (p.rows.slot[row] != kPadIndex) {
      return verify_head(v, row, head, launch.scratch<float>(worker));
    }
    for (std::int64_t i = 0; i < p.rows.length[row]; ++i) {
      zero_row(p.v.dim(2), row3(p.out, p.rows.start[row] + i, head), p.out.dtype);
    }
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(gdn_verify);

core::CpuVariants<ops::GdnVerifyParams> gdn_verify_variants() {
  return variants<ops::GdnVerifyParams>(HWY_DISPATCH_TABLE(gdn_verify));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
