// F02, F03: padding is PAD and nothing else: slot 0, page 0, the last slot and the last page are
// ordinary, and no pad row ever touches one of them.
#include "tests/support/hybrid_service.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode, kPad = RowKind::kPad;

TEST(F02PadClampedToSlot0, TheFirstCallEverIsAPaddedReplay) {
  HandleAllocator slots("state slot", 8);
  const auto all = slots.allocate(8);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->front().index, 0) << "slot 0 is handed out like any other";
  EXPECT_EQ(all->back().index, 7);
  HybridService service;
  service.record({{0, 4, 0, 4, 64}});
  service.admit(10, 0, {0, 1});
  service.admit(11, 1, {2, 3});
  service.admit(12, 2, {4, 5});
  service.step({{10, kDecode, 1}, {11, kDecode, 1}, {12, kDecode, 1}});
  EXPECT_EQ(service.replays, 1);
  service.expect_zeros(3, 4);
  service.step({{11, kDecode, 1}, {12, kDecode, 1}});
  service.step({{10, kDecode, 1}});
}

TEST(F03PadUsedAsIndex, TheLastSlotAndPageAreLiveAndStay) {
  HybridService service;
  service.record({{0, 4, 0, 4, 64}, {2, 2, 0, 24, 64}});
  // The pool is full: 8 slots, and the last page belongs to the last slot's request.
  for (int i = 0; i < 8; ++i) {
    std::vector<std::int32_t> pages;
    for (int p = 0; p < 8; ++p) pages.push_back(8 * i + p);
    service.admit(static_cast<std::uint64_t>(i), i, pages);
    service.step({{static_cast<std::uint64_t>(i), kPrefill, 20}});
  }
  service.step({{0, kPad, 1}, {2, kDecode, 1}, {0, kPad, 1}, {4, kDecode, 1}});
  service.step({{0, kPad, 5}, {1, kPrefill, 3}, {3, kDecode, 1}});
  service.step({{7, kDecode, 1}, {0, kPad, 1}});
  EXPECT_EQ(service.replays, 8 + 3);
}

}  // namespace
}  // namespace hybridattn::testing
