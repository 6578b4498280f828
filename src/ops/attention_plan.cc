#include "src/ops/attention_plan.h"

#include <algorithm>
#include <limits>

#include "src/core/context_impl.h"
#include "src/core/formulas.h"
#include "src/ops/attention_part.h"

namespace hybridattn::ops {
namespace {

AttentionTile tile_of(const AttentionRows& rows, const AttentionCut& cut, std::int32_t row,
                      std::int64_t first, std::int64_t last) {
  const std::int64_t length = rows.q_length[row], keys = rows.kv_length[row];
  const bool tree = rows.parents != nullptr && rows.parents[rows.q_start[row]] != kChain;
  const auto seen = [&](std::int64_t query_row) {
    return core::visible_keys(query_row / cut.group, length, keys, cut.causal, cut.window);
  };
  // A token of a tree stands behind those it follows alone, maybe the row's state.
  const std::int64_t begin = tree ? seen(0).begin : seen(first).begin;
  return {row, static_cast<std::int32_t>(first),
          static_cast<std::int32_t>(begin / kAttentionCut * kAttentionCut),
          static_cast<std::int32_t>(seen(last).end)};
}

std::int64_t pieces_of(const AttentionTile& tile, std::int64_t part, bool fixed) {
  // Fixed parts lie on a grid from the row's first key.
  const std::int64_t begin = fixed ? tile.begin / part * part : tile.begin;
  return std::max<std::int64_t>(1, (tile.end - begin + part - 1) / part);
}

/// A part that has all keys of any row.
constexpr std::int64_t kWhole = std::numeric_limits<std::int32_t>::max();

/// Keys that one could see to in the time that it takes to add up a part: by a kernel of its own or
/// one of few rows, and one of many rows by one block.
constexpr std::int64_t kJoin = 3, kJoinOfMany = 48;

/// Allocates nothing.
void sort_longest_first(std::vector<AttentionWork>& work) {
  const auto before = [](const AttentionWork& a, const AttentionWork& b) {
    const std::int32_t keys_a = a.end - a.begin, keys_b = b.end - b.begin;
    if (keys_a != keys_b) return keys_a > keys_b;
    if (a.row != b.row) return a.row < b.row;
    return a.first != b.first ? a.first < b.first : a.begin < b.begin;
  };
  if (!std::is_sorted(work.begin(), work.end(), before)) {
    std::sort(work.begin(), work.end(), before);
  }
}

class Cutter {
 public:
  Cutter(const AttentionRows& rows, const AttentionCut& cut, AttentionSchedule& out)
      : rows_(rows), cut_(cut), out_(out) {}

  void add(bool many) {
    const std::int32_t size = many ? cut_.many_rows : kAttentionFewRows;
    std::vector<AttentionTile>& tiles = out_.tiles;
    tiles.clear();
    add_shared_tiles(many, size);
    for (std::int32_t row = 0; row < rows_.count; ++row) {
      const std::int64_t query_rows = rows_.q_length[row] * cut_.group;
      if (takes_many(query_rows) != many) continue;
      const std::int32_t group = out_.group_of.empty() ? -1 : out_.group_of[at(row)];
      for (std::int64_t first = 0; first < query_rows; first += size) {
        const std::int64_t last = std::min(first + size, query_rows) - 1;
        tiles.push_back(tile_of(rows_, cut_, row, first, last));
        if (group < 0) continue;
        tiles.back().group = group;
        tiles.back().begin = out_.groups[at(group)].keys;
      }
    }
    const std::int64_t fixed = many ? kAttentionFixedPartOfMany : kAttentionFixedPart;
    const std::int64_t slots = many ? cut_.slots_of_many : cut_.slots;
    last_joins_ = cut_.last_joins(many, static_cast<std::int64_t>(tiles.size()));
    const std::int64_t join = many && last_joins_ ? kJoinOfMany : kJoin;
    const std::int64_t part =
        cut_.fixed ? fixed : choose_part(tiles, {slots / cut_.kv_heads, join, many});
    std::vector<AttentionWork>& work = many ? out_.many : out_.few;
    for (AttentionTile& tile : tiles) {
      if (many && cut_.leaves_whole(rows_.q_length[tile.row])) {
        cut_tile(tile, kWhole, size, work);
        continue;
      }
      if (cut_.fixed) tile.begin = fixed_begin(tile.begin, static_cast<std::int32_t>(part));
      cut_tile(tile, part, size, work);
    }
    // Blocks that have one piece each need no order.
    if (static_cast<std::int64_t>(work.size()) * cut_.kv_heads > slots) sort_longest_first(work);
  }

