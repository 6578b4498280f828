// How rows of attention are cut into work: every key of every tile once, in room that was asked
// for before.
#include <algorithm>
#include <map>
#include <tuple>

#include "src/ops/attention_place.h"
#include "tests/support/contexts.h"
#include "tests/support/oracle.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

using ops::AttentionCut;
using ops::AttentionJoin;
using ops::AttentionSchedule;
using ops::AttentionWork;

/// Rows of random lengths.
struct RandomRows : KvRows {
  RandomRows(Random& random, std::int32_t count, std::int32_t most_queries,
             std::int32_t most_keys) {
    std::int32_t tokens = 0;
    for (std::int32_t r = 0; r < count; ++r) {
      const auto queries = static_cast<std::int32_t>(
          random.integer(0, 3) == 0 ? random.integer(0, most_queries) : random.integer(0, 2));
      add(tokens, queries, static_cast<std::int32_t>(random.integer(0, most_keys)), {});
      tokens += queries;
    }
  }
  AttentionRows view() const { return KvRows::view(false); }
};

using TileKey = std::tuple<std::int32_t, std::int32_t, std::int32_t>;  // row, first, tile rows

/// The pieces of each tile, by their first key.
std::map<TileKey, std::vector<AttentionWork>> by_tile(const AttentionSchedule& schedule) {
  std::map<TileKey, std::vector<AttentionWork>> tiles;
  for (const AttentionWork& work : schedule.few) {
    tiles[{work.row, work.first, ops::kAttentionFewRows}].push_back(work);
  }
  for (const AttentionWork& work : schedule.many) {
    tiles[{work.row, work.first, schedule.many_rows}].push_back(work);
  }
  for (auto& [key, pieces] : tiles) {
    std::sort(pieces.begin(), pieces.end(),
              [](const auto& a, const auto& b) { return a.begin < b.begin; });
  }
  return tiles;
}

std::int32_t keys_seen(const RandomRows& rows, const AttentionCut& cut, std::int32_t row,
                       std::int64_t query_row) {
  const auto r = static_cast<std::size_t>(row);
  const std::int64_t seen = cut.causal
                                ? rows.kv_length[r] - rows.q_length[r] + query_row / cut.group + 1
                                : rows.kv_length[r];
  return static_cast<std::int32_t>(std::max<std::int64_t>(seen, 0));
}

/// Pieces follow one another without a gap, from at or before the first key that is seen.
void expect_whole(const RandomRows& rows, const AttentionCut& cut, const TileKey& key,
                  const std::vector<AttentionWork>& pieces) {
  const auto [row, first, tile] = key;
  const std::int64_t query_rows = rows.q_length[static_cast<std::size_t>(row)] * cut.group;
  const std::int64_t last = std::min<std::int64_t>(first + tile, query_rows) - 1;
  EXPECT_EQ(pieces.back().end, keys_seen(rows, cut, row, last));
  const std::int32_t from = keys_seen(rows, cut, row, first);
  const std::int32_t oldest = cut.window > 0 ? std::max(from - cut.window, 0) : 0;
  EXPECT_LE(pieces.front().begin, oldest);
  EXPECT_GT(pieces.front().begin + (cut.fixed ? ops::kAttentionFixedCut : ops::kAttentionCut),
            oldest);
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    EXPECT_EQ(pieces[i].begin % ops::kAttentionCut, 0);
    EXPECT_EQ(pieces[i].part >= 0, pieces.size() > 1);
    EXPECT_EQ(pieces[i].piece, static_cast<std::int32_t>(i));
    EXPECT_TRUE(pieces[i].parts == 0 || pieces.size() > 1);
    EXPECT_EQ(pieces[i].parts, pieces[0].parts);
    if (i == 0) continue;
    EXPECT_EQ(pieces[i].begin, pieces[i - 1].end);
    EXPECT_EQ(pieces[i].part, pieces[i - 1].part + tile);
  }
}

