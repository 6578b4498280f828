// Conformance of the ops that move bytes: store_kv, copy_kv, copy_slots,
// copy_slots_of_pools, zero_slots.
#include <cstdint>
#include <cstring>

#include "hybridattn/graph.h"
#include "tests/conformance/bounds.h"
#include "tests/support/canary.h"

namespace hybridattn::testing {
namespace {

class ConformanceCacheOps : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceCacheOps, ::testing::ValuesIn(all_setups()), setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceCacheOps, ::testing::ValuesIn(cuda_setups()), setup_name);

class ConformanceStoreKv : public Conformance {};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceStoreKv, ::testing::ValuesIn(all_setups()), setup_name);
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceStoreKv, ::testing::ValuesIn(cuda_setups()), setup_name);

struct HeadDims {
  std::int64_t k, v;
};

class StoreCase {
 public:
  StoreCase(Random& random, DType type, DType cache, Layout layout, HeadDims dims)
      : k(type, {6, 2, dims.k}, layout, random.values(12 * dims.k, -3, 3)),
        v(type, {6, 2, dims.v}, layout, random.values(12 * dims.v, -3, 3)),
        k_cache(cache, {5, kPageSize, 2, dims.k}, layout, random.values(30 * dims.k, -1, 1)),
        v_cache(cache, {5, kPageSize, 2, dims.v}, layout, random.values(30 * dims.v, -1, 1)),
        k_scales(DType::kF32, {2}, Layout::kDense, random.values(2, 0.2, 3)),
        v_scales(DType::kF32, {2}, Layout::kDense, random.values(2, 0.2, 3)) {
    k.poison({1});
    v.poison({1});
  }
  StoreKvArgs args(Source s) {
    return {k(s), v(s), places.data(), k_cache(s), v_cache(s), 0.75f, 3.0f};
  }
  StoreKvArgs args_by_head(Source s) {
    StoreKvArgs a{k(s), v(s), places.data(), k_cache(s), v_cache(s)};
    a.k_scales = k_scales(s);
    a.v_scales = v_scales(s);
    return a;
  }
  /// What no place names is as it was.
  void allow_places(Canary& canary) const {
    for (const std::int64_t place : places) {
      if (place != kPadIndex) canary.allow({place / kPageSize, place % kPageSize});
    }
  }

  static constexpr std::int64_t kPageSize = 3;
  std::vector<std::int64_t> places{7, kPadIndex, 0, 14, 8, 4};
  Operand k, v, k_cache, v_cache, k_scales, v_scales;
};

TEST_P(ConformanceStoreKv, StoreKvWithAScaleOfEachHead) {
  for (const DType cache : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    for (const Layout layout : {Layout::kTransposed, Layout::kAlignedSliced}) {
      StoreCase c(random, dtype(), cache, layout, {32, 16});
      run(store_kv, reference::store_kv, [&](Source s) { return c.args_by_head(s); });
      const DType in = half_ulp(cache) > half_ulp(dtype()) ? cache : dtype();
      expect_conforms(c.k_cache, everything(5), kStoreKvBound, in);
      expect_conforms(c.v_cache, everything(5), kStoreKvBound, in);
    }
  }
}

TEST_P(ConformanceStoreKv, StoreKvOfEveryCacheType) {
  for (const DType cache : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    for (const HeadDims dims : {HeadDims{20, 9}, HeadDims{32, 16}, HeadDims{64, 24}}) {
      for (const Layout layout : {Layout::kDense, Layout::kSliced, Layout::kTransposed,
                                  Layout::kAlignedSliced, Layout::kAlignedTransposed}) {
        StoreCase c(random, dtype(), cache, layout, dims);
        Canary keys(c.k_cache.kernel());
        Canary values(c.v_cache.kernel());
        c.allow_places(keys);
        c.allow_places(values);
        run(store_kv, reference::store_kv, [&](Source s) { return c.args(s); });
        const DType in = half_ulp(cache) > half_ulp(dtype()) ? cache : dtype();
        expect_conforms(c.k_cache, everything(5), kStoreKvBound, in);
        expect_conforms(c.v_cache, everything(5), kStoreKvBound, in);
        EXPECT_TRUE(keys.intact());
        EXPECT_TRUE(values.intact());
      }
    }
  }
}

