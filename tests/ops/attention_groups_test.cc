// Rows that begin with the same pages: who shares what, and that shared and own parts together are
// every key of every query once.
#include <algorithm>
#include <functional>
#include <map>

#include "src/ops/attention_place.h"
#include "tests/support/contexts.h"
#include "tests/support/oracle.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

using ops::AttentionCut;
using ops::AttentionSchedule;
using ops::AttentionWork;

constexpr std::int32_t kPage = 16;
const AttentionCut kCut{8, 2, 264, 132, 128, true, -1, false, false, kPage};

/// Rows one after the other in the stream; `shared` keys of each are those of the row before.
struct SharingRows : KvRows {
  void add(std::int32_t queries, std::int32_t keys, std::int32_t shared) {
    const std::size_t before = kv_start.empty() ? 0 : static_cast<std::size_t>(kv_start.back());
    std::vector<std::int32_t> mine;
    for (std::int32_t i = 0; i < (keys + kPage - 1) / kPage; ++i) {
      const bool same = i < shared / kPage;
      mine.push_back(same ? pages[before + static_cast<std::size_t>(i)] : next++);
    }
    KvRows::add(tokens, queries, keys, mine, static_cast<std::int64_t>(pages.size()));
    tokens += queries;
  }
  AttentionRows view() const { return KvRows::view(true); }
  std::int32_t tokens = 0, next = 0;
};

struct Span {
  std::int32_t begin, end;
  std::int64_t kv_start;
};

/// What each query row (of all rows of the stream) reads, from the parts or at once.
std::map<std::int64_t, std::vector<Span>> read_by(const AttentionSchedule& schedule,
                                                  const AttentionCut& cut) {
  std::map<std::int64_t, std::vector<Span>> whole;
  std::map<std::int64_t, Span> parts;
  const auto take = [&](const AttentionWork& work, std::int32_t tile) {
    const std::int64_t rows = std::int64_t{work.q_length} * cut.group;
    for (std::int32_t i = 0; i < tile && work.first + i < rows; ++i) {
      const Span span{work.begin, work.end, work.kv_start};
      if (work.part >= 0) {
        EXPECT_TRUE(parts.emplace(work.part + i, span).second) << "a part twice";
      } else {
        whole[work.q_start * cut.group + work.first + i].push_back(span);
      }
    }
  };
  for (const AttentionWork& work : schedule.few) take(work, ops::kAttentionFewRows);
  for (const AttentionWork& work : schedule.many) take(work, schedule.many_rows);
  // Parts that the blocks of a tile add up themselves.
  const auto add_up = [&](const AttentionWork& work, std::int32_t tile) {
    const std::int64_t rows = std::int64_t{work.q_length} * cut.group;
    for (std::int32_t i = 0; i < tile && work.first + i < rows && work.piece == 0; ++i) {
      for (std::int32_t n = 0; n < work.parts; ++n) {
        whole[work.q_start * cut.group + work.first + i].push_back(
            parts.at(work.part + i + n * tile));
      }
    }
  };
  for (const AttentionWork& work : schedule.few) add_up(work, ops::kAttentionFewRows);
  for (const AttentionWork& work : schedule.many) add_up(work, schedule.many_rows);
  for (const ops::AttentionJoin& join : schedule.joins) {
    const std::int64_t rows = std::int64_t{join.q_length} * cut.group;
    for (std::int32_t i = 0; i < join.tile && join.first + i < rows; ++i) {
      std::vector<Span>& spans = whole[join.q_start * cut.group + join.first + i];
      const std::int32_t among = join.shared_first + i;
      const std::int32_t shared = join.shared_part +
                                  among / join.shared_tile * join.shared_parts * join.shared_tile +
                                  among % join.shared_tile;
      for (std::int32_t n = 0; n < join.shared_parts; ++n) {
        spans.push_back(parts.at(shared + n * join.shared_tile));
      }
      for (std::int32_t n = 0; n < join.parts; ++n) {
        spans.push_back(parts.at(join.part + i + n * join.tile));
      }
    }
  }
  return whole;
}

void expect_every_key_once(const SharingRows& rows, const AttentionCut& cut,
                           const AttentionSchedule& schedule) {
  const auto read = read_by(schedule, cut);
  std::size_t queries = 0;
  for (std::size_t r = 0; r < rows.q_start.size(); ++r) {
    for (std::int64_t i = 0; i < rows.q_length[r] * cut.group; ++i, ++queries) {
      const auto& spans = read.at(rows.q_start[r] * cut.group + i);
      std::int32_t next = 0;
      for (const Span& span : spans) {
        ASSERT_EQ(span.begin, next);
        next = span.end;
        for (std::int32_t key = span.begin; key < span.end; key += kPage) {
          ASSERT_EQ(rows.pages[static_cast<std::size_t>(span.kv_start + key / kPage)],
                    rows.pages[static_cast<std::size_t>(rows.kv_start[r] + key / kPage)]);
        }
      }
      const std::int64_t seen =
          cut.causal ? rows.kv_length[r] - rows.q_length[r] + i / cut.group + 1 : rows.kv_length[r];
      ASSERT_GE(next, seen);
    }
  }
  EXPECT_EQ(read.size(), queries);
}

AttentionSchedule schedule_of(const SharingRows& rows, const AttentionCut& cut) {
  AttentionSchedule schedule;
  ops::schedule_attention(rows.view(), cut, schedule);
  expect_every_key_once(rows, cut, schedule);
  return schedule;
}

std::int64_t keys_read(const AttentionSchedule& schedule) {
  std::int64_t keys = 0;
  for (const auto* works : {&schedule.few, &schedule.many}) {
    for (const AttentionWork& work : *works) keys += work.end - work.begin;
  }
  return keys;
}

