// Softmax attention on the CPU, tile by tile with a running maximum. The query rows of a tile are
// the heads of one group times some tokens, so that a key or value is read once for all of them.
#include <algorithm>
#include <cmath>
#include <limits>

#include "src/core/highway_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/cpu/attention.cc"
#include "hwy/foreach_target.h"

#include "src/cpu/attention_bf16-inl.h"
#include "src/cpu/attention_decode-inl.h"
#include "src/cpu/attention_results-inl.h"
#include "src/cpu/attention_sight-inl.h"
#include "src/cpu/attention_split-inl.h"
#include "src/cpu/flush_denormals.h"
#include "src/cpu/gemm-inl.h"
#include "src/cpu/kernels.h"
#include "src/cpu/variants.h"

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

inline constexpr std::int64_t kKeys = ops::kAttentionKeyTile;

/// The scratch of one worker, cut up, and what one task works on.
struct Tile {
  Tile(float* scratch, const ops::AttentionParams& p)
      : dim(p.q.dim(2)), v_dim(p.v.dim(3)), d(ops::attention_padded(dim)),
        dv(ops::attention_padded(v_dim)), tokens(ops::attention_tile_tokens(p.group)) {
    const std::int64_t most = tokens * p.group;
    q = scratch;
    k = q + most * d;
    v = k + kKeys * d;
    logits = v + kKeys * dv;
    out = logits + most * kKeys;
    top = out + most * dv;
    sum = top + most;
  }

  std::int64_t dim, v_dim;  // true head dims
  std::int64_t d, dv;       // the same, padded
  std::int64_t tokens;      // query tokens of a full tile
  std::int64_t rows = 0;    // query rows now: tokens x heads of the group
  float* q;                 // [rows, d]
  float* k;                 // [kKeys, d]
  float* v;                 // [kKeys, dv]
  float* logits;            // [rows, kKeys]
  float* out;               // [rows, dv], not yet divided
  float* top;               // [rows] running maximum
  float* sum;               // [rows] running denominator
};

void load_padded(const void* src, DType dtype, std::int64_t dim, std::int64_t padded, float* dst) {
  load_row(src, dtype, dim, dst);
  for (std::int64_t i = dim; i < padded; ++i) dst[i] = 0;
}

void load_queries(const ops::AttentionParams& p, const Task& task, std::int64_t queries, Tile& t) {
  t.rows = queries * p.group;
  for (std::int64_t m = 0; m < t.rows; ++m) {
    const std::int64_t token = p.rows.q_start[task.row] + task.first_query + m / p.group;
    const std::int64_t head = task.kv_head * p.group + m % p.group;
    load_padded(row3(p.q, token, head), p.q.dtype, t.dim, t.d, t.q + m * t.d);
    t.top[m] = -kInfinity;
    t.sum[m] = 0;
    std::memset(t.out + m * t.dv, 0, static_cast<std::size_t>(t.dv) * sizeof(float));
  }
}

/// Keys [begin, end) of the row to the front of the tile. Nothing else is read: what lies beside
/// them may be anything.
void load_keys(const ops::AttentionParams& p, const Task& task, std::int64_t begin,
               std::int64_t end, Tile& t) {
  const std::int64_t page_size = p.k.dim(1);
  const std::int64_t first = p.rows.kv_start[task.row];
  for (std::int64_t j = begin; j < end; ++j) {
    const std::int64_t index = first + j / page_size;
    const std::int64_t page = p.rows.pages != nullptr ? p.rows.pages[index] : index;
    const std::int64_t offset = j % page_size;
    const std::int64_t at = j - begin;
    load_padded(row4(p.k, page, offset, task.kv_head), p.k.dtype, t.dim, t.d, t.k + at * t.d);
    load_padded(row4(p.v, page, offset, task.kv_head), p.v.dtype, t.v_dim, t.dv, t.v + at * t.dv);
  }
}

/// Both scales, then cap, for the first `count` logits of a row; returns their maximum.
float finish_logits(const AttentionOptions& options, float k_scale, float* logits,
                    std::int64_t count) {
  const DF d;
  const VF scale = hn::Set(d, options.scale * k_scale);
  const bool capped = options.logit_cap > 0;
  const VF cap = hn::Set(d, options.logit_cap);
  const VF inverse = hn::Set(d, capped ? 1.0f / options.logit_cap : 0.0f);
  float top = -kInfinity;
  for_vectors(count, [&](std::int64_t i, std::int64_t n) {
    VF s = hn::Mul(load_part(logits + i, n), scale);
    if (capped) s = hn::Mul(cap, hn::Tanh(d, hn::Mul(s, inverse)));
    store_part(s, logits + i, n);
  });
  for (std::int64_t i = 0; i < count; ++i) top = logits[i] > top ? logits[i] : top;
  return top;
}