TEST_P(ConformanceStoreKv, PlacesOnTheDevice) {
  StoreCase c(random, dtype(), DType::kBF16, Layout::kDense, {32, 16});
  Buffer device(DType::kI64, {6});
  device.fill({1, 9, kPadIndex, 2, 3, 6});
  c.k.kernel().poison({2});
  c.v.kernel().poison({2});
  c.k.kernel().fill_part(1, random, -1, 1);
  c.v.kernel().fill_part(1, random, -1, 1);
  c.places[1] = 10;
  StoreKvArgs args = c.args(Source::kKernel);
  args.device_token_slots = static_cast<const std::int64_t*>(device.view().data);
  const bool cuda = context().device() == DeviceType::kCuda;
  Canary keys(c.k_cache.kernel());
  if (cuda) {
    for (const std::int64_t place : {1, 9, 2, 3, 6}) keys.allow({place / 3, place % 3});
  } else {
    c.allow_places(keys);
  }
  ASSERT_OK(store_kv(context(), args));
  EXPECT_TRUE(keys.intact());
  const Index place = cuda ? Index{3, 0, 1, 5} : Index{3, 1, 1, 5};  // of token 1
  EXPECT_NEAR(c.k_cache.kernel().get(place), c.k.kernel().get({1, 1, 5}) / 0.75, 0.01);
}

/// Floats of every exponent around the range of f8, ties and their neighbours among them.
std::vector<float> floats_around_f8() {
  std::vector<float> out;
  for (std::uint32_t exponent = 127 - 13; exponent <= 127 + 10; ++exponent) {
    for (std::uint32_t sixteenth = 0; sixteenth < 16; ++sixteenth) {
      for (const std::uint32_t step : {0u, 1u, 0x7ffffu}) {
        const std::uint32_t bits = exponent << 23 | sixteenth << 19 | step;
        for (const std::uint32_t sign : {0u, 0x80000000u}) {
          const std::uint32_t both = bits | sign;
          float value = 0;
          std::memcpy(&value, &both, sizeof(value));
          out.push_back(value);
        }
      }
    }
  }
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float edge : {0.0f, -0.0f, infinity, -infinity, 3e38f, -3e38f, 1e-40f}) {
    out.push_back(edge);
  }
  while (out.size() % 8 != 0) out.push_back(std::numeric_limits<float>::quiet_NaN());
  return out;
}

TEST_P(ConformanceStoreKv, F8IsRoundedAndCutAsTheHostDoes) {
  const std::vector<float> floats = floats_around_f8();
  const auto count = static_cast<std::int64_t>(floats.size());
  const std::int64_t place = 0;
  for (const Layout layout : {Layout::kDense, Layout::kAlignedSliced, Layout::kSliced}) {
    Buffer k(DType::kF32, {1, 1, count}, layout), cache(DType::kF8E4M3, {1, 1, 1, count}, layout);
    k.fill({floats.begin(), floats.end()});
    ASSERT_OK(store_kv(context(), {k.view(), k.view(), &place, cache.view(), cache.view()}));
    std::size_t next = 0;
    cache.for_each({}, [&](std::size_t offset) {
      const float value = floats[next++];
      const Byte got = cache.memory()[offset];
      if (std::isnan(value)) {
        EXPECT_EQ(got & 0x7f, 0x7f);
      } else {
        EXPECT_EQ(got, to_f8_e4m3(value).bits) << value;
      }
    });
  }
}

TEST_P(ConformanceStoreKv, OffsetsPast32Bits) {
  // Pages whose bytes begin past 2^31 and 2^32: of such a pool there is the one that is named.
  constexpr std::int64_t kStride = std::int64_t{1} << 28;
  for (const DType cache : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    const auto bytes = static_cast<std::int64_t>(dtype_size(cache));
    for (const std::int64_t page : {7, 8, 15, 16, 31}) {
      Buffer x(dtype(), {1, 2, 16}), near_cache(cache, {1, 2, 2, 16});
      x.fill(random.values(32, -1, 1));
      TensorView far = near_cache.view();
      const auto base = reinterpret_cast<std::uintptr_t>(far.data);
      far.data =
          reinterpret_cast<void*>(base - static_cast<std::uintptr_t>(page * kStride * bytes));
      far.shape[0] = page + 1;
      far.strides[0] = kStride;
      const std::int64_t place = 2 * page + 1;
      ASSERT_OK(store_kv(context(), {x.view(), x.view(), &place, far, far}));
      EXPECT_TRUE(near_cache.is_poison({0, 0}));
      EXPECT_NEAR(near_cache.get({0, 1, 1, 7}), x.get({0, 1, 7}), 0.07);
    }
  }
}

/// Moves pairs one after the other on the host.
void move_places(Buffer& cache, const std::vector<std::int64_t>& source,
                 const std::vector<std::int64_t>& destination) {
  const std::int64_t page_size = cache.shape()[1];
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == kPadIndex || destination[i] == kPadIndex) continue;
    const Index from{source[i] / page_size, source[i] % page_size};
    const Index to{destination[i] / page_size, destination[i] % page_size};
    for (std::int64_t h = 0; h < cache.shape()[2]; ++h) {
      for (std::int64_t d = 0; d < cache.shape()[3]; ++d) {
        cache.set({to[0], to[1], h, d}, cache.get({from[0], from[1], h, d}));
      }
    }
  }
}

