// F44: fused tensors are cut by named parts: what the ranks compute, put together part by part, is
// what one computes alone, and states change hands between numbers of ranks.
#include "hybridattn/hybridattn.h"

#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

constexpr std::int64_t kTokens = 40, kWidth = 4;
constexpr std::int32_t kHk = 4, kHv = 8, kK = 16, kV = 32;

/// All that a GDN layer of one rank has.
struct Rank {
  RadixLinearAttention layer;
  Buffer weight, a_log, bias, recurrent, conv, mixed, a, b, out;

  Rank(std::int32_t hk, std::int32_t hv) {
    layer = {0, 0, hk, hv, kK, kV};
    const std::int64_t c = layer.conv_channels();
    weight = Buffer(DType::kF32, {c, kWidth});
    a_log = Buffer(DType::kF32, {hv});
    bias = Buffer(DType::kF32, {hv});
    recurrent = Buffer(DType::kF32, {2, hv, kV, kK});
    conv = Buffer(DType::kF32, {2, c, kWidth - 1});
    mixed = Buffer(DType::kF32, {kTokens, c});
    a = Buffer(DType::kF32, {kTokens, hv});
    b = Buffer(DType::kF32, {kTokens, hv});
    out = Buffer(DType::kF32, {kTokens, hv, kV});
    layer.conv_weight = weight.view();
    layer.a_log = a_log.view();
    layer.dt_bias = bias.view();
  }
  void randomize() {
    Random random(3);
    for (Buffer* x : inputs()) x->fill(random.values(x->num_elements(), -1, 1));
  }
  std::vector<Buffer*> inputs() {
    return {&weight, &a_log, &bias, &recurrent, &conv, &mixed, &a, &b};
  }
  /// A decode, a prompt that goes on and no third: states of both slots are read.
  void run() {
    const auto context = make_context();
    auto backend = *GDNAttnBackend::create(*context, {{recurrent.view()}, {conv.view()}});
    const auto batch = *ForwardBatch::create(
        {{RowKind::kDecode, 1, {}, 9, 1}, {RowKind::kPrefill, 0, {}, 5, kTokens - 1}});
    const auto plan = *backend->plan(batch);
    ASSERT_OK(backend->run_gdn(*plan, layer, {mixed.view(), a.view(), b.view(), out.view()}));
  }
};

std::vector<ShardPart> value_heads() { return {{"heads", kHv, 1}}; }

struct Fused {
  Buffer Rank::*tensor;
  int dim;
  std::vector<ShardPart> parts;
};
std::vector<Fused> fused_tensors() {
  const auto channels = conv_channel_parts({0, 0, kHk, kHv, kK, kV});
  return {{&Rank::weight, 0, channels},     {&Rank::conv, 1, channels},
          {&Rank::mixed, 1, channels},      {&Rank::recurrent, 1, value_heads()},
          {&Rank::a_log, 0, value_heads()}, {&Rank::bias, 0, value_heads()},
          {&Rank::a, 1, value_heads()},     {&Rank::b, 1, value_heads()}};
}

std::vector<std::unique_ptr<Rank>> cut(Rank& whole, std::int32_t world) {
  std::vector<std::unique_ptr<Rank>> ranks;
  for (std::int32_t r = 0; r < world; ++r) {
    ranks.push_back(std::make_unique<Rank>(kHk / world, kHv / world));
    for (const Fused& f : fused_tensors()) {
      EXPECT_OK(cut_shard((whole.*f.tensor).view(), f.dim, f.parts, r, world,
                          ((*ranks.back()).*f.tensor).view()));
    }
  }
  return ranks;
}

Buffer joined(const std::vector<std::unique_ptr<Rank>>& ranks, Buffer Rank::*tensor, int dim,
              const std::vector<ShardPart>& parts, const Shape& shape) {
  Buffer whole(DType::kF32, shape);
  std::vector<ConstTensorView> views;
  for (const auto& rank : ranks) views.push_back(((*rank).*tensor).view());
  EXPECT_OK(join_shards(views, dim, parts, whole.view()));
  return whole;
}

TEST(F44FlatShards, RanksTogetherAreOneAlonePartByPart) {
  Rank whole(kHk, kHv);
  whole.randomize();
  for (const std::int32_t world : {1, 2, 4}) {
    Rank alone(kHk, kHv);
    alone.randomize();
    const auto ranks = cut(alone, world);
    alone.run();
    for (const auto& rank : ranks) rank->run();
    const auto channels = conv_channel_parts(alone.layer);
    EXPECT_EQ(joined(ranks, &Rank::out, 1, value_heads(), alone.out.shape()).memory(),
              alone.out.memory())
        << world;
    EXPECT_EQ(joined(ranks, &Rank::recurrent, 1, value_heads(), alone.recurrent.shape()).memory(),
              alone.recurrent.memory())
        << world;
    EXPECT_EQ(joined(ranks, &Rank::conv, 1, channels, alone.conv.shape()).memory(),
              alone.conv.memory())
        << world;
  }
}

