// F01: pad rows of a replay must not keep the slots of the batch before.
#include "tests/support/hybrid_service.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode;

TEST(F01StaleSlot, AShorterReplayLeavesTheFormerRowsAlone) {
  HybridService service;
  service.record({{0, 4, 0, 4, 64}});
  const std::int32_t slots[] = {3, 5, 6, 7};
  for (int i = 0; i < 4; ++i) {
    service.admit(static_cast<std::uint64_t>(i), slots[i], {4 * i, 4 * i + 1, 4 * i + 2});
    service.step({{static_cast<std::uint64_t>(i), kPrefill, 3 + i}});
  }
  service.step({{0, kDecode, 1}, {1, kDecode, 1}, {2, kDecode, 1}, {3, kDecode, 1}});
  // Slot 3 and its pages are checked byte by byte: no row names them.
  service.step({{1, kDecode, 1}, {2, kDecode, 1}, {3, kDecode, 1}});
  service.expect_zeros(3, 4);
  service.step({{3, kDecode, 1}});
  service.expect_zeros(1, 4);
  service.step({{0, kDecode, 1}, {3, kDecode, 1}});
  EXPECT_EQ(service.replays, 4);
}

/// The same through the upstream verbs, whose row is padding iff its index is PAD or its length 0.
class F01UpstreamVerbs : public ::testing::Test {
 protected:
  void SetUp() override {
    world.backend->set_request_table(&table);
    ASSERT_OK(world.backend->init_cuda_graph_state(4, 4));
    const std::vector<std::int32_t> pads(4, kPadIndex);
    const std::vector<std::int32_t> zeros(4, world.backend->get_cuda_graph_seq_len_fill_value());
    ASSERT_OK(world.backend->init_forward_metadata_capture_cuda_graph(4, 4, pads, zeros,
                                                                      ForwardMode::kDecode));
    auto made =
        Graph::record(*world.context, [&] { return world.run(*world.backend->current_plan()); });
    ASSERT_TRUE(made.ok()) << made.status().message();
    graph = std::move(*made);
    for (int i = 0; i < 4; ++i) {
      rows.push_back(*table.open());
      ASSERT_OK(table.reserve(rows.back(), 8));
    }
  }
  Status replay(const std::vector<std::int32_t>& indices,
                const std::vector<std::int32_t>& lengths) {
    world.poison_tokens();
    std::int64_t sum = 0;
    for (std::size_t i = 0; i < indices.size(); ++i) {
      sum += lengths[i];
      if (indices[i] >= 0 && lengths[i] > 0) {
        world.feed(static_cast<std::uint64_t>(indices[i]), lengths[i] - 1,
                   static_cast<std::int32_t>(i));
      }
    }
    const Status planned = world.backend->init_forward_metadata_replay_cuda_graph(
        4, indices, lengths, sum, ForwardMode::kDecode, lengths);
    return planned.ok() ? graph->replay() : planned;
  }
  void expect_alone(std::int32_t row, std::int32_t steps) {
    AloneRequest alone(static_cast<std::uint64_t>(row), world.options, 16);
    for (int i = 0; i < steps; ++i) alone.advance(kDecode, 1);
    EXPECT_EQ(world.slot_bytes(table.slot_id(rows[static_cast<std::size_t>(row)])), alone.state());
  }

  HandleAllocator pages{"page", 64}, slots{"state slot", 8};
  RequestTable table{pages, &slots, 4, 8, 4};
  HybridWorld world;
  std::unique_ptr<Graph> graph;
  std::vector<Handle> rows;
};

TEST_F(F01UpstreamVerbs, PadsByIndexAndByLength) {
  ASSERT_OK(replay({0, 1, 2, 3}, {1, 1, 1, 1}));
  for (const Handle& row : rows) ASSERT_OK(table.advance(row, 1));
  // Row 0 is left out; its index may even stand in a pad row, as in the upstream runner's buffers.
  ASSERT_OK(replay({1, 2, 3, 0}, {2, 2, 2, 0}));
  for (const int i : {1, 2, 3}) ASSERT_OK(table.advance(rows[static_cast<std::size_t>(i)], 1));
  ASSERT_OK(replay({kPadIndex, 3, kPadIndex, kPadIndex}, {7, 3, 0, 1}));
  expect_alone(0, 1);
  expect_alone(1, 2);
  expect_alone(2, 2);
  expect_alone(3, 3);
  for (const std::int32_t pad : {0, 2, 3}) {
    for (const double value : world.output(pad)) ASSERT_EQ(value, 0.0);
  }
}

