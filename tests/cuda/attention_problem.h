// Attention on the GPU at lengths that the oracle is too slow for: problems, and how the kernels
// over tiles are held against the plain form, which the oracle holds at short lengths.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hybridattn/hybridattn.h"
#include "tests/support/contexts.h"
#include "tests/support/oracle.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {

struct AttentionRow {
  std::int32_t queries, keys;
};

/// Rows over pages in random order, or over dense keys (page size 0); what is not a key is NaN.
struct AttentionProblem {
  AttentionProblem(std::vector<AttentionRow> row_list, std::int64_t page, std::int64_t dim,
                   DType dtype = DType::kBF16, std::int64_t heads = 6, std::int64_t kv_heads = 2,
                   DType cache = DType::kBF16)
      : list(std::move(row_list)), page_size(page) {
    std::int64_t tokens = 0;
    for (const AttentionRow& row : list) tokens += row.queries;
    Random random(11);
    q = Buffer(dtype, {std::max<std::int64_t>(tokens, 1), heads, dim});
    q.fill(random.values(q.num_elements(), -2, 2));
    if (page == 0) {
      lay_out_keys(random, {kv_heads, dim}, cache);
    } else {
      lay_out_pages(random, {kv_heads, dim}, cache);
    }
    options.scale = 1.0f / std::sqrt(static_cast<float>(dim));
  }

  AttentionArgs args(Buffer& out, Buffer& lse) {
    AttentionArgs a;
    a.rows = view(rows);
    a.q = q.view();
    a.k = k.view();
    a.v = v.view();
    a.out = out.view();
    a.lse = lse.view();
    a.options = options;
    if (!sinks.shape().empty()) a.sinks = sinks.view();
    if (!gate.shape().empty()) a.gate = gate.view();
    if (!k_scales.shape().empty()) a.options.k_scales = k_scales.view();
    if (!v_scales.shape().empty()) a.options.v_scales = v_scales.view();
    return a;
  }
  /// Rows of this problem's cache.
  AttentionRows view(const KvRows& some) const {
    AttentionRows out = some.view(page_size > 0);
    if (!parents.empty()) out.parents = parents.data();
    return out;
  }
  Buffer make_out(DType dtype = DType::kF32) const { return Buffer(dtype, q.shape()); }
  Buffer make_lse() const { return Buffer(DType::kF32, {q.shape()[0], q.shape()[1]}); }
  AttentionHeads heads() const {
    const std::size_t head_dim = page_size > 0 ? 2 : 1;
    return {static_cast<std::int32_t>(q.shape()[1]), static_cast<std::int32_t>(k.shape()[head_dim]),
            static_cast<std::int32_t>(page_size), options.causal, options.window};
  }
  /// Random trees for these rows, chains for the others.
  void plant_trees(const std::vector<std::size_t>& trees) {
    Random random(5);
    parents.assign(static_cast<std::size_t>(q.shape()[0]), kChain);
    for (const std::size_t r : trees) {
      for (std::int32_t i = 0; i < list[r].queries; ++i) {
        // Mostly the last few tokens, so that paths are long; some roots.
        parents[static_cast<std::size_t>(rows.q_start[r] + i)] =
            static_cast<std::int32_t>(random.integer(std::max(-1, i - 4), i - 1));
      }
    }
  }
  /// Fills what is optional: gates, sinks, and a scale for each key head.
  void add_gates() {
    Random random(6);
    gate = Buffer(q.dtype(), q.shape());
    gate.fill(random.values(gate.num_elements(), -4, 4));
  }
  void add_sinks() {
    Random random(7);
    sinks = Buffer(DType::kF32, {q.shape()[1]});
    sinks.fill(random.values(sinks.num_elements(), -1, 3));
  }
  void add_head_scales() {
    Random random(8);
    for (Buffer* scales : {&k_scales, &v_scales}) {
      *scales = Buffer(DType::kF32, {heads().num_kv_heads});
      scales->fill(random.values(scales->num_elements(), 0.3, 2));
    }
  }

