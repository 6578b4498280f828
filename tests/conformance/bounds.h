// The published bounds of every op. `tight` holds against the double reference on the kernel's own
// rounded inputs, itself rounded to the output's type: it is the error of our float32 arithmetic.
// Where that tips a rounding to the neighbour, one element is off by a unit: the check adds that.
// `loose` holds against exact arithmetic on the inputs before rounding: it counts roundings of the
// input type (half a unit in the last place each) that the op's conditioning can show in the
// result. Both are relative, in the 2-norm; a single element may be off by `spread` times as much,
// measured against the largest element.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "tests/support/contexts.h"
#include "tests/support/oracle.h"

namespace hybridattn::testing {

struct OpBound {
  const char* op;
  double tight;
  double loose;
  double spread;
};

// Element by element: a few float32 roundings and Highway's exp (1 to 2 units in the last place).
inline constexpr OpBound kSigmoidGateBound{"sigmoid_gate", 3e-7, 1.5, 4};
inline constexpr OpBound kSiluMulBound{"silu_mul", 3e-7, 2, 4};
inline constexpr OpBound kRotaryBound{"rotary", 2e-7, 1.5, 4};
// cos and sin of double angles, rounded once to float32.
inline constexpr OpBound kRotaryTableBound{"rotary_table", 1e-7, 1, 2};
// In double inside; the loose bound carries the rounding of a through exp(A_log) and softplus.
inline constexpr OpBound kGdnGatesBound{"gdn_gates", 1e-7, 5, 4};
// A sum of squares in float32 and one root.
inline constexpr OpBound kL2NormBound{"l2norm", 3e-7, 1.5, 4};
inline constexpr OpBound kRmsNormBound{"rms_norm", 3e-7, 2, 4};
inline constexpr OpBound kGatedRmsNormBound{"gated_rms_norm", 4e-7, 2, 4};
// At most four products and a sigmoid.
inline constexpr OpBound kCausalConvBound{"causal_conv", 4e-7, 2, 6};
// A chain of float32 updates; the longest row of the table has 130 steps.
inline constexpr OpBound kGdnStepBound{"gdn_step", 5e-7, 2, 8};
// The step behind a convolution, gates and norms: their float32 errors, and the roundings of all
// inputs through them.
inline constexpr OpBound kGdnDecodeBound{"gdn_decode", 2e-6, 12, 8};
// Drafts over states that are bf16 at rest: rounded after each token, and not by the reference.
inline constexpr OpBound kGdnDraftsBF16Bound{"gdn_decode_verify, bf16 states", 5e-3, 12, 8};
// The chunked kernels round the operands of their products to the type of q, k and v: the state, U,
// and the matrices of a chunk. Keys that almost agree show most of it.
inline constexpr OpBound kGdnChunksBF16Bound{"gdn_prefill in chunks", 8e-3, 2, 8};
inline constexpr OpBound kGdnChunksF16Bound{"gdn_prefill in chunks", 1e-3, 2, 8};
inline constexpr OpBound kGdnPrefillBound{"gdn_prefill", 1e-6, 2, 8};
/// Whether a CPU kernel that reports this took its products in bf16.
inline bool products_in_bf16(std::string_view target) {
  return target == "AMX" || target == "AVX3_ZEN4_BF16";
}
/// What the kernel of gdn_prefill that ran is held to, by what it reports.
inline const OpBound& gdn_prefill_bound(std::string_view target, DType dtype) {
  const bool chunked = target == "sm90_fused" || target == "sm90" || target == "sm80";
  if (!chunked && !products_in_bf16(target)) return kGdnPrefillBound;
  return dtype == DType::kBF16 ? kGdnChunksBF16Bound : kGdnChunksF16Bound;
}
// Logits in float32, then exp: an error of the logit is one of the weight.
inline constexpr OpBound kAttentionBound{"attention", 1e-6, 3, 8};
// The weights, rounded to the type of q, each by itself.
inline constexpr OpBound kAttentionBf16Bound{"attention in bf16", 3e-3, 3, 8};
inline constexpr OpBound kAttentionF16Bound{"attention in f16", 4e-4, 3, 8};
/// Whether the kernel that reports this multiplies weights in the type of q.
inline bool rounds_weights(std::string_view target) {
  return target == "sm90" || target == "sm80" || products_in_bf16(target);
}
inline const OpBound& attention_bound(std::string_view target, DType dtype) {
  if (!rounds_weights(target)) return kAttentionBound;
  return dtype == DType::kBF16 ? kAttentionBf16Bound : kAttentionF16Bound;
}
inline constexpr OpBound kMergeStatesBound{"merge_states", 4e-7, 1.5, 6};
// Sums over K in float32: the bound grows with the root of K; the table's K is at most 300.
inline constexpr OpBound kLinearBound{"linear", 8e-7, 2, 8};
// A product that is rounded to the type of the output, and once more behind its gate or the sum.
inline constexpr OpBound kLinearTwiceRoundedBound{"linear, twice rounded", 3e-3, 3, 8};
// Rounded once, nothing computed.
inline constexpr OpBound kStoreKvBound{"store_kv", 0, 1, 4};
// A norm and a rotation behind it, and one division; every input's rounding through both.
inline constexpr OpBound kQkNormRopeStoreBound{"qk_norm_rope_store", 5e-7, 3, 6};

/// HYBRIDATTN_TEST_MEASURE in the environment prints what each check measured.
inline void report(const OpBound& bound, const char* oracle, DType in, DType out, const Error& e) {
  if (std::getenv("HYBRIDATTN_TEST_MEASURE") == nullptr) return;
  std::printf("measured %s %s in %s out %s l2 %.3e max %.3e roundings %.2f\n", bound.op, oracle,
              dtype_name(in).data(), dtype_name(out).data(), e.l2, e.max, e.l2 / half_ulp(in));
}

/// The values rounded once.
inline std::vector<double> round_to(DType dtype, const std::vector<double>& values) {
  Buffer buffer(dtype, {static_cast<std::int64_t>(values.size())});
  buffer.fill(values);
  return buffer.values();
}

/// Checks parts `first` of an output against both oracles. `in` is the least exact input's type.
inline void expect_conforms(Operand& out, const std::vector<std::int64_t>& first,
                            const OpBound& bound, DType in) {
  const DType type = out.kernel().dtype();
  const double rounding = half_ulp(type);
  const auto got = out.of(Source::kKernel).gather(first);
  const auto rounded = round_to(type, out.of(Source::kRounded).gather(first));
  const auto exact = out.of(Source::kExact).gather(first);
  report(bound, "tight", in, type, measure(got, rounded));
  report(bound, "loose", in, type, measure(got, exact));
  // Few elements are near a tie; of a handful of elements each may be.
  const double tipped = bound.tight == 0 ? 0 : rounding * (got.size() < 200 ? 2.0 : 0.2);
  const double worst = bound.tight * bound.spread + (bound.tight == 0 ? 0 : 2.01 * rounding);
  EXPECT_TRUE(near(got, rounded, {bound.tight + tipped, worst})) << bound.op << ", tight";
  const double loose = bound.tight + rounding + bound.loose * half_ulp(in);
  EXPECT_TRUE(near(got, exact, {loose, loose * bound.spread})) << bound.op << ", loose";
  EXPECT_TRUE(out.kernel().gaps_intact()) << bound.op << " wrote beside its output";
}

/// All first indices of an operand.
inline std::vector<std::int64_t> everything(std::int64_t count) {
  std::vector<std::int64_t> out;
  for (std::int64_t i = 0; i < count; ++i) out.push_back(i);
  return out;
}

/// The table: every op once for each instruction set and element type.
class Conformance : public ::testing::TestWithParam<Setup> {
 protected:
  void SetUp() override {
    if (GetParam().cuda_family.empty()) {
      context_ = make_context(GetParam().isa, GetParam().threads);
    } else if (cuda_present()) {
      context_ = make_cuda_context(GetParam().cuda_family);
    } else {
      GTEST_SKIP() << "there is no CUDA device";
    }
  }
  DType dtype() const { return GetParam().dtype; }
  static bool on_cuda() { return !GetParam().cuda_family.empty(); }
  Context& context() { return *context_; }

  /// Runs an op for the kernel and its reference for both oracles. `args` makes the op's arguments
  /// from a Source.
  template <class Op, class Reference, class MakeArgs>
  void run(const Op& op, const Reference& reference, const MakeArgs& args) {
    poison_workspace(context());
    ASSERT_OK(op(context(), args(Source::kKernel)));
    EXPECT_FALSE(context().last_kernel_target().empty());
    reference(args(Source::kRounded));
    reference(args(Source::kExact));
  }

  Random random{20240607};

 private:
  std::unique_ptr<Context> context_;
};

}  // namespace hybridattn::testing
