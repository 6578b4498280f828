// Conformance of the ops that move bytes: store_kv, copy_slots, zero_slots.
#include "tests/conformance/bounds.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

class ConformanceCacheOps : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceCacheOps, ::testing::ValuesIn(all_setups()), setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceCacheOps, ::testing::ValuesIn(cuda_setups()), setup_name);

class ConformanceStoreKv : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceStoreKv, ::testing::ValuesIn(all_setups()), setup_name);

TEST_P(ConformanceStoreKv, StoreKvOfEveryCacheType) {
  const std::int64_t page_size = 3;
  const std::vector<std::int64_t> places{7, kPadIndex, 0, 14, 8, 4};
  const Shape k_shape{5, page_size, 2, 20};
  const Shape v_shape{5, page_size, 2, 9};
  for (const DType cache : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    for (const Layout layout : {Layout::kDense, Layout::kSliced, Layout::kTransposed}) {
      Operand k(dtype(), {6, 2, 20}, layout, random.values(6 * 2 * 20, -3, 3));
      Operand v(dtype(), {6, 2, 9}, layout, random.values(6 * 2 * 9, -3, 3));
      k.poison({1});
      v.poison({1});
      Operand k_cache(cache, k_shape, layout, random.values(5 * 3 * 2 * 20, -1, 1));
      Operand v_cache(cache, v_shape, layout, random.values(5 * 3 * 2 * 9, -1, 1));
      Canary keys(k_cache.kernel());
      Canary values(v_cache.kernel());
      for (const std::int64_t place : places) {
        if (place == kPadIndex) continue;
        keys.allow({place / page_size, place % page_size});
        values.allow({place / page_size, place % page_size});
      }
      run(store_kv, reference::store_kv, [&](Source s) {
        return StoreKvArgs{k(s), v(s), places.data(), k_cache(s), v_cache(s), 0.75f, 3.0f};
      });
      const DType in = half_ulp(cache) > half_ulp(dtype()) ? cache : dtype();
      expect_conforms(k_cache, everything(5), kStoreKvBound, in);
      expect_conforms(v_cache, everything(5), kStoreKvBound, in);
      EXPECT_TRUE(keys.intact());
      EXPECT_TRUE(values.intact());
    }
  }
}

TEST_P(ConformanceCacheOps, CopySlotsMovesBytesAndNothingElse) {
  Buffer pool(dtype(), {6, 3, 35});
  fill_pattern(pool);
  Canary canary(pool);
  canary.allow_each({4, 1});
  const auto first = pool.bytes(0);
  const auto second = pool.bytes(5);
  const std::int32_t source[] = {0, kPadIndex, 5, 2};
  const std::int32_t destination[] = {4, 3, 1, kPadIndex};
  ASSERT_OK(copy_slots(context(), {pool.view(), source, destination, 4}));
  EXPECT_EQ(pool.bytes(4), first);
  EXPECT_EQ(pool.bytes(1), second);
  EXPECT_TRUE(canary.intact());
}

TEST_P(ConformanceCacheOps, ZeroSlotsOfAWiderPool) {
  Buffer wide(dtype(), {6, 2, 17});
  fill_pattern(wide);
  Canary canary(wide);
  canary.allow({3, 0}).allow({0, 0});
  // Slots of 17 elements with a gap of 17 behind each.
  const TensorView pool = wide.view().at(0, {6, 17}, {34, 1});
  const std::int32_t slots[] = {3, kPadIndex, 0};
  ASSERT_OK(zero_slots(context(), {pool, slots, 3}));
  for (std::int64_t i = 0; i < 17; ++i) {
    EXPECT_EQ(wide.get({3, 0, i}), 0.0);
    EXPECT_EQ(wide.get({0, 0, i}), 0.0);
  }
  EXPECT_TRUE(canary.intact());
}

/// Slots of two rows that do not follow each other.
TensorView wrong_strides(Buffer& pool) { return pool.view().at(0, {2, 2, 4}, {16, 8, 1}); }

TEST_P(ConformanceCacheOps, NothingIsWrittenOnAnError) {
  Buffer pool(dtype(), {4, 8});
  fill_pattern(pool);
  const Canary canary(pool);
  const std::int32_t good[] = {0, 1};
  const std::int32_t bad[] = {2, 4};
  EXPECT_ERROR(zero_slots(context(), {pool.view(), bad, 2}), kOutOfRange, "slots[1]", "4");
  EXPECT_ERROR(copy_slots(context(), {pool.view(), good, bad, 2}), kOutOfRange, "destination[1]");
  EXPECT_ERROR(copy_slots(context(), {pool.view(), bad, good, 2}), kOutOfRange, "source[1]");
  EXPECT_ERROR(zero_slots(context(), {pool.view(), good, -1}), kInvalidArgument, "-1");
  EXPECT_ERROR(zero_slots(context(), {pool.view(), nullptr, 1}), kInvalidArgument, "null");
  EXPECT_ERROR(zero_slots(context(), {wrong_strides(pool), good, 1}), kUnsupported, "dense");
  EXPECT_TRUE(canary.intact());
}

}  // namespace
}  // namespace hybridattn::testing