void expect_schedule(const RandomRows& rows, const AttentionCut& cut,
                     const AttentionSchedule& schedule) {
  const auto tiles = by_tile(schedule);
  std::size_t count = 0, joins = 0;
  std::int64_t parts = 0;
  for (std::size_t r = 0; r < rows.q_length.size(); ++r) {
    const std::int64_t query_rows = rows.q_length[r] * cut.group;
    const bool many = query_rows > ops::kAttentionFewRows || cut.one_kernel;
    const std::int64_t tile = many ? cut.many_rows : ops::kAttentionFewRows;
    count += static_cast<std::size_t>((query_rows + tile - 1) / tile);
  }
  EXPECT_EQ(tiles.size(), count);
  for (const auto& [key, pieces] : tiles) {
    expect_whole(rows, cut, key, pieces);
    if (pieces.size() == 1) continue;
    const auto of_tile = static_cast<int>(pieces.size());
    const bool last_joins = pieces[0].parts > 0;
    if (last_joins) {
      EXPECT_EQ(pieces[0].parts, of_tile);
      EXPECT_FALSE(cut.fixed);
    } else {
      ++joins;
    }
    parts += (of_tile + (last_joins ? ops::attention_join_sums(of_tile) : 0)) * std::get<2>(key);
  }
  EXPECT_EQ(schedule.joins.size(), joins) << "of all tiles whose blocks do not add up their parts";
  EXPECT_EQ(schedule.part_rows, parts);
  EXPECT_EQ(schedule.arrivals, cut.fixed ? 0 : parts / ops::kAttentionFewRows * cut.kv_heads);
  for (std::size_t i = 0; i < schedule.joins.size(); ++i) {
    const bool of_many = static_cast<std::int64_t>(i) < schedule.joins_of_many;
    EXPECT_EQ(schedule.joins[i].tile, of_many ? cut.many_rows : ops::kAttentionFewRows);
  }
  for (const AttentionJoin& join : schedule.joins) {
    const auto& pieces = tiles.at({join.row, join.first, join.tile});
    EXPECT_EQ(join.part, pieces.front().part);
    EXPECT_EQ(join.parts, static_cast<std::int32_t>(pieces.size()));
  }
}

std::vector<AttentionCut> cuts() {
  std::vector<AttentionCut> out;
  for (const std::int64_t group : {1, 3, 8, 20}) {
    for (const std::int32_t window : {-1, 1, 100, 700}) {
      out.push_back({group, 2, 264, 132, 128, true, window});
    }
    out.push_back({group, 1, 32, 32, 64, false, -1});
    out.push_back({group, 8, 264, 264, 64, true, -1, true});
    out.push_back({group, 8, 264, 132, 128, true, 700, true});
    out.push_back({group, 8, 264, 132, 128, true, -1, true, true});
    out.push_back({group, 2, 8, 4, 128, true, -1, true});  // rows of five tiles are left whole
  }
  return out;
}

TEST(AttentionPlan, EveryKeyOfEveryTileOnce) {
  Random random(5);
  AttentionSchedule schedule;
  for (const AttentionCut& cut : cuts()) {
    for (int i = 0; i < 8; ++i) {
      const RandomRows rows(random, static_cast<std::int32_t>(random.integer(0, 40)), 300, 5000);
      ops::schedule_attention(rows.view(), cut, schedule);
      expect_schedule(rows, cut, schedule);
    }
  }
}

TEST(AttentionPlan, FitsTheRoomForTheMost) {
  Random random(6);
  AttentionSchedule schedule;
  for (AttentionCut cut : cuts()) {
    const AttentionLimits limits{20, 6000, 0, 9000};
    ops::choose_joins(limits, cut);
    const ops::AttentionMost most = ops::most_attention_work(cut, limits);
    for (int i = 0; i < 20; ++i) {
      const RandomRows rows(random, static_cast<std::int32_t>(random.integer(0, 20)), 300, 9000);
      ops::schedule_attention(rows.view(), cut, schedule);
      const ops::AttentionBlock block{20,         6000,           most.few, most.many,
                                      most.joins, most.part_rows, 0,        cut.many_rows,
                                      0,          most.arrivals};
      EXPECT_TRUE(block.holds(schedule));
    }
  }
}

TEST(AttentionPlan, AKernelAddsUpPartsWhereTheyAreMany) {
  const AttentionCut cut{8, 2, 264, 132, 128, true, -1};
  EXPECT_TRUE(cut.last_joins(false, 27)) << "five blocks of each key head's tile";
  EXPECT_FALSE(cut.last_joins(false, 26));
  EXPECT_TRUE(cut.last_joins(true, 14));
  EXPECT_FALSE(cut.last_joins(true, 13));
  AttentionCut planned = cut;
  ops::choose_joins({256, 256, 0, 9000}, planned);
  EXPECT_TRUE(planned.last_joins(false, 1)) << "no step may need what is not launched";
  planned = cut;
  ops::choose_joins({8, 8, 0, 9000}, planned);
  EXPECT_FALSE(planned.last_joins(false, 8));
}