 private:
  static std::int32_t fixed_begin(std::int32_t begin, std::int32_t part) {
    const std::int32_t origin = begin / part * part;
    return origin + (begin - origin) / kAttentionFixedCut * kAttentionFixedCut;
  }

  static std::size_t at(std::int32_t index) { return static_cast<std::size_t>(index); }
  bool takes_many(std::int64_t query_rows) const {
    return query_rows > kAttentionFewRows || cut_.one_kernel;
  }
  /// Tiles over the query rows of groups come first: what joins them must know their places.
  void add_shared_tiles(bool many, std::int32_t size) {
    for (std::size_t g = 0; g < out_.groups.size(); ++g) {
      const AttentionGroup& group = out_.groups[g];
      const std::int64_t query_rows = group.tokens * cut_.group;
      if (takes_many(query_rows) != many) continue;
      for (std::int64_t first = 0; first < query_rows; first += size) {
        out_.tiles.push_back({group.row, static_cast<std::int32_t>(first), 0, group.keys,
                              static_cast<std::int32_t>(g), true});
      }
    }
  }
  /// To a kernel a group is one row, whose queries see the keys and, of a row of as many, more.
  void cut_shared(const AttentionTile& tile, std::int64_t part, std::int32_t size,
                  std::vector<AttentionWork>& out) {
    AttentionGroup& group = out_.groups[at(tile.group)];
    if (tile.first == 0) {
      group.part = static_cast<std::int32_t>(out_.part_rows);
      group.parts = static_cast<std::int32_t>(pieces_of(tile, part, false));
      group.tile = size;
    }
    const std::int32_t keys = group.keys + (cut_.causal ? group.tokens : 0);
    add_pieces({tile.row, tile.first, tile.begin, tile.end, -1, rows_.q_start[tile.row],
                group.tokens, keys, rows_.kv_start[tile.row]},
               tile.begin, group.parts, part, size, out);
  }
  void add_pieces(AttentionWork work, std::int64_t origin, std::int64_t pieces, std::int64_t part,
                  std::int32_t size, std::vector<AttentionWork>& out) {
    const std::int32_t begin = work.begin, end = work.end;
    for (std::int64_t i = 0; i < pieces; ++i) {
      work.begin = static_cast<std::int32_t>(std::max<std::int64_t>(begin, origin + i * part));
      work.end = static_cast<std::int32_t>(std::min<std::int64_t>(end, origin + (i + 1) * part));
      work.part = static_cast<std::int32_t>(out_.part_rows);
      out.push_back(work);
      out_.part_rows += size;
      ++work.piece;
    }
  }
  void cut_tile(const AttentionTile& tile, std::int64_t part, std::int32_t size,
                std::vector<AttentionWork>& out) {
    if (tile.shared) return cut_shared(tile, part, size, out);
    const std::int64_t pieces = pieces_of(tile, part, cut_.fixed);
    AttentionWork work{tile.row,
                       tile.first,
                       tile.begin,
                       tile.end,
                       -1,
                       rows_.q_start[tile.row],
                       rows_.q_length[tile.row],
                       rows_.kv_length[tile.row],
                       rows_.kv_start[tile.row]};
    if (pieces == 1 && tile.group < 0) {
      out.push_back(work);
      return;
    }
    const std::int64_t origin = cut_.fixed ? tile.begin / part * part : tile.begin;
    if (last_joins_) {
      work.parts = static_cast<std::int32_t>(pieces);
    } else {
      out_.joins.push_back(join_of(tile, work, pieces, origin / part, size));
    }
    add_pieces(work, origin, pieces, part, size, out);
    if (last_joins_) out_.part_rows += attention_join_sums(work.parts) * size;
  }
  /// `index`: of the first piece, counted from the row's first key.
  AttentionJoin join_of(const AttentionTile& tile, const AttentionWork& work, std::int64_t pieces,
                        std::int64_t index, std::int32_t size) const {
    AttentionJoin join{tile.row,
                       tile.first,
                       static_cast<std::int32_t>(out_.part_rows),
                       static_cast<std::int32_t>(pieces),
                       static_cast<std::int32_t>(index),
                       size,
                       work.q_start,
                       work.q_length};
    if (tile.group < 0) return join;
    const AttentionGroup& group = out_.groups[at(tile.group)];
    const std::int64_t before = work.q_start - rows_.q_start[group.row];
    join.shared_parts = group.parts;
    join.shared_part = group.part;
    join.shared_tile = group.tile;
    join.shared_first = static_cast<std::int32_t>(before * cut_.group) + tile.first;
    return join;
  }