/// Logits [begin, end) of one row become weights; its maximum, denominator and output are rescaled.
void soften(const ops::AttentionParams& p, const Task& task, std::int64_t m, std::int64_t begin,
            std::int64_t end, Tile& t) {
  const DF d;
  float* logits = t.logits + m * kKeys;
  const float k_scale = p.k_scale.of(task.kv_head);
  const float top = finish_logits(p.options, k_scale, logits + begin, end - begin);
  const float new_top = top > t.top[m] ? top : t.top[m];
  if (new_top > t.top[m] && t.sum[m] > 0) {
    const float shrink = std::exp(t.top[m] - new_top);
    t.sum[m] *= shrink;
    scale_row(t.out + m * t.dv, shrink, t.dv, t.out + m * t.dv);
  }
  t.top[m] = new_top;
  const VF shift = hn::Set(d, new_top);
  VF total = hn::Zero(d);
  for_vectors(end - begin, [&](std::int64_t i, std::int64_t n) {
    const VF weight = hn::Exp(d, hn::Sub(load_part(logits + begin + i, n), shift));
    store_part(weight, logits + begin + i, n);
    total = hn::Add(total, hn::IfThenElseZero(hn::FirstN(d, static_cast<std::size_t>(n)), weight));
  });
  t.sum[m] += hn::ReduceSum(d, total);
}

/// Query row m of a tree against the loaded keys [begin, end): run by run of those that it sees.
void attend_tree(const ops::AttentionParams& p, const Task& task, std::int64_t m,
                 std::int64_t begin, std::int64_t end, Tile& t) {
  const std::int64_t first_new = p.rows.kv_length[task.row] - p.rows.q_length[task.row];
  const TreeSight sight = tree_sight(p, task.row, task.first_query + m / p.group);
  const auto seen = [&](std::int64_t j) {
    return j < first_new ? j >= sight.begin : (sight.path >> (j - first_new) & 1) != 0;
  };
  for (std::int64_t from = begin; from < end;) {
    std::int64_t to = from;
    while (to < end && seen(to)) ++to;
    if (from < to) {
      soften(p, task, m, from - begin, to - begin, t);
      gemm_nn(1, t.dv, to - from, t.logits + m * kKeys + from - begin, kKeys, 1,
              t.v + (from - begin) * t.dv, t.dv, t.out + m * t.dv, t.dv);
    }
    from = to + 1;
  }
}

/// Keys [begin, end) of the row against all query rows of the tile.
void attend(const ops::AttentionParams& p, const Task& task, std::int64_t begin, std::int64_t end,
            Tile& t) {
  const std::int64_t count = end - begin;
  load_keys(p, task, begin, end, t);
  gemm_nt(t.rows, count, t.d, t.q, t.d, t.k, t.d, t.logits, kKeys);
  if (is_tree(p, task.row)) {
    for (std::int64_t m = 0; m < t.rows; ++m) attend_tree(p, task, m, begin, end, t);
    return;
  }
  bool all_visible = true;
  for (std::int64_t m = 0; m < t.rows; ++m) {
    const core::KeyRange seen = range_of(p, task.row, task.first_query + m / p.group);
    const std::int64_t from = std::clamp(seen.begin - begin, std::int64_t{0}, count);
    const std::int64_t to = std::clamp(seen.end - begin, from, count);
    all_visible = all_visible && from == 0 && to == count;
    if (from < to) soften(p, task, m, from, to, t);
  }
  if (all_visible) {
    gemm_nn(t.rows, t.dv, count, t.logits, kKeys, 1, t.v, t.dv, t.out, t.dv);
    return;
  }
  // A row must not meet values that it does not see, not even with weight 0: they may be NaN.
  for (std::int64_t m = 0; m < t.rows; ++m) {
    const core::KeyRange seen = range_of(p, task.row, task.first_query + m / p.group);
    const std::int64_t from = std::clamp(seen.begin - begin, std::int64_t{0}, count);
    const std::int64_t to = std::clamp(seen.end - begin, from, count);
    gemm_nn(1, t.dv, to - from, t.logits + m * kKeys + from, kKeys, 1, t.v + from * t.dv, t.dv,
            t.out + m * t.dv, t.dv);
  }
}

