// Copies and zeroes slots on the CPU.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/copy_slots.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/head_rows-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void copy_slots(const ops::CopySlotsParams& p, core::Launch& launch) {
  launch.target = hwy::TargetName(HWY_TARGET);
  const std::int64_t tasks = std::int64_t{p.num_pools} * p.count;
  parallel_for(launch.executor, tasks, [&](std::int64_t task, int) {
    const ops::PoolSlots& slots = p.pools[task / p.count];
    const std::int64_t from = p.source[task % p.count], to = p.destination[task % p.count];
    if (from == kPadIndex || to == kPadIndex) return;
    std::memcpy(slots.pool + to * slots.slot_stride, slots.from + from * slots.from_stride,
                static_cast<std::size_t>(slots.slot_bytes));
  });
}

void zero_slots(const ops::ZeroSlotsParams& p, core::Launch& launch) {
  launch.target = hwy::TargetName(HWY_TARGET);
  parallel_for(launch.executor, p.count, [&](std::int64_t i, int) {
    if (p.slots[i] == kPadIndex) return;
    std::memset(p.pool + p.slots[i] * p.slot_stride, 0, static_cast<std::size_t>(p.slot_bytes));
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(copy_slots);
HWY_EXPORT(zero_slots);

core::CpuVariants<ops::CopySlotsParams> copy_slots_variants() {
  return variants<ops::CopySlotsParams>(HWY_DISPATCH_TABLE(copy_slots));
}

core::CpuVariants<ops::ZeroSlotsParams> zero_slots_variants() {
  return variants<ops::ZeroSlotsParams>(HWY_DISPATCH_TABLE(zero_slots));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
