// F06: outputs of rows that are skipped are zeros, never what the memory held.
#include "tests/support/hybrid_service.h"

namespace hybridattn::testing {
namespace {

TEST(F06SkippedOutputs, OneRealAndSevenPads) {
  for (const Isa isa : supported_isas()) {
    WorldOptions options;
    options.isa = isa;
    HybridService service(options);
    service.record({{0, 8, 0, 8, 64}});
    service.admit(1, 2, {5, 6});
    service.step({{1, RowKind::kDecode, 1}});  // the others are the graph's own padding
    service.expect_zeros(1, 8);
    service.step({{0, RowKind::kPad, 1},
                  {0, RowKind::kPad, 0},
                  {0, RowKind::kPad, 1},
                  {1, RowKind::kDecode, 1},
                  {0, RowKind::kPad, 1}});
    service.expect_zeros(0, 2);
    service.expect_zeros(3, 8);
    service.step({});
    service.expect_zeros(0, 8);
    EXPECT_EQ(service.replays, 3);
  }
}

TEST(F06SkippedOutputs, EagerToo) {
  HybridService service;
  service.admit(1, 2, {5, 6});
  service.step({{0, RowKind::kPad, 3}, {1, RowKind::kDecode, 1}, {0, RowKind::kPad, 1}});
  service.step({{0, RowKind::kPad, 70 - 64}});
}

}  // namespace
}  // namespace hybridattn::testing