void run_task(const ops::AttentionParams& p, const Task& task, float* scratch) {
  const FlushDenormals flush;
  Tile t(scratch, p);
  const std::int64_t left = p.rows.q_length[task.row] - task.first_query;
  const std::int64_t queries = left < t.tokens ? left : t.tokens;
  load_queries(p, task, queries, t);
  // A token of a tree may stand right behind the computed ones, wherever it is in the row.
  const std::int64_t first = is_tree(p, task.row) ? 0 : task.first_query;
  const std::int64_t begin = range_of(p, task.row, first).begin;
  const std::int64_t end = range_of(p, task.row, task.first_query + queries - 1).end;
  for (std::int64_t tile = begin / kKeys * kKeys; tile < end; tile += kKeys) {
    attend(p, task, std::max(tile, begin), std::min(tile + kKeys, end), t);
  }
  store_results(p, task, {t.rows, t.v_dim, t.dv, t.out, t.top, t.sum});
}

#if HYBRIDATTN_TARGET_HAS_TILES
/// The same in bf16, of up to `tokens` tokens.
template <class Products>
void run_wide_task(const ops::AttentionParams& p, const Task& task, std::int64_t tokens,
                   std::byte* scratch) {
  const FlushDenormals flush;
  const std::int64_t left = p.rows.q_length[task.row] - task.first_query;
  const std::int64_t queries = left < tokens ? left : tokens;
  WideTile t(scratch, p, queries * p.group);
  load_query_rows(p, p.rows.q_start[task.row] + task.first_query, task.kv_head, t);
  if (is_tree(p, task.row)) load_tree_sight(p, task.row, task.first_query, t);
  // A token of a tree may stand right behind the computed ones, wherever it is in the row.
  const std::int64_t first = is_tree(p, task.row) ? 0 : task.first_query;
  const std::int64_t begin = range_of(p, task.row, first).begin;
  const std::int64_t end = range_of(p, task.row, task.first_query + queries - 1).end;
  const KeyPlaces places(p, task.row, task.kv_head);
  for (std::int64_t tile = begin / kWideKeys * kWideKeys; tile < end; tile += kWideKeys) {
    attend_wide<Products>(p, task.row, task.first_query, places, tile, std::max(tile, begin),
                          std::min(tile + kWideKeys, end), t);
  }
  finish_rows(t);
  store_results(p, task, {t.rows, t.v_dim, t.v_stride, t.out, t.top, t.sum});
}
#endif

/// Tasks of one row and key head. Long rows give many: the caller's loop finds a task by walking
/// rows.
std::int64_t query_tiles(const ops::AttentionParams& p, std::int32_t row, std::int64_t tokens) {
  return (p.rows.q_length[row] + tokens - 1) / tokens;
}

/// run(task, scratch) for the rows [first, last) and all key heads, query tiles of `tokens`.
template <class Run>
void for_tasks(const ops::AttentionParams& p, core::Launch& launch, std::int32_t first,
               std::int32_t last, std::int64_t tokens, const Run& run) {
  const std::int64_t kv_heads = p.k.dim(2);
  while (first < last) {
    // Rows of one tile go together in one loop; a long row has a loop of its own.
    std::int32_t end = first + 1;
    const std::int64_t tiles = query_tiles(p, first, tokens);
    while (tiles <= 1 && end < last && query_tiles(p, end, tokens) <= 1) ++end;
    const std::int64_t per_row = tiles * kv_heads;
    const std::int64_t span = (end - first) * kv_heads;
    parallel_for(launch.executor, tiles <= 1 ? span : per_row, [&](auto i, int worker) {
      // The last tiles of a long causal row are the heaviest: they go first.
      const std::int64_t tile = tiles <= 1 ? 0 : tiles - 1 - i / kv_heads;
      const auto row = static_cast<std::int32_t>(tiles <= 1 ? first + i / kv_heads : first);
      if (p.rows.q_length[row] == 0) return;
      run(Task{row, i % kv_heads, tile * tokens}, launch.scratch<std::byte>(worker));
    });
    first = end;
  }
}

#if HYBRIDATTN_TARGET_HAS_TILES
/// Tokens of a task in bf16: as many as products want, but tasks enough for all threads.
std::int64_t wide_tokens(const ops::AttentionParams& p, std::int64_t threads, std::int64_t rows,
                         std::int32_t first, std::int32_t last) {
  constexpr std::int64_t kTasks = 4;  // of a thread
  for (;; rows /= 2) {
    const std::int64_t tokens = ops::attention_bf16_tokens(p.group, rows);
    if (rows <= ops::kAttentionBf16FewRows) return tokens;
    std::int64_t tasks = 0;
    for (std::int32_t row = first; row < last; ++row) {
      tasks += query_tiles(p, row, tokens) * p.k.dim(2);
    }
    if (tasks >= kTasks * threads) return tokens;
  }
}
#endif