TEST_P(ConformanceCacheOps, CopyKvOfLongChains) {
  std::vector<std::int64_t> source, destination;
  for (int i = 0; i < 61; ++i) {
    source.push_back(random.integer(-1, 19));
    destination.push_back(random.integer(-1, 19));
  }
  for (const DType cache : {dtype(), DType::kF8E4M3}) {
    for (const Layout layout : {Layout::kSliced, Layout::kAlignedSliced, Layout::kTransposed}) {
      Buffer k(cache, {4, 5, 2, 32}, layout), v(cache, {4, 5, 2, 48}, layout);
      for (Buffer* x : {&k, &v}) x->fill(random.values(x->num_elements(), -1, 1));
      Buffer wanted_k = k, wanted_v = v;
      move_places(wanted_k, source, destination);
      move_places(wanted_v, source, destination);
      ASSERT_OK(copy_kv(context(), {k.view(), v.view(), source.data(), destination.data(), 61}));
      EXPECT_EQ(k.memory(), wanted_k.memory());
      EXPECT_EQ(v.memory(), wanted_v.memory());
    }
  }
}

TEST_P(ConformanceCacheOps, CopyKvOfPairsOnTheDevice) {
  const std::vector<std::int64_t> host{kPadIndex, 0};
  Buffer source(DType::kI64, {2}), destination(DType::kI64, {2});
  source.fill({1, 3});
  destination.fill({2, kPadIndex});
  Buffer k(dtype(), {2, 2, 1, 8});
  k.fill(random.values(32, -1, 1));
  Buffer wanted = k;
  const bool cuda = context().device() == DeviceType::kCuda;
  if (cuda) move_places(wanted, {1}, {2});
  CopyKvArgs args{k.view(), k.view(), host.data(), host.data(), 2};
  args.device_source = static_cast<const std::int64_t*>(source.view().data);
  args.device_destination = static_cast<const std::int64_t*>(destination.view().data);
  ASSERT_OK(copy_kv(context(), args));
  EXPECT_EQ(k.memory(), wanted.memory());
}

TEST_P(ConformanceCacheOps, CopyKvMovesInOrder) {
  Buffer k(dtype(), {3, 4, 2, 24}, Layout::kSliced), v(dtype(), {3, 4, 2, 40}, Layout::kSliced);
  for (Buffer* x : {&k, &v}) x->fill(random.values(x->num_elements(), -1, 1));
  const Buffer k_before = k, v_before = v;
  Canary k_canary(k), v_canary(v);
  // 4 <- 5, 5 <- 7, 6 <- 9: each source is read before or after it is written over, in order.
  const std::vector<std::int64_t> source{5, 7, kPadIndex, 9, 2}, destination{4, 5, 8, 6, kPadIndex};
  for (Canary* canary : {&k_canary, &v_canary}) canary->allow({1, 0}).allow({1, 1}).allow({1, 2});
  ASSERT_OK(copy_kv(context(), {k.view(), v.view(), source.data(), destination.data(), 5}));
  EXPECT_TRUE(k_canary.intact());
  EXPECT_TRUE(v_canary.intact());
  for (const auto& [to, from] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{4, 5}, {5, 7}, {6, 9}}) {
    for (std::int64_t h = 0; h < 2; ++h) {
      for (std::int64_t i = 0; i < 24; ++i) {
        ASSERT_EQ(k.get({to / 4, to % 4, h, i}), k_before.get({from / 4, from % 4, h, i}));
        ASSERT_EQ(v.get({to / 4, to % 4, h, i}), v_before.get({from / 4, from % 4, h, i}));
      }
    }
  }
  const std::vector<std::int64_t> outside{12};
  EXPECT_ERROR(copy_kv(context(), {k.view(), v.view(), outside.data(), source.data(), 1}),
               kOutOfRange, "pair 0", "12");
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

/// Slots of two rows that do not follow each other.
TensorView wrong_strides(Buffer& pool) { return pool.view().at(0, {2, 2, 4}, {16, 8, 1}); }

