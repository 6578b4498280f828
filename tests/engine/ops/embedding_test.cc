// Rows of a table by id.
#include <memory>
#include <vector>

#include "engine/ops/embedding.h"
#include "tests/engine/checkpoint/checkpoint_test_support.h"

namespace hybridattn::engine {
namespace {

class Embedding : public testing::Test {
 protected:
  Embedding() {
    ContextOptions options;
    options.threads = 2;
    context_ = std::move(Context::create(options)).value();
  }
  std::unique_ptr<Context> context_;
};

TEST_F(Embedding, RowsOfEachType) {
  const std::vector<std::int32_t> ids = {2, 0, 2, 3};
  std::vector<float> f32(4 * 3);
  std::vector<BF16> bf16(f32.size());
  std::vector<F16> f16(f32.size());
  for (std::size_t i = 0; i < f32.size(); ++i) {
    f32[i] = static_cast<float>(i) - 5;
    bf16[i] = to_bf16(f32[i]);
    f16[i] = to_f16(f32[i]);
  }
  const ConstTensorView tables[] = {ConstTensorView(f32.data(), DType::kF32, {4, 3}),
                                    ConstTensorView(bf16.data(), DType::kBF16, {4, 3}),
                                    ConstTensorView(f16.data(), DType::kF16, {4, 3})};
  for (const ConstTensorView& table : tables) {
    std::vector<float> out(4 * 3, -99);
    ASSERT_TRUE(embed(*context_, table, ids, TensorView(out.data(), DType::kF32, {4, 3})).ok());
    for (std::size_t t = 0; t < 4; ++t) {
      for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(out[t * 3 + i], f32[static_cast<std::size_t>(ids[t]) * 3 + i]);
      }
    }
  }
}

TEST_F(Embedding, IdOutsideOfTheTableWritesNothing) {
  const std::vector<float> table(4 * 3, 1);
  const ConstTensorView view(table.data(), DType::kF32, {4, 3});
  for (const std::int32_t bad : {-1, 4, 2147483647, -2147483647 - 1}) {
    std::vector<float> out(2 * 3, -99);
    const std::vector<std::int32_t> ids = {0, bad};
    expect_error(embed(*context_, view, ids, TensorView(out.data(), DType::kF32, {2, 3})),
                 StatusCode::kOutOfRange, {std::to_string(bad), "position 1", "[0, 4)"});
    EXPECT_EQ(out, std::vector<float>(2 * 3, -99));
  }
}

TEST_F(Embedding, NoIds) {
  const std::vector<float> table(3, 1);
  EXPECT_TRUE(embed(*context_, ConstTensorView(table.data(), DType::kF32, {1, 3}), {},
                    TensorView(nullptr, DType::kF32, {0, 3}))
                  .ok());
}

TEST_F(Embedding, GathersRowsWithStrides) {
  const std::vector<float> x = {1, 2, 0, 3, 4, 0, 5, 6, 0};
  std::vector<float> out(4 * 4, -1);
  const std::vector<std::int32_t> rows = {2, 0, 0, 1};
  ASSERT_TRUE(gather_rows(*context_, ConstTensorView(x.data(), DType::kF32, {3, 2}, {3, 1}), rows,
                          TensorView(out.data(), DType::kF32, {4, 2}, {4, 1}))
                  .ok());
  EXPECT_EQ(out, (std::vector<float>{5, 6, -1, -1, 1, 2, -1, -1, 1, 2, -1, -1, 3, 4, -1, -1}));
}

}  // namespace
}  // namespace hybridattn::engine
