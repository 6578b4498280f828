// Every op refuses shapes that do not fit together, naming the op, the tensor and both sizes.
#include "hybridattn/ops.h"
#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

TEST(Shapes, EachOpNamesItselfTheTensorAndBothSizes) {
  const auto context = make_context();
  Buffer x(DType::kF32, {2, 3, 16});
  Buffer y(DType::kF32, {2, 3, 17});
  Buffer fewer(DType::kF32, {2, 2, 16});
  Buffer w(DType::kF32, {16});
  Buffer w17(DType::kF32, {17});
  Buffer flat(DType::kF32, {2, 16});
  Buffer flat17(DType::kF32, {2, 17});
  Buffer table(DType::kF32, {2, 9});
  EXPECT_ERROR(l2norm(*context, {x.view(), y.view()}), kInvalidArgument, "l2norm: out", "17", "16");
  EXPECT_ERROR(rms_norm(*context, {x.view(), w17.view(), x.view()}), kInvalidArgument,
               "rms_norm: weight", "17", "x has 16");
  EXPECT_ERROR(rms_norm(*context, {flat.view(), w.view(), x.view()}), kInvalidArgument,
               "rms_norm: out", "3", "1");
  EXPECT_ERROR(gated_rms_norm(*context, {x.view(), fewer.view(), w.view(), x.view()}),
               kInvalidArgument, "gated_rms_norm: z", "H = 2", "x has 3");
  EXPECT_ERROR(sigmoid_gate(*context, {x.view(), y.view(), x.view()}), kInvalidArgument,
               "sigmoid_gate: gate", "17", "16");
  EXPECT_ERROR(silu_mul(*context, {flat.view(), flat17.view(), flat.view()}), kInvalidArgument,
               "silu_mul: up", "17", "16");
  EXPECT_ERROR(rotary(*context, {x.view(), table.view(), table.view(), x.view()}), kInvalidArgument,
               "rotary: cos", "R/2 = 9", "D = 16");
  EXPECT_ERROR(linear(*context, {flat.view(), flat17.view(), flat.view()}), kInvalidArgument,
               "linear: weight", "K = 17", "x has 16");
  EXPECT_ERROR(gdn_gates(*context, {flat.view(), flat17.view(), w.view(), w.view(), flat.view(),
                                    flat.view()}),
               kInvalidArgument, "gdn_gates: b", "HV = 17", "a has 16");
  Buffer lse(DType::kF32, {2, 2});
  EXPECT_ERROR(merge_states(*context, {x.view(), lse.view(), x.view(), lse.view(), x.view(), {}}),
               kInvalidArgument, "merge_states: lse_a", "H = 2", "out_a has 3");
}

TEST(Shapes, ScalarsAreChecked) {
  const auto context = make_context();
  Buffer x(DType::kF32, {2, 3, 16});
  Buffer w(DType::kF32, {16});
  EXPECT_ERROR(rms_norm(*context, {x.view(), w.view(), x.view(), -1.0f}), kInvalidArgument,
               "epsilon is -1");
  EXPECT_ERROR(gated_rms_norm(*context, {x.view(), x.view(), w.view(), x.view(), -1.0f}),
               kInvalidArgument, "epsilon is -1");
  EXPECT_ERROR(gated_rms_norm(*context, {x.view(), x.view(), w.view(), x.view(), 1e-6f,
                                         static_cast<GateKind>(9)}),
               kInvalidArgument, "gate is 9");
  EXPECT_TRUE(x.is_poison({}));
}

TEST(Shapes, TheGateOfAProductHasTheFormOfItsOutput) {
  const auto context = make_context();
  Buffer x(DType::kF32, {16, 16});
  Buffer w(DType::kF32, {16, 16});
  Buffer bytes(DType::kI8, {16, 16});
  Buffer scale(DType::kF32, {16});
  Buffer out(DType::kF32, {16, 16});
  Buffer halves(DType::kBF16, {16, 16});
  Buffer narrow(DType::kF32, {16, 8});
  EXPECT_ERROR(linear(*context, {x.view(), w.view(), out.view(), false, halves.view()}),
               kInvalidArgument, "linear: gate is bf16", "out is f32");
  EXPECT_ERROR(linear(*context, {x.view(), w.view(), out.view(), false, narrow.view()}),
               kInvalidArgument, "linear: gate", "N = 8");
  EXPECT_ERROR(linear_int8(*context, {x.view(), bytes.view(), scale.view(), out.view(), false,
                                      halves.view()}),
               kInvalidArgument, "linear_int8: gate is bf16");
  EXPECT_TRUE(out.is_poison({}));
}

TEST(Shapes, OpsThatCannotWorkInPlaceSaySo) {
  const auto context = make_context();
  Buffer x(DType::kF32, {16, 16});
  Buffer w(DType::kF32, {16, 16});
  EXPECT_ERROR(linear(*context, {x.view(), w.view(), x.view()}), kInvalidArgument, "out is x",
               "memory of its own");
  EXPECT_ERROR(linear(*context, {x.view(), w.view(), w.view()}), kInvalidArgument, "out is weight");
  Buffer bytes(DType::kI8, {16, 16});
  Buffer scale(DType::kF32, {16});
  EXPECT_ERROR(linear_int8(*context, {x.view(), bytes.view(), scale.view(), x.view()}),
               kInvalidArgument, "out is x");
  Buffer taps(DType::kF32, {16, 4});
  Buffer state(DType::kF32, {1, 16, 3});
  EXPECT_ERROR(causal_conv(*context, {{}, x.view(), taps.view(), state.view(), x.view()}),
               kInvalidArgument, "out is x");
  Buffer q(DType::kF32, {2, 2, 16});
  Buffer lse(DType::kF32, {2, 2});
  AttentionArgs attention_args;
  attention_args.q = attention_args.k = attention_args.v = q.view();
  attention_args.out = q.view();
  attention_args.options.scale = 1;
  EXPECT_ERROR(attention(*context, attention_args), kInvalidArgument, "out is q");
  Buffer out(DType::kF32, {2, 2, 16});
  attention_args.out = out.view();
  attention_args.lse = lse.view();
  attention_args.lse.strides[0] = 0;
  EXPECT_ERROR(attention(*context, attention_args), kInvalidArgument, "lse is written", "stride 0");
}

}  // namespace
}  // namespace hybridattn::testing