TEST(F44FlatShards, AFlatCutWouldBeAnother) {
  Rank whole(kHk, kHv);
  whole.randomize();
  const std::int64_t c = whole.layer.conv_channels();
  const std::vector<ShardPart> flat{{"channels", c, 1}};
  Buffer named(DType::kF32, {c / 2, kWidth}), wrong(DType::kF32, {c / 2, kWidth});
  ASSERT_OK(cut_shard(whole.weight.view(), 0, conv_channel_parts(whole.layer), 1, 2, named.view()));
  ASSERT_OK(cut_shard(whole.weight.view(), 0, flat, 1, 2, wrong.view()));
  EXPECT_NE(named.memory(), wrong.memory());
  // The second rank's first key channel is the first of its own heads'.
  const std::int64_t k_in_shard = kHk / 2 * kK, k_in_whole = kHk * kK + kHk / 2 * kK;
  EXPECT_EQ(named.get({k_in_shard, 0}), whole.weight.get({k_in_whole, 0}));
}

TEST(F44FlatShards, StatesChangeHandsBetweenTwoAndFourRanks) {
  Rank whole(kHk, kHv);
  whole.randomize();
  const auto two = cut(whole, 2);
  for (const auto& rank : two) rank->run();
  Rank between(kHk, kHv);
  between.randomize();
  between.conv = joined(two, &Rank::conv, 1, conv_channel_parts(whole.layer), whole.conv.shape());
  between.recurrent = joined(two, &Rank::recurrent, 1, value_heads(), whole.recurrent.shape());
  const auto four = cut(between, 4);
  whole.run();
  whole.run();
  for (const auto& rank : four) rank->run();
  EXPECT_EQ(
      joined(four, &Rank::conv, 1, conv_channel_parts(whole.layer), whole.conv.shape()).memory(),
      whole.conv.memory());
  EXPECT_EQ(joined(four, &Rank::recurrent, 1, value_heads(), whole.recurrent.shape()).memory(),
            whole.recurrent.memory());
}

TEST(F44FlatShards, InterleavedGroupsAreOnePart) {
  // Per key head: q, k, then r heads of v and of z. Two ranks: two groups each, whole.
  Buffer fused(DType::kF32, {4 * 6, 3}), shard(DType::kF32, {2 * 6, 3});
  Random random(1);
  fused.fill(random.values(fused.num_elements(), -1, 1));
  const std::vector<ShardPart> groups{{"key head groups", 4, 6}};
  ASSERT_OK(cut_shard(fused.view(), 0, groups, 1, 2, shard.view()));
  for (std::int64_t i = 0; i < 12; ++i) EXPECT_EQ(shard.get({i, 1}), fused.get({12 + i, 1}));
}

TEST(F44FlatShards, FewerKeyHeadsThanRanksAreSharedWhereThatIsAsked) {
  std::vector<ShardPart> parts{{"q", 8, 2}, {"k", 2, 2, true}};
  for (std::int32_t rank = 0; rank < 4; ++rank) {
    const auto ranges = *shard_ranges(parts, rank, 4);
    EXPECT_EQ(ranges[0].whole, rank * 4);
    EXPECT_EQ(ranges[0].count, 4);
    EXPECT_EQ(ranges[1].whole, 16 + rank / 2 * 2);
    EXPECT_EQ(ranges[1].count, 2);
  }
  Buffer whole(DType::kBF16, {20}), back(DType::kBF16, {20});
  Random random(2);
  whole.fill(random.values(20, -1, 1));
  std::vector<Buffer> shards(4, Buffer(DType::kBF16, {6}));
  std::vector<ConstTensorView> views;
  for (std::int32_t rank = 0; rank < 4; ++rank) {
    Buffer& shard = shards[static_cast<std::size_t>(rank)];
    ASSERT_OK(cut_shard(whole.view(), 0, parts, rank, 4, shard.view()));
    views.push_back(std::as_const(shard).view());
  }
  ASSERT_OK(join_shards(views, 0, parts, back.view()));
  EXPECT_EQ(back.memory(), whole.memory());
  parts[1].replicate = false;
  EXPECT_ERROR(shard_ranges(parts, 0, 4).status(), kInvalidArgument, "part k has 2 heads",
               "4 ranks");
}

TEST(F44FlatShards, WhatDoesNotFitIsNamedAndNothingIsWritten) {
  Buffer whole(DType::kF32, {8, 3}), shard(DType::kF32, {4, 3}), narrow(DType::kF32, {4, 2});
  Buffer other(DType::kBF16, {4, 3});
  const std::vector<ShardPart> parts{{"q", 4, 1}, {"v", 4, 1}};
  const auto call = [&](int dim, std::int32_t rank, std::int32_t world, Buffer& to) {
    return cut_shard(whole.view(), dim, parts, rank, world, to.view());
  };
  EXPECT_ERROR(call(0, 2, 2, shard), kInvalidArgument, "rank is 2 of 2");
  EXPECT_ERROR(call(0, 0, 3, shard), kInvalidArgument, "part q has 4 heads", "3 ranks");
  EXPECT_ERROR(call(1, 0, 2, shard), kInvalidArgument, "dimension 0");
  EXPECT_ERROR(call(2, 0, 2, shard), kInvalidArgument, "dim is 2");
  EXPECT_ERROR(call(0, 0, 2, narrow), kInvalidArgument, "dimension 1 of whole is 3");
  EXPECT_ERROR(call(0, 0, 2, other), kInvalidArgument, "bf16");
  EXPECT_ERROR(call(0, 0, 4, shard), kInvalidArgument, "of shard 4, must be 8 and 2");
  EXPECT_TRUE(shard.is_poison({}));
  EXPECT_ERROR(join_shards({}, 0, parts, whole.view()), kInvalidArgument, "empty");
}

}  // namespace
}  // namespace hybridattn::testing
