// F08, F09, F55: what a graph names it owns. Eager steps of other shapes, a workspace that moves,
// other graphs that come and go, poisoned workspaces and other lengths leave its replays right.
#include "tests/support/hybrid_service.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode;

/// Fills what it takes back, so that a stale pointer reads NaN.
class PoisoningAllocator final : public Allocator {
 public:
  void* allocate(std::size_t bytes) noexcept override {
    ++calls;
    void* memory = shared_memory().allocate(bytes);
    std::memset(memory, 0xff, bytes);
    return memory;
  }
  void deallocate(void* pointer, std::size_t bytes) noexcept override {
    std::memset(pointer, 0xff, bytes);
    shared_memory().deallocate(pointer, bytes);
  }
  int calls = 0;
};

TEST(F08BakedAddress, EagerStepsThatMoveTheWorkspaceBetweenReplays) {
  PoisoningAllocator memory;
  WorldOptions options;
  options.allocator = &memory;
  options.pages = 400;
  options.max_tokens = 300;
  HybridService service(options);
  service.record({{0, 2, 0, 2, 200}});
  service.admit(1, 0, {0, 1, 2});
  std::vector<std::int32_t> pages;
  for (std::int32_t p = 100; p < 200; ++p) pages.push_back(p);
  service.admit(2, 1, pages, 400);
  service.step({{1, kDecode, 1}});
  for (const int length : {20, 290}) {
    service.step({{2, kPrefill, length}});  // no size holds it: eager, and larger than all before
    poison_workspace(*service.world.context);
    service.step({{1, kDecode, 1}, {2, kDecode, 1}});
  }
  EXPECT_EQ(service.replays, 3);
}

TEST(F09StalePlan, LengthsThatJump) {
  WorldOptions options;
  options.pages = 1100;
  options.max_tokens = 4096;
  HybridService service(options);
  service.record({{0, 2, 0, 2, 1100}});
  std::vector<std::int32_t> pages;
  for (std::int32_t p = 2; p < 1040; ++p) pages.push_back(p);
  service.admit(1, 0, {0}, 4);
  service.step({{1, kDecode, 1}});
  service.admit(2, 1, pages, 4200);
  service.step({{2, kPrefill, 4095}});
  poison_workspace(*service.world.context);
  service.step({{2, kDecode, 1}});
  service.admit(3, 2, {1050, 1051, 1052, 1053, 1054}, 20);
  service.step({{3, kPrefill, 16}});
  poison_workspace(*service.world.context);
  service.step({{3, kDecode, 1}, {2, kDecode, 1}});
  service.step({{1, kDecode, 1}});
  EXPECT_EQ(service.replays, 4);
}

TEST(F55AllocationInCapture, AGraphIsTheFirstCallAndItsReplaysAllocateNothing) {
  PoisoningAllocator memory;
  WorldOptions options;
  options.allocator = &memory;
  HybridService service(options);
  service.record({{0, 2, 0, 2, 64}});
  service.admit(1, 0, {0, 1, 2, 3});
  const int before = memory.calls;
  for (int i = 0; i < 5; ++i) service.step({{1, kDecode, 1}});
  EXPECT_EQ(service.replays, 5);
  EXPECT_EQ(memory.calls, before);
}

TEST(F55AllocationInCapture, DestroyOneGraphReplayTheOther) {
  PoisoningAllocator memory;
  WorldOptions options;
  options.allocator = &memory;
  HybridService service(options);
  service.record({{0, 2, 0, 2, 64}});
  service.admit(1, 0, {0, 1, 2, 3});
  service.step({{1, kDecode, 1}});
  const auto other = service.world.backend->plan_graph({1, 2, 0, 40, 64});
  ASSERT_TRUE(other.ok());
  auto graph = Graph::record(*service.world.context, [&] { return service.world.run(**other); });
  ASSERT_TRUE(graph.ok());
  graph->reset();
  service.step({{1, kDecode, 1}});
}

}  // namespace
}  // namespace hybridattn::testing
