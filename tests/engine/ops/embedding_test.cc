// Rows of a table by id.
#include <memory>
#include <vector>

#include "engine/ops/embedding.h"
#include "tests/engine/checkpoint/checkpoint_test_support.h"
#include "tests/engine/ops/engine_op.h"

namespace hybridattn::engine {
namespace {

class Embedding : public EngineOp {};

TEST_F(Embedding, RowsOfEachType) {
  Ints ids({2, 0, 2, 3});
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    Buffer table(dtype, {4, 3});
    std::vector<double> values(12);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i) - 5;
    table.fill(values);
    Buffer out(DType::kF32, {4, 3});
    ASSERT_TRUE(embed(context(), {table.view(), ids.span(), ids.data(), {}, out.view()}).ok());
    ASSERT_TRUE(context().synchronize().ok());
    EXPECT_EQ(out.values(), table.gather({2, 0, 2, 3}));
  }
}

TEST_F(Embedding, IdOutsideOfTheTableWritesNothing) {
  Buffer table(DType::kF32, {4, 3});
  table.fill(std::vector<double>(12, 1));
  for (const std::int32_t bad : {-1, 4, 2147483647, -2147483647 - 1}) {
    Buffer out(DType::kF32, {2, 3});
    Ints ids({0, bad});
    expect_error(embed(context(), {table.view(), ids.span(), ids.data(), {}, out.view()}),
                 StatusCode::kOutOfRange, {std::to_string(bad), "position 1", "[0, 4)"});
    EXPECT_TRUE(out.is_poison({}));
  }
}

TEST_F(Embedding, IdsThatWereChosenWhereTheTableLies) {
  Buffer table(DType::kF32, {4, 3});
  std::vector<double> values(12);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i) - 5;
  table.fill(values);
  const Ints memory({3, 1, 0, 1, 1, 0});  // id and finite of three tokens
  const std::span<NextToken> chosen(
      reinterpret_cast<NextToken*>(const_cast<std::int32_t*>(memory.data())), 3);
  Ints ids({2, chosen_id(0), chosen_id(2), 0, chosen_id(1)});
  Buffer out(DType::kF32, {5, 3});
  ASSERT_TRUE(embed(context(), {table.view(), ids.span(), ids.data(), chosen, out.view()}).ok());
  ASSERT_TRUE(context().synchronize().ok());
  EXPECT_EQ(out.values(), table.gather({2, 3, 1, 0, 0}));
  Ints beyond({chosen_id(3)});
  Buffer one(DType::kF32, {1, 3});
  expect_error(embed(context(), {table.view(), beyond.span(), beyond.data(), chosen, one.view()}),
               StatusCode::kOutOfRange, {"-4", "position 0", "[-3, 4)"});
  EXPECT_TRUE(one.is_poison({}));
}

TEST_F(Embedding, NoIds) {
  Buffer table(DType::kF32, {1, 3});
  const TensorView none(nullptr, DType::kF32, {0, 3});
  EXPECT_TRUE(embed(context(), {table.view(), {}, nullptr, {}, none}).ok());
}

TEST_F(Embedding, GathersRowsWithStrides) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Buffer x(dtype, {3, 2}, Layout::kSliced), out(dtype, {4, 2}, Layout::kSliced);
    x.fill({1, 2, 3, 4, 5, 6});
    Ints rows({2, 0, 0, 1});
    ASSERT_TRUE(gather_rows(context(), x.view(), rows.span(), rows.data(), out.view()).ok());
    ASSERT_TRUE(context().synchronize().ok());
    EXPECT_EQ(out.values(), (std::vector<double>{5, 6, 1, 2, 1, 2, 3, 4}));
  }
}

}  // namespace
}  // namespace hybridattn::engine
