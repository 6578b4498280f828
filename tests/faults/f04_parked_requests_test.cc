// F04, F05: requests that sit out a step keep every byte, whatever the pad rows are and wherever
// the others stand in the batch.
#include "tests/support/hybrid_service.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode, kPad = RowKind::kPad;

TEST(F04PadAliasesParked, HundredStepsOfThreeAmongEight) {
  WorldOptions options;
  options.page_size = 8;
  HybridService service(options);
  service.record({{0, 4, 0, 4, 80}});
  for (std::int32_t i = 0; i < 8; ++i) {
    std::vector<std::int32_t> pages;
    for (std::int32_t p = 0; p < 8; ++p) pages.push_back(i + 8 * p);
    service.admit(static_cast<std::uint64_t>(i), 7 - i, pages, 64);
    service.step({{static_cast<std::uint64_t>(i), kPrefill, 1 + i % 4}});
  }
  for (int step = 0; step < 100 && !::testing::Test::HasFailure(); ++step) {
    const auto first = static_cast<std::uint64_t>(step % 8);
    service.step(
        {{first, kDecode, 1}, {(first + 3) % 8, kDecode, 1}, {(first + 5) % 8, kDecode, 1}});
  }
  EXPECT_EQ(service.replays, 100);
}

TEST(F05PadTakenForPrefill, RowsPermutedThenFewerWithGarbageInThePads) {
  HybridService service;
  service.record({{1, 4, 0, 8, 80}});
  for (std::int32_t i = 0; i < 4; ++i) {
    service.admit(static_cast<std::uint64_t>(i), i, {4 * i, 4 * i + 1, 4 * i + 2});
  }
  service.step({{0, kDecode, 1}, {1, kDecode, 1}, {2, kDecode, 1}, {3, kDecode, 1}});
  service.step({{3, kDecode, 1}, {0, kDecode, 1}, {2, kDecode, 1}, {1, kDecode, 1}});
  // Pads in front, between and behind; one of several tokens stands where a prefill row would.
  service.step({{0, kPad, 3}, {2, kDecode, 1}, {0, kPad, 1}, {0, kDecode, 1}, {1, kDecode, 1}});
  service.step({{1, kPrefill, 4}, {3, kDecode, 1}, {0, kPad, 1}});
  service.step({{3, kDecode, 1}, {1, kPrefill, 1}});
  EXPECT_EQ(service.replays, 5);
}

}  // namespace
}  // namespace hybridattn::testing