/// Rows of many tokens.
void attend_rows(const ops::AttentionParams& p, core::Launch& launch, std::int32_t first,
                 std::int32_t last) {
#if HYBRIDATTN_TARGET_HAS_TILES
  if (ops::attention_in_bf16(p)) {
    return with_products(launch, [&]<class Products>() {
      const std::int64_t tokens =
          wide_tokens(p, launch.executor.concurrency(), Products::kTaskRows, first, last);
      for_tasks(p, launch, first, last, tokens, [&](const Task& task, std::byte* scratch) {
        const typename Products::Scope scope;
        run_wide_task<Products>(p, task, tokens, scratch);
      });
    });
  }
#endif
  for_tasks(p, launch, first, last, ops::attention_tile_tokens(p.group),
            [&](const Task& task, std::byte* scratch) {
              run_task(p, task, reinterpret_cast<float*>(scratch));
            });
}

void attention(const ops::AttentionParams& p, core::Launch& launch) {
  launch.target = hwy::TargetName(HWY_TARGET);
#if HYBRIDATTN_TARGET_HAS_TILES
  if (ops::attention_in_bf16(p)) launch.target = DotProducts::kTarget;
#endif
  const auto decodes = [&](std::int32_t row) {
    return !p.one_kernel && p.rows.q_length[row] <= ops::kAttentionFewTokens;
  };
  for (std::int32_t first = 0; first < p.rows.count;) {
    std::int32_t last = first + 1;
    const bool decode = decodes(first);
    while (last < p.rows.count && decodes(last) == decode) ++last;
    if (decode) {
      SplitDecode(p, launch, first, last).run();
    } else {
      attend_rows(p, launch, first, last);
    }
    first = last;
  }
}

void merge_states(const ops::MergeStatesParams& p, core::Launch& launch) {
  const std::int64_t dim = p.out.dim(2);
  launch.target = hwy::TargetName(HWY_TARGET);
  parallel_for(launch.executor, p.out.dim(0), [&](std::int64_t t, int worker) {
    float* scratch = launch.scratch<float>(worker);
    for (std::int64_t h = 0; h < p.out.dim(1); ++h) {
      const float lse_a = reinterpret_cast<const float*>(row2(p.lse_a, t))[h];
      const float lse_b = reinterpret_cast<const float*>(row2(p.lse_b, t))[h];
      const float top = lse_a > lse_b ? lse_a : lse_b;
      const float a = lse_a == -kInfinity ? 0.0f : std::exp(lse_a - top);
      const float b = lse_b == -kInfinity ? 0.0f : std::exp(lse_b - top);
      float* y = scratch + 2 * dim;
      zero_row(dim, y, DType::kF32);
      // A side without weight is not read: it may hold anything.
      if (a > 0) {
        const float* x = row_f32(row3(p.out_a, t, h), p.out_a.dtype, dim, scratch);
        scale_row(x, a / (a + b), dim, y);
      }
      if (b > 0) {
        const float* x = row_f32(row3(p.out_b, t, h), p.out_b.dtype, dim, scratch + dim);
        const VF weight = hn::Set(DF(), b / (a + b));
        for_vectors(dim, [&](std::int64_t i, std::int64_t n) {
          store_part(hn::MulAdd(load_part(x + i, n), weight, load_part(y + i, n)), y + i, n);
        });
      }
      store_row(y, dim, row3(p.out, t, h), p.out.dtype);
      if (p.lse.empty()) continue;
      auto* lse = const_cast<float*>(reinterpret_cast<const float*>(row2(p.lse, t)));
      lse[h] = a + b > 0 ? top + std::log(a + b) : -kInfinity;
    }
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hybridattn::cpu {

HWY_EXPORT(attention);
HWY_EXPORT(merge_states);

core::CpuVariants<ops::AttentionParams> attention_variants() {
  return variants<ops::AttentionParams>(HWY_DISPATCH_TABLE(attention));
}

core::CpuVariants<ops::MergeStatesParams> merge_states_variants() {
  return variants<ops::MergeStatesParams>(HWY_DISPATCH_TABLE(merge_states));
}

}  // namespace hybridattn::cpu
#endif  // HWY_ONCE
