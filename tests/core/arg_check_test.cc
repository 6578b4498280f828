// Messages of the argument checks: one line with the op, the argument, what was found and what must
// be.
#include "src/core/arg_check.h"

#include <gtest/gtest.h>

#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

using core::ArgCheck;
using core::Dtypes;

TEST(ArgCheck, BothSizesAndBothTensorsAreNamed) {
  Buffer x(DType::kF32, {3, 8});
  Buffer weight(DType::kF32, {9});
  ArgCheck check("rms_norm");
  check.input("x", x.view(), {"T", "D"}).input("weight", weight.view(), {"D"});
  EXPECT_ERROR(check.status(), kInvalidArgument, "rms_norm:", "weight", "D = 9", "x has 8");
}

TEST(ArgCheck, BindsSymbols) {
  Buffer x(DType::kBF16, {3, 8});
  ArgCheck check("op");
  check.input("x", x.view(), {"T", "D"});
  EXPECT_TRUE(check.ok());
  EXPECT_EQ(check["T"], 3);
  EXPECT_EQ(check["D"], 8);
  EXPECT_EQ(check["Q"], -1);
}

TEST(ArgCheck, RankDtypeDataAndStride) {
  Buffer x(DType::kF64, {2, 4});
  EXPECT_ERROR(ArgCheck("op").input("x", x.view(), {"T"}).status(), kInvalidArgument, "rank 2",
               "must be 1");
  EXPECT_ERROR(ArgCheck("op").input("x", x.view(), {"T", "D"}).status(), kUnsupported, "f64",
               "f32, bf16 or f16");
  Buffer half(DType::kF16, {2, 4});
  EXPECT_ERROR(ArgCheck("op").input("x", half.view(), {"T", "D"}, Dtypes::kF32).status(),
               kUnsupported, "f16", "must be f32");
  EXPECT_ERROR(ArgCheck("op").input("x", half.view(), {"T", "D"}, Dtypes::kStateFloat).status(),
               kUnsupported, "f16", "must be f32 or bf16");
  EXPECT_ERROR(
      ArgCheck("op").input("x", ConstTensorView(nullptr, DType::kF32, {2, 4}), {"T", "D"}).status(),
      kInvalidArgument, "null");
  const ConstTensorView column = ConstTensorView(half.view()).at(0, {2, 2}, {1, 4});
  EXPECT_ERROR(ArgCheck("op").input("x", column, {"T", "D"}).status(), kUnsupported, "stride 4",
               "must be 1");
}

TEST(ArgCheck, NegativeSizes) {
  Buffer x(DType::kF32, {2, 4});
  ConstTensorView view = x.view();
  view.shape[0] = -2;
  EXPECT_ERROR(ArgCheck("op").input("x", view, {"T", "D"}).status(), kInvalidArgument, "T = -2",
               "at least 0");
}

TEST(ArgCheck, AnOutputMustNotAliasItself) {
  Buffer x(DType::kF32, {4});
  const TensorView broadcast = x.view().at(0, {3, 4}, {0, 1});
  EXPECT_TRUE(ArgCheck("op").input("x", broadcast, {"T", "D"}).ok());
  EXPECT_ERROR(ArgCheck("op").output("out", broadcast, {"T", "D"}).status(), kInvalidArgument,
               "stride 0", "dimension 0");
}

TEST(ArgCheck, NothingIsNeededOfAnEmptyTensor) {
  EXPECT_TRUE(
      ArgCheck("op").input("x", ConstTensorView(nullptr, DType::kF32, {0, 4}), {"T", "D"}).ok());
  EXPECT_TRUE(ArgCheck("op").optional_input("x", ConstTensorView(), {"T", "D"}).ok());
}

TEST(ArgCheck, TheFirstErrorStays) {
  ArgCheck check("op");
  check.require(false, "first is ", 1).require(false, "second").require_supported(false, "third");
  check.array("list", nullptr, 2);
  EXPECT_ERROR(check.status(), kInvalidArgument, "op: first is 1");
}

TEST(ArgCheck, ArraysMayBeNullWhenTheyHaveNoElement) {
  EXPECT_TRUE(ArgCheck("op").array("list", nullptr, 0).ok());
  EXPECT_ERROR(ArgCheck("op").array("list", nullptr, 2).status(), kInvalidArgument, "list", "2");
}

}  // namespace
}  // namespace hybridattn::testing