  const AttentionRows& rows_;
  const AttentionCut& cut_;
  AttentionSchedule& out_;
  bool last_joins_ = false;
};

/// Tiles of few and of many query rows of a key head, at most.
struct MostTiles {
  std::int64_t few, many, many_of_row;
};

MostTiles most_tiles(const AttentionCut& cut, const AttentionLimits& limits) {
  const std::int64_t row_tokens = limits.row_tokens == 0 ? limits.tokens : limits.row_tokens;
  const std::int64_t query_rows = limits.tokens * cut.group;
  const std::int64_t rows = std::min(limits.rows, limits.tokens);
  const bool many = cut.one_kernel || row_tokens * cut.group > kAttentionFewRows;
  // A row's last tile may not be full, nor one over rows that share keys.
  const std::int64_t full = query_rows / cut.many_rows;
  const std::int64_t groups = cut.shared_page_size > 0 ? rows / 2 : 0;
  const std::int64_t tiles = (many ? std::min(query_rows, rows + full) : 0) +
                             (cut.shared_page_size > 0 ? groups + full : 0);
  return {cut.one_kernel ? 0 : rows + groups, tiles,
          (row_tokens * cut.group + cut.many_rows - 1) / cut.many_rows};
}

}  // namespace

std::int64_t AttentionCut::most_tiles_cut() const {
  constexpr std::int64_t kEnough = 2;  // pieces for each block that runs at once
  return fixed && !one_kernel ? kEnough * slots_of_many / kv_heads
                              : std::numeric_limits<std::int64_t>::max();
}

bool AttentionCut::leaves_whole(std::int64_t queries) const {
  return (queries * group + many_rows - 1) / many_rows > most_tiles_cut();
}

bool AttentionCut::last_joins(bool many, std::int64_t tiles) const {
  constexpr std::int64_t kFewParts = 5;
  // What a query sees is to add up in one order, wherever its tile begins: the kernel sees to that,
  // and to parts that several rows share.
  if (fixed || shared_page_size > 0) return false;
  const std::int64_t planned = many ? many_tiles : few_tiles;
  return (planned < 0 ? tiles : planned) * kv_heads * kFewParts >= (many ? slots_of_many : slots);
}

void choose_joins(const AttentionLimits& limits, AttentionCut& cut) {
  const MostTiles tiles = most_tiles(cut, limits);
  cut.few_tiles = tiles.few;
  cut.many_tiles = tiles.many;
}

AttentionCut attention_cut(Context& context, const AttentionHeads& heads) {
  const Context::Impl& impl = context.impl();
  const core::DeviceInfo& info = impl.accelerator->info();
  const std::int64_t sms = info.num_sms;
  // Newer cards multiply 128 rows at once, one block on each multiprocessor.
  const bool wide = info.compute_major == 9;
  AttentionCut cut{heads.num_heads / heads.num_kv_heads,
                   heads.num_kv_heads,
                   2 * sms,
                   wide ? sms : 2 * sms,
                   wide ? 128 : 64,
                   heads.causal,
                   heads.window};
  cut.fixed = impl.batch_invariant || impl.chunk_invariant;
  // The kernel for few rows keeps many keys on their way, in more memory than small cards have.
  cut.one_kernel = impl.chunk_invariant || info.max_shared_bytes < kAttentionFewBytes;
  return cut;
}

AttentionMost most_attention_work(const AttentionCut& cut, const AttentionLimits& limits) {
  const auto [few_tiles, many_tiles, many_of_row] = most_tiles(cut, limits);
  const bool shares = cut.shared_page_size > 0;
  const std::int64_t all_keys =
      limits.all_keys > 0 ? limits.all_keys : std::int64_t{limits.rows} * limits.keys;
  // Every piece but a tile's last is a whole part.
  const auto fixed_pieces = [&](std::int64_t tiles, std::int64_t tiles_of_row, std::int64_t part) {
    return std::min(tiles * (limits.keys / part + 1), tiles + tiles_of_row * (all_keys / part));
  };
  const auto filled_pieces = [&](std::int64_t tiles, std::int64_t slots) {
    const std::int64_t at_once = std::max<std::int64_t>(slots / cut.kv_heads, 1);
    return std::min(tiles * (limits.keys / kAttentionCut + 1), kAttentionMostPieces * at_once);
  };
  // What follows a shared part is a part, cut or not.
  const std::int64_t uncut_few = shares ? few_tiles : 0, uncut_many = shares ? many_tiles : 0;
  const std::int64_t few_parts = cut.fixed
                                     ? fixed_pieces(few_tiles, 1, kAttentionFixedPart)
                                     : std::max(filled_pieces(few_tiles, cut.slots), uncut_few);
  const std::int64_t cut_of_row = std::min(many_of_row, cut.most_tiles_cut());
  const std::int64_t cut_tiles = std::min(many_tiles, limits.rows * cut_of_row);
  const std::int64_t many_parts =
      cut.fixed ? fixed_pieces(cut_tiles, cut_of_row, kAttentionFixedPartOfMany)
                : std::max(filled_pieces(many_tiles, cut.slots_of_many), uncut_many);
  AttentionMost most{};
  most.few = std::max(few_tiles, few_parts);
  // Beside the pieces of tiles that are cut there may be whole ones.
  most.many = cut.fixed ? many_tiles - cut_tiles + many_parts : std::max(many_tiles, many_parts);
  const auto add = [&](bool of_many, std::int64_t tiles, std::int64_t parts, std::int64_t size) {
    if (cut.last_joins(of_many, tiles)) {
      // Sums of groups: of an eighth of the parts, and one more of every 17.
      most.part_rows += (parts + parts / 8 + parts / 17) * size;
    } else {
      most.joins += shares ? tiles : std::min(tiles, parts / 2);
      most.part_rows += parts * size;
    }
  };
  add(false, few_tiles, few_parts, kAttentionFewRows);
  add(true, many_tiles, many_parts, cut.many_rows);
  if (!cut.fixed) most.arrivals = most.part_rows / kAttentionFewRows * cut.kv_heads;
  most.shared_rows = shares ? std::min(limits.rows, limits.tokens) : 0;
  return most;
}

void AttentionSchedule::clear() {
  few.clear();
  many.clear();
  joins.clear();
  part_rows = arrivals = 0;
}

void AttentionSchedule::reserve(const AttentionMost& most) {
  few.reserve(static_cast<std::size_t>(most.few));
  many.reserve(static_cast<std::size_t>(most.many));
  joins.reserve(static_cast<std::size_t>(most.joins));
  tiles.reserve(static_cast<std::size_t>(std::max(most.few, most.many)));
  groups.reserve(static_cast<std::size_t>(most.shared_rows / 2));
  group_of.reserve(static_cast<std::size_t>(most.shared_rows));
}

std::int64_t first_page_read(const AttentionRows& rows, const AttentionHeads& heads,
                             std::int32_t row) {
  if (heads.window < 0) return 0;
  const std::int64_t oldest =
      std::int64_t{rows.kv_length[row]} - rows.q_length[row] + 1 - heads.window;
  return oldest > 0 ? oldest / heads.page_size : 0;
}

void schedule_attention(const AttentionRows& rows, const AttentionCut& cut,
                        AttentionSchedule& schedule) {
  schedule.clear();
  schedule.many_rows = cut.many_rows;
  find_shared_prefixes(rows, cut, schedule);
  Cutter cutter(rows, cut, schedule);
  // What few rows of a group share may be tiles of many.
  cutter.add(true);
  schedule.joins_of_many = static_cast<std::int64_t>(schedule.joins.size());
  cutter.add(false);
  if (!cut.fixed) schedule.arrivals = schedule.part_rows / kAttentionFewRows * cut.kv_heads;
}

}  // namespace hybridattn::ops
