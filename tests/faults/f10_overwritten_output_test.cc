// F10: an output of a replay is valid until the next one, and using it later is an error.
#include "tests/support/hybrid_service.h"

namespace hybridattn::testing {
namespace {

TEST(F10OverwrittenOutput, TheNextReplayEndsIt) {
  HybridService service;
  service.record({{0, 2, 0, 2, 16}});
  service.admit(1, 0, {0, 1});
  Buffer result(DType::kF32, {2, 2});
  const auto replay = [&](std::int64_t computed) {
    service.world.feed(1, computed, 0);
    const auto batch = ForwardBatch::create({{RowKind::kDecode, 0, {0, 1}, computed, 1}});
    const auto graph = service.runner->run(*batch);
    EXPECT_TRUE(graph.ok()) << graph.status().message();
    return (*graph)->output(result.view());
  };
  const GraphOutput first = replay(0);
  ASSERT_TRUE(first.view().ok());
  EXPECT_EQ(first.view()->data, result.view().data);
  const GraphOutput second = replay(1);
  EXPECT_ERROR(first.view().status(), kFailedPrecondition, "that of replay 1", "replay 2");
  EXPECT_TRUE(second.view().ok());
  service.runner.reset();
  EXPECT_ERROR(second.view().status(), kFailedPrecondition, "the graph is gone");
}

}  // namespace
}  // namespace hybridattn::testing
