// The gates of Gated DeltaNet on the CPU: few numbers, so in double through the shared formulas.
#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/gdn_gates.cc"
#include "hwy/foreach_target.h"

#include "src/core/formulas.h"
#include "src/cpu/head_rows-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

void gdn_gates(const ops::GdnGatesParams& p, core::Launch& launch) {
  const std::int64_t heads = p.a.dim(1);
  // A head without channels of its own is a head of one.
  const std::int64_t channels = p.a.rank == 3 ? p.a.dim(2) : 1;
  const double top = p.allow_neg_eigval ? 2.0 : 1.0;
  // A transcendental costs as much as a hundred plain elements: hence the weight of 64.
  for_head_rows(launch, p.a.dim(0), 1, heads * channels * 64, [&](auto t, auto, float* scratch) {
    const float* b = row_f32(row2(p.b, t), p.b.dtype, heads, scratch);
    const float* a_log = row_f32(p.a_log.data, p.a_log.dtype, heads, scratch + heads);
    auto* beta = reinterpret_cast<float*>(row2(p.beta, t));
    float* rows = scratch + 2 * heads;
    for (std::int64_t h = 0; h < heads; ++h) {
      const float* a = row_f32(row3(p.a, t, h), p.a.dtype, channels, rows);
      const float* bias = row_f32(row2(p.dt_bias, h), p.dt_bias.dtype, channels, rows + channels);
      auto* decay = reinterpret_cast<float*>(row3(p.log_decay, t, h));
      for (std::int64_t c = 0; c < channels; ++c) {
        const double x = static_cast<double>(a[c]) + static_cast<double>(bias[c]);
        decay[c] = static_cast<float>(core::log_decay(a_log[h], x));
      }
      beta[h] = static_cast<float>(top * core::sigmoid(b[h]));
    }
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(gdn_gates);

core::CpuVariants<ops::GdnGatesParams> gdn_gates_variants() {
  return variants<ops::GdnGatesParams>(HWY_DISPATCH_TABLE(gdn_gates));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
