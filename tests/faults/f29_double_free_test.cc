// F29: a second free is an error that names the slot, and hands nothing to two owners.
#include <gtest/gtest.h>

#include "hybridattn/gdn_state_pool.h"
#include "hybridattn/kv_pool.h"
#include "tests/support/contexts.h"
#include "tests/support/ledger.h"

namespace hybridattn::testing {
namespace {

void free_twice(HandleAllocator& allocator, const char* noun) {
  const auto held = *allocator.allocate(2);
  ASSERT_OK(allocator.release(held[0]));
  EXPECT_ERROR(allocator.release(held[0]), kFailedPrecondition, noun, "0", "not live");
  EXPECT_ERROR(allocator.release({held[1], held[1]}), kFailedPrecondition, noun, "1");
  EXPECT_ERROR(allocator.release({held[1], held[0]}), kFailedPrecondition, noun, "0");
  EXPECT_TRUE(ledger_balances(allocator, {held[1]}));
  const auto first = *allocator.allocate(1);
  const auto second = *allocator.allocate(1);
  EXPECT_NE(first[0].index, second[0].index);
  EXPECT_TRUE(ledger_balances(allocator, {held[1], first[0], second[0]}));
}

TEST(F29DoubleFree, IsAnErrorForSlotsAndPages) {
  const auto context = make_context();
  const auto states = *GdnStatePool::create(*context, {1, 2, 16, 16, 96, 4}, 3);
  free_twice(states->slots(), "state slot");
  const auto pages = *PagedKvPool::create(*context, {1, 16, 1, 8, 8, DType::kBF16}, 3);
  free_twice(pages->pages(), "page");
}

}  // namespace
}  // namespace hybridattn::testing