  std::vector<AttentionRow> list;
  std::int64_t page_size;
  Buffer q, k, v, gate, sinks, k_scales, v_scales;
  std::vector<std::int32_t> parents;
  KvRows rows;
  std::vector<std::vector<std::int32_t>> pages_of;
  AttentionOptions options;

 private:
  struct HeadShape {
    std::int64_t heads, dim;
  };
  void lay_out_pages(Random& random, const HeadShape& shape, DType cache) {
    std::int64_t pages = 1;
    for (const AttentionRow& row : list) pages += (row.keys + page_size - 1) / page_size;
    std::vector<std::int32_t> ids(static_cast<std::size_t>(pages));
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), random.engine());
    k = Buffer(cache, {pages, page_size, shape.heads, shape.dim});
    v = Buffer(cache, {pages, page_size, shape.heads, shape.dim});
    for (Buffer* x : {&k, &v}) x->fill(random.values(x->num_elements(), -2, 2));
    std::int32_t token = 0;
    auto next = ids.begin();
    for (const AttentionRow& row : list) {
      const auto used = (row.keys + page_size - 1) / page_size;
      std::vector<std::int32_t> mine(next, next + used);
      next += used;
      for (Buffer* x : {&k, &v}) {
        for (std::int64_t i = row.keys; i < used * page_size; ++i) {
          x->poison({mine[static_cast<std::size_t>(i / page_size)], i % page_size});
        }
      }
      pages_of.push_back(mine);
      rows.add(token, row.queries, row.keys, mine);
      token += row.queries;
    }
    for (Buffer* x : {&k, &v}) x->poison({*next});  // nobody's page
  }
  void lay_out_keys(Random& random, const HeadShape& shape, DType cache) {
    std::int64_t keys = 1;
    for (const AttentionRow& row : list) keys += row.keys + 1;  // and one that is nobody's
    k = Buffer(cache, {keys, shape.heads, shape.dim});
    v = Buffer(cache, {keys, shape.heads, shape.dim});
    for (Buffer* x : {&k, &v}) x->fill(random.values(x->num_elements(), -2, 2));
    std::int64_t key = 0;
    std::int32_t token = 0;
    for (const AttentionRow& row : list) {
      for (Buffer* x : {&k, &v}) x->poison({key});
      rows.add(token, row.queries, row.keys, {}, ++key);
      key += row.keys;
      token += row.queries;
    }
    for (Buffer* x : {&k, &v}) x->poison({key});
  }
};

class CudaAttention : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_present()) GTEST_SKIP() << "there is no CUDA device";
    context_ = make_cuda_context();
    plain_ = make_cuda_context("smxx");
  }
  Context& context() { return *context_; }

  /// The kernels over tiles give what the plain form gives.
  void expect_as_plain(AttentionProblem& problem, double bound = 4e-3) {
    Buffer out = problem.make_out(), lse = problem.make_lse();
    Buffer plain_out = problem.make_out(), plain_lse = problem.make_lse();
    poison_workspace(context());
    ASSERT_OK(attention(context(), problem.args(out, lse)));
    EXPECT_NE(context().last_kernel_target(), "smxx");
    ASSERT_OK(attention(*plain_, problem.args(plain_out, plain_lse)));
    EXPECT_TRUE(near(out.values(), plain_out.values(), {bound, 8 * bound}));
    EXPECT_TRUE(near(finite(lse), finite(plain_lse), {3e-6, 3e-5}));
  }

  /// With the value of a query that sees nothing made a number.
  static std::vector<double> finite(const Buffer& lse) {
    std::vector<double> values = lse.values();
    for (double& value : values) value = value == -INFINITY ? -1000.0 : value;
    return values;
  }

  std::unique_ptr<Context> context_, plain_;
};

}  // namespace hybridattn::testing
