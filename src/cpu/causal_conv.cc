// Causal convolution on the CPU: a row's state is read, moved over all of its tokens, written.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/causal_conv.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/conv-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void causal_conv(const ops::CausalConvParams& p, core::Launch& launch) {
  for_conv_blocks(p, launch, [&]<int W>(const ConvBlock& block) {
    ConvWindow<W> window;
    window.load_taps(p, block);
    const std::int32_t slot = p.rows.slot[block.row];
    if (p.rows.computed[block.row] == 0) {
      window.clear();
    } else {
      window.load(p.state, slot, block);
    }
    const std::int64_t begin = p.rows.start[block.row];
    window.run(p, block, begin, begin + p.rows.length[block.row]);
    window.store(p.state, slot, block);
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(causal_conv);

core::CpuVariants<ops::CausalConvParams> causal_conv_variants() {
  return variants<ops::CausalConvParams>(HWY_DISPATCH_TABLE(causal_conv));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