/// Pools of slots that differ in size, type and alignment, more of them than one launch takes; of
/// every third the sources are slots of another pool, which has more.
class SlotPools {
 public:
  explicit SlotPools(DType dtype) {
    for (int i = 0; i < 93; ++i) {
      const std::int64_t wide = i % 4 == 0 ? 17 : i % 4 == 1 ? 16 : i == 42 ? 5000 : 64;
      pools_.emplace_back(i % 2 == 0 ? dtype : DType::kI32, Shape{5, 2, wide});
      fill_pattern(pools_.back());
      others_.emplace_back(i % 2 == 0 ? dtype : DType::kI32, Shape{8, 2, wide});
      fill_pattern(others_.back());
    }
    for (std::size_t i = 0; i < pools_.size(); ++i) {
      views_.push_back({pools_[i].view(), {}});
      if (i % 3 == 0) views_[i].from = others_[i].view();
    }
  }

  std::vector<SlotPool>& views() { return views_; }
  std::size_t size() const { return pools_.size(); }
  Buffer& pool(std::size_t i) { return pools_[i]; }
  std::vector<Byte> source(std::size_t i, std::int64_t slot) {
    return (i % 3 == 0 ? others_ : pools_)[i].bytes(slot);
  }

 private:
  std::vector<Buffer> pools_, others_;
  std::vector<SlotPool> views_;
};

TEST_P(ConformanceCacheOps, CopySlotsOfPoolsMovesTheSlotsOfEach) {
  SlotPools pools(dtype());
  const std::int32_t source[] = {1, kPadIndex, 4, 2}, destination[] = {0, 0, 3, kPadIndex};
  std::vector<Canary> canaries;
  std::vector<std::vector<Byte>> wanted;
  for (std::size_t i = 0; i < pools.size(); ++i) {
    canaries.emplace_back(pools.pool(i)).allow_each({0, 3});
    for (const std::int64_t slot : {1, 4}) wanted.push_back(pools.source(i, slot));
  }
  ASSERT_OK(copy_slots_of_pools(context(), {pools.views(), source, destination, 4}));
  for (std::size_t i = 0; i < pools.size(); ++i) {
    EXPECT_EQ(pools.pool(i).bytes(0), wanted[2 * i]) << "pool " << i;
    EXPECT_EQ(pools.pool(i).bytes(3), wanted[2 * i + 1]) << "pool " << i;
    EXPECT_TRUE(canaries[i].intact()) << "pool " << i;
  }
  ASSERT_OK(copy_slots_of_pools(context(), {{}, source, destination, 4}));
  ASSERT_OK(copy_slots_of_pools(context(), {pools.views(), nullptr, nullptr, 0}));
}

TEST_P(ConformanceCacheOps, CopySlotsOfPoolsIsOneLaunch) {
  SlotPools pools(dtype());
  Buffer source(DType::kI32, {2}), destination(DType::kI32, {2});
  source.fill({1, 2});
  destination.fill({0, 3});
  const auto ids = [](Buffer& buffer) {
    return static_cast<const std::int32_t*>(buffer.view().data);
  };
  const auto launches = [&](std::size_t count) {
    const auto graph = Graph::record(context(), [&] {
      return copy_slots_of_pools(context(), {{pools.views().data(), count},
                                             ids(source),
                                             ids(destination),
                                             2,
                                             ids(source),
                                             ids(destination)});
    });
    EXPECT_OK(graph.status());
    return graph.ok() ? (*graph)->num_calls() : 0;
  };
  EXPECT_EQ(launches(90), 1u);
  EXPECT_EQ(launches(93), 2u);
}

TEST_P(ConformanceCacheOps, CopySlotsOfPoolsChecksAllOfThemFirst) {
  SlotPools pools(dtype());
  const std::int32_t good[] = {0, 1}, bad[] = {2, 5}, in_others[] = {2, 7};
  std::vector<Canary> canaries;
  for (std::size_t i = 0; i < pools.size(); ++i) canaries.emplace_back(pools.pool(i));
  const auto copy = [&](const std::int32_t* source, const std::int32_t* destination) {
    return copy_slots_of_pools(context(), {pools.views(), source, destination, 2});
  };
  EXPECT_ERROR(copy(good, bad), kOutOfRange, "copy_slots_of_pools", "destination[1] is 5",
               "[0, 5)");
  EXPECT_ERROR(copy(in_others, good), kOutOfRange, "source[1] is 7", "[0, 5)");
  EXPECT_ERROR(copy(nullptr, good), kInvalidArgument, "source is null");
  pools.views()[92].from = pools.pool(91).view();
  EXPECT_ERROR(copy(good + 1, good), kInvalidArgument, "pools[92].from");
  pools.views()[92] = {wrong_strides(pools.pool(92)), {}};
  EXPECT_ERROR(copy(good, good), kUnsupported, "pools[92].pool", "dense");
  pools.views()[92] = {};
  EXPECT_ERROR(copy(good, good), kInvalidArgument, "pools[92].pool", "rank 0");
  for (const Canary& canary : canaries) EXPECT_TRUE(canary.intact());
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
