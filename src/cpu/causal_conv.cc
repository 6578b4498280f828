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

/// All tokens of a row, in pieces that end at its checkpoints.
template <int W>
void run_row(const ops::CausalConvParams& p, const ConvBlock& block, ConvWindow<W>& window) {
  const std::int64_t start = p.rows.start[block.row];
  const RowCheckpoints& all = p.checkpoints.host;
  std::int64_t begin = start;
  for (std::int32_t i = ops::first_checkpoint(all, block.row);
       i < all.count && all.row[i] == block.row; ++i) {
    if (all.slot[i] == kPadIndex) continue;
    window.run(p, block, begin, start + all.tokens[i]);
    window.store(p.state, all.slot[i], block);
    begin = start + all.tokens[i];
  }
  window.run(p, block, begin, start + p.rows.length[block.row]);
}

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
    run_row(p, block, window);
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