TEST(AttentionGroups, DecodesOfOnePromptReadItOnce) {
  SharingRows rows;
  for (int r = 0; r < 16; ++r) rows.add(1, 8192 + 16 * r + 3, r == 0 ? 0 : 8192);
  const AttentionSchedule schedule = schedule_of(rows, kCut);
  ASSERT_EQ(schedule.groups.size(), 1u);
  EXPECT_EQ(schedule.groups[0].keys, 8192);
  EXPECT_EQ(schedule.groups[0].rows, 16);
  EXPECT_LT(keys_read(schedule), 8192 + 16 * 300) << "16 rows of 8 heads fill one tile";
  // Joins of tiles of many come first.
  EXPECT_EQ(schedule.joins_of_many, 0);
}

TEST(AttentionGroups, NothingIsSharedWhereItDoesNotPayOrMayNotBe) {
  const auto groups = [](const AttentionCut& cut, const std::function<void(SharingRows&)>& fill) {
    SharingRows rows;
    fill(rows);
    return schedule_of(rows, cut).groups.size();
  };
  const auto two = [](SharingRows& rows) {
    rows.add(1, 2000, 0);
    rows.add(1, 2100, 1900);
  };
  EXPECT_EQ(groups(kCut, two), 1u);
  AttentionCut window = kCut, fixed = kCut, off = kCut, little = kCut;
  little.least_saved = 15;  // of each of 264 blocks: 1,792 keys of two heads are 13
  window.window = 4000;
  fixed.fixed = true;
  off.shared_page_size = 0;
  for (const AttentionCut& cut : {window, fixed, off, little}) EXPECT_EQ(groups(cut, two), 0u);
  EXPECT_EQ(groups(kCut,
                   [](SharingRows& rows) {
                     rows.add(1, 2000, 0);
                     rows.add(1, 2000, 511);  // too few
                   }),
            0u);
  EXPECT_EQ(groups(kCut,
                   [](SharingRows& rows) {
                     rows.add(64, 2000, 0);  // full tiles of their own
                     rows.add(64, 2000, 1900);
                   }),
            0u);
  EXPECT_EQ(groups(kCut,
                   [](SharingRows& rows) {
                     rows.add(1, 2000, 0);
                     rows.tokens += 1;  // a query of nobody between
                     rows.add(1, 2000, 1900);
                   }),
            0u);
}

TEST(AttentionGroups, ARowThatSharesLessBeginsAnother) {
  SharingRows rows;
  rows.add(1, 9000, 0);
  rows.add(1, 9000, 8192);
  rows.add(1, 9000, 8192);
  rows.add(1, 9000, 640);
  rows.add(1, 9000, 6400);
  const AttentionSchedule schedule = schedule_of(rows, kCut);
  ASSERT_EQ(schedule.groups.size(), 2u);
  EXPECT_EQ(schedule.groups[0].rows, 3);
  EXPECT_EQ(schedule.groups[1].row, 3);
  EXPECT_EQ(schedule.groups[1].keys, 6400);
}

TEST(AttentionGroups, TreesShareNothing) {
  SharingRows rows;
  for (int r = 0; r < 3; ++r) rows.add(4, 3000, r == 0 ? 0 : 2900);
  std::vector<std::int32_t> parents(12, kChain);
  std::fill_n(parents.begin() + 4, 4, -1);
  AttentionRows view = rows.view();
  view.parents = parents.data();
  AttentionSchedule schedule;
  ops::schedule_attention(view, kCut, schedule);
  EXPECT_TRUE(schedule.groups.empty());
  std::fill_n(parents.begin() + 4, 4, kChain);
  ops::schedule_attention(view, kCut, schedule);
  EXPECT_EQ(schedule.groups.size(), 1u);
}

TEST(AttentionGroups, RandomRowsReadEveryKeyOnceInTheRoomForTheMost) {
  Random random(9);
  AttentionSchedule schedule;
  std::size_t groups = 0;
  for (const std::int64_t group : {1, 4, 8, 20}) {
    for (const bool one_kernel : {false, true}) {
      for (const bool causal : {false, true}) {
        AttentionCut cut = kCut;
        cut.group = group;
        cut.one_kernel = one_kernel;
        cut.causal = causal;
        const ops::AttentionMost most = ops::most_attention_work(cut, {40, 2000, 30000, 9000});
        for (int i = 0; i < 12; ++i) {
          SharingRows rows;
          const auto count = random.integer(1, 40);
          for (std::int64_t r = 0; r < count; ++r) {
            const auto queries = static_cast<std::int32_t>(
                random.integer(0, 5) == 0 ? random.integer(0, 40) : random.integer(0, 2));
            const auto keys = static_cast<std::int32_t>(random.integer(queries, 9000));
            const std::int32_t before = r == 0 ? 0 : rows.kv_length.back();
            const auto shared = random.integer(0, 3) == 0 ? 0 : random.integer(0, 9000);
            rows.add(queries, keys, std::min({static_cast<std::int32_t>(shared), keys, before}));
          }
          ops::schedule_attention(rows.view(), cut, schedule);
          expect_every_key_once(rows, cut, schedule);
          groups += schedule.groups.size();
          const ops::AttentionBlock block{40,         2000,           most.few, most.many,
                                          most.joins, most.part_rows, 0,        cut.many_rows,
                                          0,          most.arrivals};
          EXPECT_TRUE(block.holds(schedule));
        }
      }
    }
  }
  EXPECT_GT(groups, 50u);
}

}  // namespace
}  // namespace hybridattn::testing