TEST(AttentionPlan, GroupsOfPartsHaveAllOfThem) {
  for (int parts = 2; parts < 3000; ++parts) {
    const int group = ops::attention_join_group(parts), sums = ops::attention_join_sums(parts);
    EXPECT_LE(sums, parts / 8 + parts / 17) << "what the room for the most allows for";
    EXPECT_EQ(sums == 0, group == parts);
    EXPECT_TRUE(sums == 0 || ((sums - 1) * group < parts && parts <= sums * group));
  }
}

TEST(AttentionPlan, FixedCutsFollowFromTheRowAlone) {
  Random random(7);
  const AttentionCut cut{8, 2, 264, 132, 128, true, -1, true};
  AttentionSchedule together, alone;
  const RandomRows rows(random, 30, 200, 6000);
  ops::schedule_attention(rows.view(), cut, together);
  const auto tiles = by_tile(together);
  for (std::int32_t r = 0; r < 30; ++r) {
    AttentionRows one = rows.view();
    one.count = 1;
    one.q_start += r;
    one.q_length += r;
    one.kv_length += r;
    one.kv_start += r;
    ops::schedule_attention(one, cut, alone);
    for (const auto& [key, pieces] : by_tile(alone)) {
      const auto& same = tiles.at({r, std::get<1>(key), std::get<2>(key)});
      ASSERT_EQ(pieces.size(), same.size());
      for (std::size_t i = 0; i < pieces.size(); ++i) {
        EXPECT_EQ(pieces[i].begin, same[i].begin);
        EXPECT_EQ(pieces[i].end, same[i].end);
      }
    }
  }
}

TEST(AttentionPlan, FewLongRowsFillTheCard) {
  const std::int32_t zero = 0, one = 1, keys = 131072;
  const std::int64_t first = 0;
  AttentionRows rows;
  rows.count = 1;
  rows.q_start = &zero;
  rows.q_length = &one;
  rows.kv_length = &keys;
  rows.kv_start = &first;
  AttentionSchedule schedule;
  ops::schedule_attention(rows, {8, 2, 264, 132, 128, true, -1}, schedule);
  EXPECT_GE(schedule.few.size(), 120u);
  EXPECT_LE(schedule.few.size(), 132u) << "of two key heads each: as many as run at once";
}

TEST(AttentionPlan, RowsThatFillTheCardAreNotCutAtFixedPlaces) {
  AttentionCut cut{8, 2, 264, 132, 128, true, -1};
  cut.fixed = true;
  constexpr std::int32_t kLong = 131072;
  KvRows rows;
  rows.add(0, kLong, kLong, {});
  rows.add(kLong, 200, kLong, {});  // 13 tiles, which are cut
  AttentionSchedule schedule;
  ops::schedule_attention(rows.view(false), cut, schedule);
  EXPECT_EQ(schedule.joins.size(), 13u);
  for (const AttentionJoin& join : schedule.joins) EXPECT_EQ(join.row, 1);
  const AttentionLimits limits{2, kLong + 200, 0, kLong};
  const auto bounded = ops::most_attention_work(cut, limits).part_rows;
  EXPECT_GE(bounded, schedule.part_rows);
  // Queries must have the same bits in whatever rows they come: all rows are cut.
  cut.one_kernel = true;
  ops::schedule_attention(rows.view(false), cut, schedule);
  EXPECT_GT(schedule.joins.size(), 7900u);
  EXPECT_LT(20 * bounded, ops::most_attention_work(cut, limits).part_rows);
}

/// Tiles that are left whole take their room beside the pieces of those that are cut.
TEST(AttentionPlan, RoomForWholeTilesBesideCutOnes) {
  AttentionCut cut{8, 2, 264, 132, 128, true, -1};
  cut.fixed = true;
  constexpr std::int32_t kLong = 131072;
  KvRows rows;
  for (const std::int32_t queries : {kLong, kLong, 200}) {
    rows.add(rows.q_start.empty() ? 0 : rows.q_start.back() + kLong, queries, kLong, {});
  }
  AttentionSchedule schedule;
  ops::schedule_attention(rows.view(false), cut, schedule);
  const auto most = ops::most_attention_work(cut, {3, 2 * kLong + 200, 0, kLong});
  EXPECT_EQ(schedule.many.size(), 2u * 8192 + 13 * 32);
  EXPECT_GE(most.many, static_cast<std::int64_t>(schedule.many.size()));
  EXPECT_GE(most.joins, static_cast<std::int64_t>(schedule.joins.size()));
  EXPECT_GE(most.part_rows, schedule.part_rows);
}

}  // namespace
}  // namespace hybridattn::testing
