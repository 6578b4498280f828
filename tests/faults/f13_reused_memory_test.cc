// F13, F14, F15: what a page or slot held before its owner came is never read, whatever came first:
// bits of another type, a request that was stopped midway, a state put back from a copy.
#include "tests/support/hybrid_service.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode;

TEST(F13OldBitsInPages, ABehindTheLastKeyOfAPartlyFilledPage) {
  for (const Isa isa : supported_isas()) {
    WorldOptions options;
    options.isa = isa;
    options.page_size = 16;
    HybridService service(options);
    // admit() fills the pages with NaN; 21 keys leave 11 of them in the second page.
    service.admit(1, 0, {3, 9});
    service.step({{1, kPrefill, 20}});
    service.step({{1, kDecode, 1}});
  }
}

TEST(F14PreemptAndResume, RecomputeFromTheStartInTheSameSlot) {
  for (const bool graph : {false, true}) {
    HybridService service;
    if (graph) service.record({{1, 2, 0, 40, 64}});
    for (int round = 0; round < 3; ++round) {
      // Admitted again under the same id: what it computes again must be what it was, bit by bit.
      if (round > 0) service.finish(1);
      service.admit(1, 4, {0, 1, 2, 3, 4, 5, 6, 7});
      service.step({{1, kPrefill, 7}});
      if (round == 0) continue;  // stopped between two chunks
      service.step({{1, kPrefill, 5}});
      for (int i = 0; i < 10; ++i) service.step({{1, kDecode, 1}});
    }
  }
}

TEST(F15RestoredState, ACopyIsUsedAsItIsAndNotCleared) {
  const auto context = make_context();
  GdnStateShape shape;
  shape.num_layers = 2;
  shape.num_v_heads = 2;
  shape.head_v_dim = shape.head_k_dim = 16;
  shape.conv_channels = 96;
  shape.conv_width = 4;
  const auto pool = *GdnStatePool::create(*context, shape, 3);
  const auto bytes_of = [&](std::int32_t slot) {
    const TensorView& view = pool->view().recurrent[1];
    const auto* data = static_cast<const float*>(view.data) + slot * view.stride(0);
    return std::vector<float>(data, data + view.stride(0));
  };
  const auto fill = [&](std::int32_t slot, float value) {
    const TensorView& view = pool->view().recurrent[1];
    std::fill_n(static_cast<float*>(view.data) + slot * view.stride(0), view.stride(0), value);
  };
  const auto slots = *pool->slots().allocate(2);
  fill(slots[0].index, 0.25f);
  ASSERT_OK(pool->copy(slots[0], slots[1]));
  EXPECT_EQ(bytes_of(slots[1].index), bytes_of(slots[0].index));
  // A restore that is cancelled: the slot goes back, and its next owner may clear it.
  ASSERT_OK(pool->slots().release(slots[1]));
  EXPECT_ERROR(pool->copy(slots[0], slots[1]), kFailedPrecondition, "not live");
  const auto next = *pool->slots().allocate(1);
  ASSERT_EQ(next[0].index, slots[1].index);
  EXPECT_ERROR(pool->zero(slots[1]), kFailedPrecondition, "not live");
  EXPECT_EQ(bytes_of(next[0].index), bytes_of(slots[0].index)) << "nothing late was carried out";
  ASSERT_OK(pool->zero(next[0]));
  for (const float value : bytes_of(next[0].index)) ASSERT_EQ(value, 0.0f);
}

}  // namespace
}  // namespace hybridattn::testing
