// The seven defects of the upstream surface, each with a test that shows that it is not here.
#include <cmath>

#include "tests/support/hybrid_world.h"
#include "tests/support/oracle.h"

namespace hybridattn::testing {
namespace {

constexpr RowKind kPrefill = RowKind::kPrefill, kDecode = RowKind::kDecode;

TEST(HybridSurface, KeepsItsPartsUnderTheUpstreamsNames) {
  HybridWorld world;
  EXPECT_EQ(world.backend->full_attn_backend().name(), "PagedAttnBackend");
  EXPECT_EQ(world.backend->gdn_backend().name(), "GDNAttnBackend");
  EXPECT_EQ(world.backend->full_attn_layer_ids(), (std::set<std::int32_t>{2, 4}));
}

/// Three requests that replay in a graph of four, through the upstream's own verbs and as its own
/// runner would call them: the fourth row keeps a live request's index and gets the fill value.
TEST(D1StaleSlots, APaddedRowOfAReplayTouchesNobody) {
  HybridWorld world;
  HandleAllocator pages("page", world.options.pages), slots("state slot", world.options.slots);
  RequestTable table(pages, &slots, world.options.page_size, 4, 8);
  world.backend->set_request_table(&table);
  std::vector<Handle> rows;
  std::vector<AloneRequest> alone;
  for (std::uint64_t r = 0; r < 4; ++r) {
    rows.push_back(*table.open(12));
    alone.emplace_back(r, world.options, 16);
    for (std::int32_t i = 0; i < 5; ++i) world.feed(r, i, i);
    const auto batch = *ForwardBatch::create({*table.batch_row(rows.back(), kPrefill, 5)});
    ASSERT_OK(world.run(**world.backend->plan(batch)));
    ASSERT_OK(table.advance(rows.back(), 5));
    alone.back().advance(kPrefill, 5);
  }
  ASSERT_OK(world.backend->init_cuda_graph_state(4, 4));
  const std::int32_t fill = AttentionBackend::get_cuda_graph_seq_len_fill_value();
  std::vector<std::int32_t> indices, lengths{6, 6, 6, 6};
  for (const Handle& row : rows) indices.push_back(row.index);
  ASSERT_OK(world.backend->init_forward_metadata_capture_cuda_graph(4, 4, indices, lengths,
                                                                    ForwardMode::kDecode));
  const Plan& plan = *world.backend->current_plan();
  const auto graph = *Graph::record(*world.context, [&] { return world.run(plan); });
  lengths[3] = fill;
  for (std::int32_t r = 0; r < 4; ++r) world.feed(static_cast<std::uint64_t>(r), 5, r);
  const auto parked = world.slot_bytes(table.slot_id(rows[3]));
  ASSERT_OK(world.backend->init_forward_metadata_replay_cuda_graph(4, indices, lengths, 18 + fill,
                                                                   ForwardMode::kDecode, lengths));
  ASSERT_OK(graph->replay());
  EXPECT_EQ(world.slot_bytes(table.slot_id(rows[3])), parked);
  for (std::size_t r = 0; r < 3; ++r) {
    EXPECT_EQ(world.output(static_cast<std::int32_t>(r)), alone[r].advance(kDecode, 1)[0]);
    EXPECT_EQ(world.slot_bytes(table.slot_id(rows[r])), alone[r].state());
  }
}

TEST(D2SlotZero, IsARequestsLikeEveryOther) {
  HandleAllocator pages("page", 3), slots("state slot", 3);
  RequestTable table(pages, &slots, 4, 3, 1);
  HybridWorld world;
  const Handle row = *table.open(4);
  EXPECT_EQ(table.slot_id(row), 0);
  EXPECT_EQ(table.pages_of(row)[0], 0);
  const auto batch = *ForwardBatch::create(
      {*table.batch_row(row, kPrefill, 3), {RowKind::kPad, kPadIndex, {}, 0, 1}});
  for (std::int32_t i = 0; i < 3; ++i) world.feed(1, i, i);
  ASSERT_OK(world.run(**world.backend->plan(batch)));
  AloneRequest alone(1, world.options, 8);
  const auto wanted = alone.advance(kPrefill, 3);
  for (std::int32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(world.output(i), wanted[static_cast<std::size_t>(i)]);
  }
  EXPECT_EQ(world.slot_bytes(0), alone.state()) << "the pad row did not pass for slot 0";
}

/// A prompt that was seen before goes on from a state of exactly the length that is kept of it: for
/// a hit trimmed by two tokens that is another snapshot, never the longer one.
TEST(D3TrimmedPrefix, AStateServesAtItsOwnLengthOnly) {
  WorldOptions options;
  options.slots = 24;
  for (const std::int32_t length : {3, 4, 5, 12}) {
    HybridWorld world(options);
    AloneRequest alone(1, options, 16);
    const std::vector<std::int32_t> pages{0, 1, 2, 3};
    const auto decode_from = [&](std::int32_t slot, std::int32_t computed) {
      world.feed(1, computed, 0);
      const auto batch = *ForwardBatch::create({{kDecode, slot, pages, computed, 1}});
      EXPECT_OK(world.run(**world.backend->plan(batch)));
      return world.output(0);
    };
    std::vector<std::vector<double>> wanted;
    for (std::int32_t i = 0; i < length; ++i) wanted.push_back(alone.advance(kDecode, 1)[0]);
    // After token i the state is slot i + 1: a snapshot of each length.
    for (std::int32_t i = 0; i < length; ++i) {
      if (i > 0) world.copy_slot(i, i + 1);
      EXPECT_EQ(decode_from(i + 1, i), wanted[static_cast<std::size_t>(i)]);
    }
    const std::int32_t trimmed = length - 2;
    world.copy_slot(trimmed, 20);
    EXPECT_EQ(decode_from(20, trimmed), wanted[static_cast<std::size_t>(trimmed)]);
    EXPECT_EQ(decode_from(20, trimmed + 1), wanted[static_cast<std::size_t>(trimmed) + 1]);
    world.copy_slot(length, 21);
    EXPECT_NE(decode_from(21, trimmed), wanted[static_cast<std::size_t>(trimmed)])
        << "the state of the untrimmed prompt would have gone unseen";
  }
}

TEST(D4OneNorm, DecodeAndPrefillAgreeOnTinyVectors) {
  const auto context = make_context();
  constexpr std::int64_t kTokens = 9, kK = 16, kV = 32;
  for (const double size : {1.0, 1e-3, 1e-5, 0.0}) {
    Random random(4);
    Buffer q(DType::kF32, {kTokens, 1, kK}), k = q, v(DType::kF32, {kTokens, 1, kV});
    q.fill(random.values(kTokens * kK, -size, size));
    k.fill(random.values(kTokens * kK, -size, size));
    v.fill(random.values(kTokens * kV, -1, 1));
    Buffer decay(DType::kF32, {kTokens, 1}), beta = decay;
    decay.fill(random.values(kTokens, -0.5, 0));
    beta.fill(random.values(kTokens, 0, 1));
    Buffer state(DType::kF32, {2, 1, kV, kK});
    state.fill(random.values(kV * kK * 2, -1, 1));
    for (std::int64_t i = 0; i < kV * kK; ++i) {
      state.set({1, 0, i / kK, i % kK}, state.get({0, 0, i / kK, i % kK}));
    }
    Buffer chunked(DType::kF32, {kTokens, 1, kV}), stepped = chunked;
    Rows whole;
    whole.add(0, kTokens, 0, 1);
    const auto args = [&](const Rows& rows, Buffer& out) {
      return GdnArgs{rows.view(), q.view(),     k.view(),   v.view(), decay.view(),
                     beta.view(), state.view(), out.view(), 0.25f,    true};
    };
    ASSERT_OK(gdn_prefill(*context, args(whole, chunked)));
    for (std::int32_t t = 0; t < kTokens; ++t) {
      Rows one;
      one.add(t, 1, 1, 1 + t);
      ASSERT_OK(gdn_step(*context, args(one, stepped)));
    }
    EXPECT_TRUE(near(chunked.values(), stepped.values(), {1e-6, 1e-5})) << size;
    EXPECT_TRUE(near(state.gather({0}), state.gather({1}), {1e-6, 1e-5})) << size;
  }
}

TEST(D5Snapshots, HaveASlotOfTheirOwnAndNeverChange) {
  const auto context = make_context();
  const GdnStateShape shape{1, 4, 32, 16, 192, 4, DType::kF32, DType::kF32};
  auto pool = *GdnStatePool::create(*context, shape, 2, 1);
  const auto bytes = [&](std::int32_t slot) {
    const TensorView& state = pool->view().recurrent[0];
    const auto* first = static_cast<const Byte*>(state.data) +
                        slot * state.stride(0) * static_cast<std::int64_t>(sizeof(float));
    return std::vector<Byte>(first, first + state.stride(0) * 4);
  };
  const auto running = *pool->slots().allocate(2);
  const Handle snapshot = (*pool->track_slots().allocate(1))[0];
  EXPECT_EQ(snapshot.index, 2);
  ASSERT_OK(pool->zero(running[0]));
  static_cast<float*>(pool->view().recurrent[0].data)[5] = 3.5f;
  ASSERT_OK(pool->copy(running[0], snapshot));
  const auto kept = bytes(2);
  // Two requests go on from it; one changes its own.
  ASSERT_OK(pool->copy(snapshot, running[1]));
  EXPECT_EQ(bytes(1), kept);
  ASSERT_OK(pool->zero(running[1]));
  EXPECT_EQ(bytes(2), kept);
  // A second name of the handle is the same claim: it is released once.
  const Handle copy_of_name = snapshot;
  ASSERT_OK(pool->track_slots().release(snapshot));
  EXPECT_ERROR(pool->track_slots().release(copy_of_name), kFailedPrecondition, "track slot 2");
  EXPECT_ERROR(pool->copy(copy_of_name, running[1]), kFailedPrecondition, "not live");
  EXPECT_ERROR(pool->track_slots().retain(running[0]), kFailedPrecondition, "belongs to allocator");
  EXPECT_OK(pool->check());
}

TEST(D6IgnoredInputs, HeightAndWidthGiveTheirAngles) {
  const auto context = make_context();
  const std::int64_t time[] = {5}, height[] = {9}, width[] = {2};
  Buffer cosine(DType::kF32, {1, 8}), sine = cosine;
  ASSERT_OK(rotary_table(*context,
                         {time, 1e4, 16, cosine.view(), sine.view(), height, width, {3, 3, 2}}));
  // Frequencies 1, 4, 7 take the height, 2 and 5 the width, the others the time.
  const std::int64_t wanted[] = {5, 9, 2, 5, 9, 2, 5, 9};
  for (std::int64_t i = 0; i < 8; ++i) {
    const double angle =
        static_cast<double>(wanted[i]) * std::pow(1e4, -2.0 * static_cast<double>(i) / 16);
    EXPECT_NEAR(cosine.get({0, i}), std::cos(angle), 1e-7) << i;
    EXPECT_NEAR(sine.get({0, i}), std::sin(angle), 1e-7) << i;
  }
}

TEST(D6IgnoredInputs, AnIdleBatchGivesZerosAndTouchesNoState) {
  HybridWorld world;
  world.poison_tokens();
  const auto before = world.slot_bytes(0);
  const auto batch = *ForwardBatch::create({{RowKind::kPad, kPadIndex, {}, 0, 3}});
  EXPECT_EQ(batch.mode(), ForwardMode::kIdle);
  ASSERT_OK(world.run(**world.backend->plan(batch)));
  for (std::int32_t t = 0; t < 3; ++t) {
    for (const double value : world.output(t)) ASSERT_EQ(value, 0.0);
  }
  EXPECT_EQ(world.slot_bytes(0), before);
}

TEST(D7StateLayout, IsValueRowsOfKeyColumns) {
  EXPECT_STREQ(kGdnStateLayout, "slot,HV,V,K");
  const auto context = make_context();
  Buffer q(DType::kF32, {1, 1, 16}), k = q, v(DType::kF32, {1, 1, 32});
  for (Buffer* x : {&q, &k, &v})
    x->fill(std::vector<double>(static_cast<std::size_t>(x->num_elements()), 0.0));
  k.set({0, 0, 3}, 1);
  q.set({0, 0, 3}, 1);
  v.set({0, 0, 21}, 2);
  Buffer decay(DType::kF32, {1, 1}), beta = decay, out = v;
  decay.set({0, 0}, 0);
  beta.set({0, 0}, 0.5);
  Buffer state(DType::kF32, {1, 1, 32, 16});
  Rows rows;
  rows.add(0, 1, 0, 0);
  ASSERT_OK(gdn_step(*context, {rows.view(), q.view(), k.view(), v.view(), decay.view(),
                                beta.view(), state.view(), out.view(), 1.0f, false}));
  for (std::int64_t i = 0; i < 32; ++i) {
    for (std::int64_t j = 0; j < 16; ++j) {
      ASSERT_EQ(state.get({0, 0, i, j}), i == 21 && j == 3 ? 1.0 : 0.0) << i << ", " << j;
    }
  }
  EXPECT_EQ(out.get({0, 0, 21}), 1.0);
}

}  // namespace
}  // namespace hybridattn::testing
