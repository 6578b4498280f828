// Matrix products with weights as stored. Those in tiles stand in linear_amx-inl.h.
#include "src/core/bf16_dots.h"
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/linear.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/kernels.h"
#include "src/cpu/linear_amx-inl.h"
#include "src/cpu/linear_blocks-inl.h"
#include "src/cpu/linear_lanes-inl.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void run_block_of(const ops::LinearParams& p, const Block& block, const Scratch& scratch) {
  const auto finish = [](auto, auto, auto, float*) {};
#if HWY_NATIVE_DOT_BF16
  const bool halves = p.x.dtype == DType::kBF16 && p.weight.dtype == DType::kBF16;
  if (halves && core::bf16_dots_pay()) {
#if HYBRIDATTN_TARGET_HAS_TILES
    if (fits_lanes(p, block.rows)) return run_lanes(p, block, finish, scratch);
#endif
    return run_block<Bf16Product>(p, block, finish, scratch);
  }
#endif
  switch (p.weight.dtype) {
    case DType::kBF16: return run_block<FloatProduct<BF16>>(p, block, finish, scratch);
    case DType::kF16: return run_block<FloatProduct<F16>>(p, block, finish, scratch);
    default: return run_block<FloatProduct<float>>(p, block, finish, scratch);
  }
}

void linear(const ops::LinearParams& p, core::Launch& launch) {
#if HYBRIDATTN_TARGET_HAS_TILES
  if (p.packed_x != nullptr) return linear_tiles(Bf16Tiles(), p, launch);
#endif
  launch.target = hwy::TargetName(HWY_TARGET);
  for_blocks(p, launch,
             [&](const Block& block, const Scratch& scratch) { run_block_of(p, block, scratch); });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(linear);

core::CpuVariants<ops::LinearParams> linear_variants() {
  return variants<ops::LinearParams>(HWY_DISPATCH_TABLE(linear));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
