// Conformance of softmax attention and of the merge of its results.
#include <optional>

#include "tests/conformance/bounds.h"

namespace hybridattn::testing {
namespace {

class ConformanceAttention : public Conformance {
 protected:
  struct Case {
    std::int64_t page_size = 16;  // 0 = dense
    std::int64_t hk = 2;
    std::int64_t group = 3;
    std::int64_t dim = 24;
    std::int64_t v_dim = 40;
    Layout layout = Layout::kDense;
    AttentionOptions options{0.2f, true, 0.0f, -1};
    bool sinks = false;
    std::optional<DType> cache_dtype{};  // as the queries unless given
    std::optional<DType> out_dtype{};    // the same
    bool head_scales = false;
    bool gate = false;
    std::optional<DType> gate_dtype{};  // as the queries unless given
  };
  struct Row {
    std::int32_t queries;
    std::int32_t keys;
  };
  static std::vector<Row> rows_of_table() {
    return {{1, 1}, {70, 70}, {0, 9}, {1, 130}, {3, 0}, {5, 64}, {2, 65}, {66, 150}};
  }

  void check(const Case& c) { check(c, rows_of_table()); }
  void check(const Case& c, const std::vector<Row>& row_list);
  void check_one(const Case& c, const std::vector<Row>& row_list);
  /// With caches in f8, over pages and dense, plain and with all that may stand beside scales.
  void check_f8(Case c);
};

INSTANTIATE_TEST_SUITE_P(Table, ConformanceAttention, ::testing::ValuesIn(all_setups()),
                         setup_name);

/// On the GPU also the kernels that newer devices take for want of their own.
std::vector<Setup> attention_cuda_setups() {
  std::vector<Setup> out = cuda_setups();
  if (!built_with_cuda()) return out;
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    out.push_back({Isa::kBaseline, 1, dtype, "sm80"});
  }
  return out;
}
INSTANTIATE_TEST_SUITE_P(Cuda, ConformanceAttention, ::testing::ValuesIn(attention_cuda_setups()),
                         setup_name);

/// Page ids in an order that is not that of the rows, with free pages between.
struct Cache {
  KvRows rows;
  std::int64_t pages = 1;
  std::vector<std::pair<std::int64_t, std::int64_t>> used;  // page, tokens that are keys
};

template <class RowList>
Cache lay_out(const RowList& list, std::int64_t page_size) {
  Cache cache;
  std::int64_t total = 0;
  for (const auto& row : list) {
    total += page_size == 0 ? row.keys + 2 : (row.keys + page_size - 1) / page_size + 1;
  }
  cache.pages = total + 1;
  std::int64_t next = cache.pages - 1;
  std::int64_t key = 1;
  std::int32_t token = 1;
  for (const auto& row : list) {
    std::vector<std::int32_t> ids;
    for (std::int64_t left = row.keys; page_size > 0 && left > 0; left -= page_size) {
      ids.push_back(static_cast<std::int32_t>(next));
      cache.used.emplace_back(next--, std::min(left, page_size));
    }
    for (std::int64_t i = 0; page_size == 0 && i < row.keys; ++i)
      cache.used.emplace_back(key + i, 1);
    --next;  // a free page
    cache.rows.add(token, row.queries, row.keys, ids, page_size == 0 ? key : 0);
    token += row.queries + 1;  // and a token that belongs to nobody
    key += row.keys + 1;
  }
  return cache;
}

void poison_free_keys(Operand& operand, const Cache& cache, std::int64_t page_size) {
  std::vector<std::int64_t> filled(static_cast<std::size_t>(cache.pages), 0);
  for (const auto& [page, tokens] : cache.used) filled[static_cast<std::size_t>(page)] = tokens;
  for (std::int64_t page = 0; page < cache.pages; ++page) {
    const std::int64_t tokens = filled[static_cast<std::size_t>(page)];
    if (page_size == 0 && tokens == 0) operand.poison({page});
    for (const Source s : {Source::kKernel, Source::kRounded, Source::kExact}) {
      for (std::int64_t i = tokens; i < page_size; ++i) operand.of(s).poison({page, i});
    }
  }
}

/// Gates of tokens that belong to nobody, and of those without keys, are not read.
template <class RowList>
void poison_unread_gates(Operand& gate, const RowList& list) {
  std::int64_t token = 0;
  for (const auto& row : list) {
    gate.poison({token++});
    for (std::int32_t i = 0; i < row.queries; ++i, ++token) {
      if (row.keys - row.queries + i < 0) gate.poison({token});
    }
  }
}

/// The same with gaps that kernels which move 16 bytes at once take.
Layout aligned(Layout layout) {
  if (layout == Layout::kSliced) return Layout::kAlignedSliced;
  return layout == Layout::kTransposed ? Layout::kAlignedTransposed : layout;
}

/// As given and, where there are kernels by matrix instructions, with heads that fill their tiles,
/// keys enough for several of theirs, and an output that shows what they round.
void ConformanceAttention::check(const Case& c, const std::vector<Row>& row_list) {
  if (GetParam().cuda_family != "sm80") check_one(c, row_list);
  const bool cuda = GetParam().cuda_family == "auto" || GetParam().cuda_family == "sm80";
  const bool cpu = dtype() == DType::kBF16 && GetParam().isa >= Isa::kAvx512Bf16;
  if (dtype() == DType::kF32 || !(cuda || cpu)) return;
  std::vector<Row> longer = row_list;
  longer.insert(longer.end(), {{2, 600}, {30, 290}, {1, 513}});
  std::vector<std::int64_t> dims{64};
  if (cuda) dims.insert(dims.end(), {128, 256});
  for (const std::int64_t dim : dims) {
    Case wide = c;
    wide.dim = dim;
    wide.v_dim = cuda ? dim : 48;
    wide.options.scale = 1.6f / std::sqrt(static_cast<float>(dim));
    wide.out_dtype = DType::kF32;
    if (cuda) wide.layout = aligned(c.layout);
    check_one(wide, longer);
    EXPECT_TRUE(rounds_weights(context().last_kernel_target())) << context().last_kernel_target();
  }
}

void ConformanceAttention::check_one(const Case& c, const std::vector<Row>& row_list) {
  const Cache cache = lay_out(row_list, c.page_size);
  const std::int64_t hq = c.hk * c.group;
  std::int64_t tokens = 2;
  std::vector<std::int64_t> named;
  for (const Row& row : row_list) {
    for (std::int32_t i = 0; i < row.queries; ++i) named.push_back(tokens - 1 + i);
    tokens += row.queries + 1;
  }
  const auto shape = [&](std::int64_t dim) {
    return c.page_size == 0 ? Shape{cache.pages, c.hk, dim}
                            : Shape{cache.pages, c.page_size, c.hk, dim};
  };
  const std::int64_t keys = cache.pages * std::max<std::int64_t>(c.page_size, 1) * c.hk;
  Operand q(dtype(), {tokens, hq, c.dim}, c.layout, random.values(tokens * hq * c.dim, -2, 2));
  const DType cache_dtype = c.cache_dtype.value_or(dtype());
  Operand k(cache_dtype, shape(c.dim), c.layout, random.values(keys * c.dim, -2, 2));
  Operand v(cache_dtype, shape(c.v_dim), c.layout, random.values(keys * c.v_dim, -2, 2));
  poison_free_keys(k, cache, c.page_size);
  poison_free_keys(v, cache, c.page_size);
  Operand sinks(DType::kF32, {hq}, Layout::kDense, random.values(hq, -1, 3));
  Operand k_scales(DType::kF32, {c.hk}, Layout::kDense, random.values(c.hk, 0.3, 2));
  Operand v_scales(DType::kF32, {c.hk}, Layout::kDense, random.values(c.hk, 0.3, 3));
  Operand gate(c.gate_dtype.value_or(dtype()), {tokens, hq, c.v_dim}, c.layout,
               random.values(tokens * hq * c.v_dim, -4, 4));
  poison_unread_gates(gate, row_list);
  Operand out(c.out_dtype.value_or(dtype()), {tokens, hq, c.v_dim}, c.layout);
  Operand lse(DType::kF32, {tokens, hq}, Layout::kSliced);
  run(attention, reference::attention, [&](Source s) {
    AttentionArgs args{cache.rows.view(c.page_size > 0),  q(s),   k(s),     v(s), out(s),
                       c.sinks ? sinks(s) : TensorView(), lse(s), c.options};
    if (c.head_scales) {
      args.options.k_scales = k_scales(s);
      args.options.v_scales = v_scales(s);
    }
    if (c.gate) args.gate = gate(s);
    return args;
  });
  const DType least = half_ulp(cache_dtype) > half_ulp(dtype()) ? cache_dtype : dtype();
  const OpBound& bound = attention_bound(context().last_kernel_target(), dtype());
  expect_conforms(out, named, bound, least);
  // The logits of bf16 inputs are exact products: their denominator is float32's in every kernel.
  expect_conforms(lse, named, kAttentionBound, least);
  EXPECT_TRUE(out.kernel().is_poison({0}));
  EXPECT_TRUE(lse.kernel().is_poison({0}));
}

TEST_P(ConformanceAttention, PagesOfEverySize) {
  for (const std::int64_t page_size : {1, 7, 16, 64}) {
    Case c;
    c.page_size = page_size;
    check(c);
  }
}

TEST_P(ConformanceAttention, DenseKeys) {
  Case c;
  c.page_size = 0;
  check(c);
  c.layout = Layout::kTransposed;
  check(c);
}

TEST_P(ConformanceAttention, StridedTensors) {
  Case c;
  for (const Layout layout : {Layout::kSliced, Layout::kTransposed}) {
    c.layout = layout;
    check(c);
  }
}

TEST_P(ConformanceAttention, WithoutCausalMask) {
  Case c;
  c.options.causal = false;
  check(c);
}

TEST_P(ConformanceAttention, Windows) {
  for (const std::int32_t window : {1, 5, 64, 100}) {
    Case c;
    c.options.window = window;
    c.page_size = 7;
    check(c);
  }
}

TEST_P(ConformanceAttention, CapAndSinks) {
  Case c;
  c.options.logit_cap = 2.5f;
  check(c);
  c.sinks = true;
  check(c);
  c.options.window = 9;
  check(c);
}

void ConformanceAttention::check_f8(Case c) {
  c.cache_dtype = DType::kF8E4M3;
  for (const std::int64_t page_size : {0, 7, 16}) {
    Case plain = c;
    plain.page_size = page_size;
    check(plain);
    Case all = plain;
    all.layout = Layout::kTransposed;
    all.options.logit_cap = 2.5f;
    all.sinks = true;
    check(all);
  }
}

TEST_P(ConformanceAttention, CachesInF8WithScales) {
  Case c;
  c.options.k_scale = 0.5f;
  c.options.v_scale = 3.0f;
  check_f8(c);
}

TEST_P(ConformanceAttention, CachesInF8WithAScaleOfEachHead) {
  Case c;
  c.head_scales = true;
  c.hk = 3;
  check_f8(c);
}

TEST_P(ConformanceAttention, ScalesOfEachHeadOfAnyCache) {
  Case c;
  c.head_scales = true;
  if (GetParam().cuda_family == "sm80") {
    GTEST_SKIP() << "kernels over tiles take scales of heads for caches in f8_e4m3";
  }
  check_one(c, rows_of_table());
}

TEST_P(ConformanceAttention, OutputGates) {
  for (const Layout layout : {Layout::kDense, Layout::kSliced, Layout::kTransposed}) {
    Case c;
    c.gate = true;
    c.layout = layout;
    check(c);
    c.gate_dtype = DType::kF32;
    c.sinks = true;
    c.options.logit_cap = 2.5f;
    c.options.window = 100;
    check(c);
  }
  Case c;
  c.gate = c.head_scales = true;
  c.cache_dtype = DType::kF8E4M3;
  check(c);
}

TEST_P(ConformanceAttention, GroupsAndHeadDims) {
  const std::vector<Row> few{{1, 70}, {9, 40}};
  for (const std::int64_t group : {1, 2, 4, 7, 16, 80}) {
    Case c;
    c.group = group;
    c.hk = group > 4 ? 1 : 2;
    check(c, few);
  }
  for (const std::int64_t dim : {1, 16, 33, 128, 256, 512}) {
    Case c;
    c.hk = 1;
    c.dim = dim;
    c.v_dim = 513 - dim;
    c.options.scale = 1.0f / std::sqrt(static_cast<float>(dim));
    check(c, few);
  }
}

/// Rows of one token: their keys go in parts of 512, and parts in waves of as many as there is room
/// for.
TEST_P(ConformanceAttention, LongRowsOfOneToken) {
  if (on_cuda()) GTEST_SKIP() << "parts of the CPU";
  const std::vector<Row> rows{{1, 512}, {1, 513}, {1, 7700}, {0, 700}, {1, 40}, {1, 1551}, {1, 0}};
  for (const std::int64_t group : {4, 6}) {
    Case c;
    c.hk = group == 4 ? 2 : 1;
    c.group = group;
    c.dim = c.v_dim = 64;
    c.page_size = group == 4 ? 16 : 7;
    c.options.scale = 0.125f;
    check_one(c, rows);
    c.options.window = 1000;
    c.sinks = true;
    check_one(c, rows);
  }
  Case f8;
  f8.hk = 5;
  f8.page_size = 0;
  f8.dim = 32;
  f8.v_dim = 48;
  f8.cache_dtype = DType::kF8E4M3;
  f8.layout = Layout::kTransposed;
  check_one(f8, rows);
}

/// Groups that go on tiles where there are any: keys up to the edges of what products take at once.
TEST_P(ConformanceAttention, LongRowsOfOneTokenWithWideGroups) {
  if (on_cuda()) GTEST_SKIP() << "parts of the CPU";
  if (dtype() != DType::kBF16) GTEST_SKIP() << "as narrow groups";
  const std::vector<Row> rows{{1, 1},   {1, 31},  {1, 32},  {1, 33},   {1, 127}, {1, 128}, {1, 129},
                              {1, 511}, {1, 513}, {0, 100}, {1, 1056}, {1, 0},   {2, 300}};
  for (const std::int64_t group : {5, 8, 12, 16, 20}) {
    Case c;
    c.hk = group == 8 ? 3 : 1;
    c.group = group;
    c.dim = 64;
    c.v_dim = 48;
    c.page_size = group == 5 ? 0 : group == 12 ? 7 : 16;
    c.options.scale = 0.125f;
    c.out_dtype = DType::kF32;
    check_one(c, rows);
    c.options.window = group == 16 ? 33 : 600;
    c.options.logit_cap = 2.5f;
    c.sinks = c.gate = true;
    c.layout = Layout::kTransposed;
    check_one(c, rows);
    c.options.logit_cap = 0;
    c.options.scale = -0.125f;
    c.cache_dtype = DType::kF8E4M3;
    c.head_scales = true;
    check_one(c, rows);
  }
}

/// Rows of several tasks, each of which takes several blocks of rows through several tiles of keys.
TEST_P(ConformanceAttention, RowsOfManyTiles) {
  if (on_cuda() || dtype() != DType::kBF16) GTEST_SKIP() << "tiles of products in bf16";
  const std::vector<Row> rows{{300, 600}, {129, 129}};
  Case c;
  c.hk = 1;
  c.group = 2;
  c.dim = 32;
  c.v_dim = 48;
  c.out_dtype = DType::kF32;
  check_one(c, rows);
  c.options.window = 40;
  c.options.scale = -0.2f;
  check_one(c, rows);
  c.options.window = 300;
  check_one(c, rows);
  c.options.window = -1;
  c.options.causal = false;
  check_one(c, rows);
}

TEST_P(ConformanceAttention, MergeOfTwoHalvesIsTheWhole) {
  const Shape shape{4, 3, 20};
  Operand a(dtype(), shape, Layout::kTransposed, random.values(240, -2, 2));
  Operand b(dtype(), shape, Layout::kSliced, random.values(240, -2, 2));
  Operand lse_a(DType::kF32, {4, 3}, Layout::kSliced, random.values(12, -20, 20));
  Operand lse_b(DType::kF32, {4, 3}, Layout::kSliced, random.values(12, -20, 20));
  for (const Source s : {Source::kKernel, Source::kRounded, Source::kExact}) {
    lse_a.of(s).set({0, 0}, -INFINITY);  // a side without weight may hold anything
    a.of(s).poison({0, 0});
    lse_b.of(s).set({1, 1}, -INFINITY);
    b.of(s).poison({1, 1});
    lse_a.of(s).set({2, 2}, -INFINITY);
    lse_b.of(s).set({2, 2}, -INFINITY);
  }
  Operand out(dtype(), shape, Layout::kSliced);
  Operand lse(DType::kF32, {4, 3}, Layout::kSliced);
  run(merge_states, reference::merge_states,
      [&](Source s) { return MergeStatesArgs{a(s), lse_a(s), b(s), lse_b(s), out(s), lse(s)}; });
  expect_conforms(out, everything(4), kMergeStatesBound, dtype());
  expect_conforms(lse, everything(4), kMergeStatesBound, DType::kF32);
  EXPECT_EQ(out.kernel().get({2, 2, 7}), 0.0);
  EXPECT_EQ(lse.kernel().get({2, 2}), -INFINITY);
}

}  // namespace
}  // namespace hybridattn::testing
