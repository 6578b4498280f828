// F52: a prompt as long as a row of drafts is still a prompt: what a row is, the caller says.
#include "tests/support/hybrid_world.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kVerify = RowKind::kVerify;
constexpr std::int32_t kDrafts = 3;

class F52VerifyOrPrefill : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(EagerAndReplayed, F52VerifyOrPrefill, ::testing::Bool());

TEST_P(F52VerifyOrPrefill, PromptsOfEveryLengthBesideDrafts) {
  WorldOptions options;
  options.kept = 2 * (kDrafts + 1);
  HybridWorld world(options);
  std::shared_ptr<Plan> plan;
  std::unique_ptr<Graph> graph;
  if (GetParam()) {
    plan = *world.backend->plan_graph({3, 1, 2, 24, 24});
    graph = std::move(*Graph::record(*world.context, [&] { return world.run(*plan); }));
  }
  AloneRequest drafting(50, options, 64);
  const std::vector<std::int32_t> pages{1, 2, 3, 4, 5, 6, 7, 8};
  const auto run = [&](const std::vector<BatchRow>& rows) {
    const auto batch = *ForwardBatch::create(rows);
    if (GetParam()) {
      EXPECT_OK(world.backend->replan(*plan, batch));
      EXPECT_OK(graph->replay());
      return;
    }
    plan = *world.backend->plan(batch);
    EXPECT_OK(world.run(*plan));
  };
  world.poison_tokens();
  world.feed(50, 0, 0);
  run({{kPrefill, 7, pages, 0, 1}});
  EXPECT_EQ(world.output(0), drafting.advance(kPrefill, 1)[0]);
  std::int64_t computed = 1;
  for (std::int32_t length = 1; length <= kDrafts + 2; ++length) {
    // Slots and pages of a former owner, all poison: the prompt, whole and as its last single
    // token.
    world.poison_slot(2);
    world.poison_page(20);
    world.poison_page(21);
    AloneRequest prompt(static_cast<std::uint64_t>(length), options, 16);
    world.poison_tokens();
    std::int32_t token = 0;
    for (std::int32_t i = 0; i <= kDrafts; ++i) world.feed(50, computed + i, token++);
    for (std::int32_t i = 0; i < length; ++i) {
      world.feed(static_cast<std::uint64_t>(length), i, token++);
    }
    run({{kVerify, 7, pages, computed, kDrafts + 1}, {kPrefill, 2, {20, 21}, 0, length}});
    for (std::int32_t i = 0; i <= kDrafts; ++i) {
      EXPECT_EQ(world.output(i), drafting.advance(RowKind::kDecode, 1)[0]);
    }
    const auto wanted = prompt.advance(kPrefill, length);
    for (std::int32_t i = 0; i < length; ++i) {
      EXPECT_EQ(world.output(kDrafts + 1 + i), wanted[static_cast<std::size_t>(i)]) << length;
    }
    EXPECT_EQ(world.slot_bytes(2), prompt.state()) << "a prompt writes its state at once";
    ASSERT_OK(world.backend->commit(*plan, std::vector<std::int32_t>{kDrafts, -1}));
    EXPECT_EQ(world.slot_bytes(7), drafting.state());
    computed += kDrafts + 1;
    // One more token of the prompt alone, beside drafts: a last chunk of one.
    world.poison_tokens();
    world.feed(50, computed, 0);
    world.feed(static_cast<std::uint64_t>(length), length, 1);
    run({{kVerify, 7, pages, computed, 1}, {kPrefill, 2, {20, 21}, length, 1}});
    EXPECT_EQ(world.output(1), prompt.advance(kPrefill, 1)[0]) << length;
    EXPECT_EQ(world.output(0), drafting.advance(RowKind::kDecode, 1)[0]);
    ASSERT_OK(world.backend->commit(*plan, std::vector<std::int32_t>{0, -1}));
    ++computed;
  }
}

}  // namespace
}  // namespace hybridattn::testing
