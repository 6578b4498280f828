// Views of typed memory.
#include "hybridattn/tensor.h"

#include <gtest/gtest.h>

namespace hybridattn::testing {
namespace {

TEST(TensorViewTest, ThePointerSaysTheType) {
  float floats[6] = {};
  const BF16 brains[6] = {};
  F16 halves[6] = {};
  const TensorView a(floats, {2, 3});
  const ConstTensorView b(brains, {3, 2}), c(halves, {6});
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_EQ(b.dtype, DType::kBF16);
  EXPECT_EQ(c.dtype, DType::kF16);
  EXPECT_EQ(a.data, floats);
  EXPECT_EQ(b.data, brains);
  EXPECT_EQ(a.rank, 2);
  EXPECT_EQ(a.stride(0), 3);
  EXPECT_EQ(a.stride(1), 1);
}

template <class View, class T>
concept Views = requires(T* pointer) {
  View(pointer, {1});
};
static_assert(Views<ConstTensorView, float> && Views<ConstTensorView, const float>);
static_assert(Views<TensorView, float>);

}  // namespace
}  // namespace hybridattn::testing