TEST_F(F01UpstreamVerbs, WhatIsWrongIsNamed) {
  AttentionBackend& b = *world.backend;
  EXPECT_ERROR(replay({0, 1, 2, 5}, {1, 1, 1, 1}), kFailedPrecondition, "req_pool_indices[3] is 5");
  EXPECT_ERROR(replay({0, 1, 2, 3}, {1, 1, 4, 1}), kFailedPrecondition, "seq_lens[2] is 4",
               "must be 1");
  EXPECT_ERROR(replay({0, 1, 1, 3}, {1, 1, 1, 1}), kInvalidArgument, "row 1", "row 2");
  EXPECT_ERROR(graph->replay(), kFailedPrecondition, "not rewritten");
  const std::vector<std::int32_t> four{0, 1, 2, 3}, ones(4, 1), three{0, 1, 2};
  EXPECT_ERROR(b.init_forward_metadata_replay_cuda_graph(4, three, ones, 4, ForwardMode::kDecode),
               kInvalidArgument, "req_pool_indices has 3", "bs = 4");
  EXPECT_ERROR(b.init_forward_metadata_replay_cuda_graph(4, four, ones, 5, ForwardMode::kDecode),
               kInvalidArgument, "seq_lens_sum is 5", "4");
  EXPECT_ERROR(
      b.init_forward_metadata_replay_cuda_graph(4, four, ones, 4, ForwardMode::kDecode, three),
      kInvalidArgument, "seq_lens_cpu");
  EXPECT_ERROR(b.init_forward_metadata_replay_cuda_graph(3, three, ones, 4, ForwardMode::kDecode),
               kFailedPrecondition, "bs is 3", "not captured");
  EXPECT_ERROR(b.init_forward_metadata_replay_cuda_graph(4, four, ones, 4, ForwardMode::kExtend),
               kUnsupported, "extend");
  EXPECT_ERROR(b.init_forward_metadata_capture_cuda_graph(5, 5, four, ones, ForwardMode::kDecode),
               kOutOfRange, "bs is 5", "1 to 4");
  HybridWorld without;
  EXPECT_ERROR(without.backend->init_cuda_graph_state(4, 4), kFailedPrecondition,
               "set_request_table");
  EXPECT_ERROR(b.init_cuda_graph_state(0, 4), kInvalidArgument, "max_bs is 0");
}

TEST(F01CapturedForAnotherTable, IsForgotten) {
  HybridWorld world;
  HandleAllocator pages("page", world.options.pages), slots("state slot", world.options.slots);
  RequestTable narrow(pages, &slots, world.options.page_size, 2, 1);
  RequestTable wide(pages, &slots, world.options.page_size, 2, 8);
  const Handle row = *narrow.open(4), long_row = *wide.open(20);
  ASSERT_OK(wide.advance(long_row, 10));
  world.backend->set_request_table(&narrow);
  ASSERT_OK(world.backend->init_cuda_graph_state(1, 1));
  const std::vector<std::int32_t> index{row.index}, one{1}, eleven{11};
  ASSERT_OK(world.backend->init_forward_metadata_capture_cuda_graph(1, 1, index, one,
                                                                    ForwardMode::kDecode));
  // Rows of the other table have more pages than the captured plan has room for.
  for (const RequestTable* other :
       {static_cast<const RequestTable*>(&wide), static_cast<const RequestTable*>(nullptr)}) {
    world.backend->set_request_table(other);
    EXPECT_ERROR(
        world.backend->init_forward_metadata_replay_cuda_graph(
            1, std::vector<std::int32_t>{long_row.index}, eleven, 11, ForwardMode::kDecode),
        kFailedPrecondition, "bs is 1, which was not captured");
  }
}

}  // namespace
}  // namespace hybridattn::testing
