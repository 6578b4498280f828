// Causal convolution of drafted tokens on the CPU: each token starts from the window of the one
// that it follows, and every window is kept.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/causal_conv_verify.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/conv-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void causal_conv_verify(const ops::CausalConvVerifyParams& v, core::Launch& launch) {
  const ops::CausalConvParams& p = v.conv;
  for_conv_blocks(p, launch, [&]<int W>(const ConvBlock& block) {
    ConvWindow<W> window;
    window.load_taps(p, block);
    const std::int64_t begin = p.rows.start[block.row];
    const std::int64_t kept = v.verify.kept[block.row];
    for (std::int64_t i = 0; i < p.rows.length[block.row]; ++i) {
      const std::int64_t parent = parent_of(v.verify.parents, begin, i);
      if (parent >= 0) {
        window.load(v.kept, kept + parent, block);
      } else if (p.rows.computed[block.row] == 0) {
        window.clear();
      } else {
        window.load(p.state, p.rows.slot[block.row], block);
      }
      window.run(p, block, begin + i, begin + i + 1);
      window.store(v.kept, kept + i, block);
    }
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(causal_conv_verify);

core::CpuVariants<ops::CausalConvVerifyParams> causal_conv_verify_variants() {
  return variants<ops::CausalConvVerifyParams>(HWY_DISPATCH_TABLE(causal_conv_verify));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
