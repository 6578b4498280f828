// Which rows of attention read their first keys together.
#include <algorithm>

#include "src/ops/attention_plan.h"

namespace hybridattn::ops {
namespace {

class GroupFinder {
 public:
  GroupFinder(const AttentionRows& rows, const AttentionCut& cut) : rows_(rows), cut_(cut) {}

  /// The group that begins with a row; of that row alone where it shares nothing with the next.
  AttentionGroup grow(std::int32_t row) const {
    AttentionGroup group{row, 1, rows_.q_length[row], 0};
    if (!may_share(row)) return group;
    std::int64_t common = keys_before(row);
    for (std::int32_t next = row + 1; next < rows_.count && follows(next); ++next) {
      const std::int64_t with_next =
          whole(std::min({common, same_keys(next, common), keys_before(next)}));
      // One more row, for what all the others then no longer share.
      if (with_next < kAttentionLeastShared || with_next * group.rows < saved(group)) break;
      common = with_next;
      group.keys = static_cast<std::int32_t>(with_next);
      group.tokens += rows_.q_length[next];
      ++group.rows;
    }
    return group;
  }

  /// Whether tiles over the rows of a group are at most half as many as those of each row, and save
  /// enough.
  bool pays(const AttentionGroup& group) const {
    if (group.rows < 2) return false;
    std::int64_t apart = 0;
    for (std::int32_t r = group.row; r < group.row + group.rows; ++r) {
      apart += tiles(rows_.q_length[r] * cut_.group);
    }
    const std::int64_t together = tiles(group.tokens * cut_.group);
    return 2 * together <= apart &&
           (apart - together) * group.keys * cut_.kv_heads >= cut_.least_saved * cut_.slots;
  }

 private:
  static std::int64_t whole(std::int64_t keys) { return keys / kAttentionCut * kAttentionCut; }
  static std::int64_t saved(const AttentionGroup& group) {
    return std::int64_t{group.rows - 1} * group.keys;
  }
  std::int64_t tiles(std::int64_t query_rows) const {
    const std::int64_t size =
        query_rows > kAttentionFewRows || cut_.one_kernel ? cut_.many_rows : kAttentionFewRows;
    return (query_rows + size - 1) / size;
  }
  bool may_share(std::int32_t row) const {
    const std::int32_t start = rows_.q_start[row];
    return rows_.q_length[row] > 0 &&
           (rows_.parents == nullptr || rows_.parents[start] == kChain) && keys_before(row) > 0;
  }
  bool follows(std::int32_t row) const {
    return may_share(row) && rows_.q_start[row] == rows_.q_start[row - 1] + rows_.q_length[row - 1];
  }
  /// Keys that all queries of a row see.
  std::int64_t keys_before(std::int32_t row) const {
    return std::int64_t{rows_.kv_length[row]} - (cut_.causal ? rows_.q_length[row] : 0);
  }
  /// Keys in the pages that a row and the one before it begin with, where they are fewer than
  /// `most`.
  std::int64_t same_keys(std::int32_t row, std::int64_t most) const {
    const std::int64_t pages =
        (std::min(most, keys_before(row)) + cut_.shared_page_size - 1) / cut_.shared_page_size;
    const std::int32_t* mine = rows_.pages + rows_.kv_start[row];
    const std::int32_t* before = rows_.pages + rows_.kv_start[row - 1];
    return (std::mismatch(mine, mine + pages, before).first - mine) * cut_.shared_page_size;
  }

  const AttentionRows& rows_;
  const AttentionCut& cut_;
};

}  // namespace

void find_shared_prefixes(const AttentionRows& rows, const AttentionCut& cut,
                          AttentionSchedule& schedule) {
  schedule.groups.clear();
  schedule.group_of.clear();
  if (cut.shared_page_size == 0 || cut.window >= 0 || cut.fixed) return;
  const GroupFinder finder(rows, cut);
  schedule.group_of.resize(static_cast<std::size_t>(rows.count), -1);
  for (std::int32_t row = 0; row < rows.count;) {
    const AttentionGroup group = finder.grow(row);
    if (finder.pays(group)) {
      std::fill_n(schedule.group_of.begin() + row, group.rows,
                  static_cast<std::int32_t>(schedule.groups.size()));
      schedule.groups.push_back(group);
    }
    row += group.rows;
  }
}

}  // namespace hybridattn::ops
