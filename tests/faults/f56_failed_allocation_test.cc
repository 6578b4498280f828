// F56: whichever allocation fails, the call says so, holds nothing, and works when it is tried
// again.
#include <functional>

#include "tests/support/hybrid_world.h"
#include "tests/support/ledger.h"

namespace hybridattn::testing {
namespace {

/// Gives nothing at its kth call.
class FailingAllocator final : public Allocator {
 public:
  void* allocate(std::size_t bytes) noexcept override {
    ++calls;
    return calls == fail_at ? nullptr : inner.allocate(bytes);
  }
  void deallocate(void* pointer, std::size_t bytes) noexcept override {
    inner.deallocate(pointer, bytes);
  }

  CountingAllocator inner;
  std::int64_t calls = 0, fail_at = 0;
};

/// Calls `make` with the kth allocation failing, for every k that it reaches; then once without.
void fail_each(const std::function<Status(Allocator&)>& make, std::int64_t least) {
  for (std::int64_t k = 1;; ++k) {
    FailingAllocator memory;
    memory.fail_at = k;
    const Status status = make(memory);
    EXPECT_EQ(memory.inner.held, 0u) << "after failure " << k;
    if (memory.calls < k) {
      EXPECT_OK(status);
      EXPECT_GE(k - 1, least) << "fewer allocations than this test is about";
      return;
    }
    EXPECT_ERROR(status, kResourceExhausted, "allocator gave no", "bytes");
  }
}

Result<std::unique_ptr<Context>> context_of(Allocator& memory) {
  ContextOptions options;
  options.threads = 1;
  options.allocator = &memory;
  return Context::create(options);
}

TEST(F56FailedAllocation, OfPools) {
  const PagedKvShape kv{2, 4, 2, 16, 16, DType::kF32};
  const GdnStateShape gdn{2, 4, 32, 16, 192, 4, DType::kF32, DType::kF32};
  fail_each(
      [&](Allocator& memory) -> Status {
        auto context = context_of(memory);
        if (!context.ok()) return context.status();
        auto pages = PagedKvPool::create(**context, kv, 8);
        if (!pages.ok()) return pages.status();
        auto states = GdnStatePool::create(**context, gdn, 3, 2);
        return states.status();
      },
      2);
}

TEST(F56FailedAllocation, OfPlansRunsAndGraphs) {
  Buffer k(DType::kF32, {8, 4, 2, 16}), v = k, x(DType::kF32, {6, 4, 16}), out = x;
  Buffer keys(DType::kF32, {6, 2, 16}), norm(DType::kF32, {16});
  RadixAttention layer;
  layer.num_heads = 4;
  layer.num_kv_heads = 2;
  layer.head_dim = layer.v_head_dim = 16;
  layer.scaling = 0.25f;
  const auto batch = *ForwardBatch::create({{RowKind::kPrefill, 0, {1, 2}, 0, 6}});
  AttentionRunArgs args;
  args.q = x.view();
  args.k = args.v = keys.view();
  args.q_norm = args.k_norm = norm.view();
  args.out = out.view();
  fail_each(
      [&](Allocator& memory) -> Status {
        auto context = context_of(memory);
        if (!context.ok()) return context.status();
        auto backend = PagedAttnBackend::create(**context, {{k.view()}, {v.view()}});
        if (!backend.ok()) return backend.status();
        const Status declared = (*backend)->set_layers({&layer, 1});
        if (!declared.ok()) return declared;
        auto plan = (*backend)->plan(batch);
        if (!plan.ok()) return plan.status();
        const Status ran = (*backend)->run_attention(**plan, layer, args);
        if (!ran.ok()) return ran;
        auto graph_plan = (*backend)->plan_graph({1, 0, 0, 6, 2});
        if (!graph_plan.ok()) return graph_plan.status();
        auto graph = Graph::record(
            **context, [&] { return (*backend)->run_attention(**graph_plan, layer, args); });
        if (!graph.ok()) return graph.status();
        const Status planned = (*backend)->replan(**graph_plan, batch);
        return planned.ok() ? (*graph)->replay() : planned;
      },
      4);
}

class F56Table : public ::testing::Test {
 protected:
  void expect_held(std::int32_t rows, std::int32_t held_slots, std::int32_t held_pages) {
    EXPECT_OK(table.check());
    EXPECT_OK(pages.check());
    EXPECT_OK(slots.check());
    EXPECT_EQ(table.num_open(), rows);
    EXPECT_EQ(slots.capacity() - slots.num_free(), held_slots);
    EXPECT_EQ(pages.capacity() - pages.num_free(), held_pages);
  }
  HandleAllocator pages{"page", 8}, slots{"state slot", 2};
  RequestTable table{pages, &slots, 4, 3, 6};
};

TEST_F(F56Table, WhatFailsHoldsNothingAndCanBeTriedAgain) {
  for (HandleAllocator* failing : {&slots, &pages}) {
    failing->fail_allocation(1);
    EXPECT_ERROR(table.open(9).status(), kResourceExhausted, "fail_allocation");
    expect_held(0, 0, 0);
  }
  const Handle row = *table.open(9);
  expect_held(1, 1, 3);
  pages.fail_allocation(1);
  EXPECT_ERROR(table.reserve(row, 17), kResourceExhausted, "fail_allocation");
  expect_held(1, 1, 3);
  EXPECT_OK(table.reserve(row, 17));
  expect_held(1, 1, 5);
}

TEST_F(F56Table, WhatRunsOutInTheMiddleHoldsNothing) {
  const Handle first = *table.open(20);
  expect_held(1, 1, 5);
  EXPECT_ERROR(table.open(16).status(), kResourceExhausted, "4 pages", "3 of 8");
  expect_held(1, 1, 5);  // the row and the slot that it had already are free again
  EXPECT_ERROR(table.open(1000).status(), kResourceExhausted, "250 pages", "at most 6");
  EXPECT_ERROR(table.open(-1).status(), kInvalidArgument, "tokens is -1");
  const Handle second = *table.open();
  EXPECT_ERROR(table.open().status(), kResourceExhausted, "state slot");
  expect_held(2, 2, 5);
  ASSERT_OK(table.close(first));
  ASSERT_OK(table.close(second));
  expect_held(0, 0, 0);
}

TEST_F(F56Table, ARowWhosePageSomebodyReleasedIsNotClosedByHalf) {
  const Handle row = *table.open(9);
  const auto held = *pages.allocate(1);  // another's, to be told apart
  // An engine that releases a page of the table behind its back.
  std::vector<Handle> stolen;
  for (std::uint32_t generation = 1; generation < 3; ++generation) {
    const Handle guess{table.pages_of(row)[1], generation, held[0].owner};
    if (pages.live(guess)) stolen.push_back(guess);
  }
  ASSERT_EQ(stolen.size(), 1u);
  ASSERT_OK(pages.release(stolen[0]));
  EXPECT_ERROR(table.close(row), kFailedPrecondition, "page", "not live");
  EXPECT_TRUE(table.is_open(row));
  EXPECT_EQ(slots.num_free(), 1) << "the slot was not released alone";
  EXPECT_EQ(pages.num_free(), 8 - 3);
  EXPECT_ERROR(table.check(), kInternal, "row 0 has page");
}

}  // namespace
}  // namespace hybridattn::testing
