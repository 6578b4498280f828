// A small paged layer with its oracle: the double references, applied in the order of the formulas.
#pragma once

#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "hybridattn/paged_attn_backend.h"
#include "tests/support/canary.h"
#include "tests/support/contexts.h"
#include "tests/support/oracle.h"
#include "tests/support/page_rows.h"

namespace hybridattn::testing {

class PagedFixture : public ::testing::Test {
 protected:
  static constexpr std::int64_t kPageSize = 4;
  static constexpr std::int64_t kPages = 40;
  static constexpr std::int64_t kHq = 6, kHk = 2, kDim = 24, kVDim = 40, kRot = 8;

  void SetUp() override {
    context = make_context(best_isa(), 2);
    layer.layer_id = 3;
    layer.num_heads = kHq;
    layer.num_kv_heads = kHk;
    layer.head_dim = kDim;
    layer.v_head_dim = kVDim;
    layer.scaling = 0.2f;
    k_cache = random_operand({kPages, kPageSize, kHk, kDim});
    v_cache = random_operand({kPages, kPageSize, kHk, kVDim});
    backend = make_backend();
  }

  std::unique_ptr<PagedAttnBackend> make_backend() {
    PagedKvView view;
    view.k = {k_cache.kernel().view()};
    view.v = {v_cache.kernel().view()};
    auto made = PagedAttnBackend::create(*context, view);
    EXPECT_TRUE(made.ok()) << made.status().message();
    return std::move(made).value();
  }

  Operand random_operand(const Shape& shape, double low = -1.5, double high = 1.5) {
    std::int64_t count = 1;
    for (const std::int64_t dim : shape) count *= dim;
    return Operand(DType::kF32, shape, Layout::kDense, random.values(count, low, high));
  }

  /// A row with pages of its own, in an order that is not theirs.
  BatchRow row(RowKind kind, std::int64_t computed, std::int32_t tokens) {
    return page_rows_.row(kind, computed, tokens);
  }

  struct Step {
    explicit Step(ForwardBatch made) : batch(std::move(made)) {}
    ForwardBatch batch;
    Operand q, k, v, out, lse, cosine, sine, gate;
    std::vector<std::int64_t> real, pads;
  };

  /// Random tensors for the rows; those of pad tokens are poison.
  Step make_step(const std::vector<BatchRow>& rows) {
    auto made = ForwardBatch::create(rows);
    EXPECT_TRUE(made.ok()) << made.status().message();
    Step step(std::move(made).value());
    const std::int64_t tokens = step.batch.num_tokens();
    step.q = random_operand({tokens, kHq, kDim});
    step.k = random_operand({tokens, kHk, kDim});
    step.v = random_operand({tokens, kHk, kVDim});
    step.gate = random_operand({tokens, kHq, kVDim}, -4, 4);
    step.cosine = random_operand({tokens, kRot / 2}, -1, 1);
    step.sine = random_operand({tokens, kRot / 2}, -1, 1);
    step.out = Operand(DType::kF32, {tokens, kHq, kVDim}, Layout::kSliced);
    step.lse = Operand(DType::kF32, {tokens, kHq}, Layout::kDense);
    for (std::int32_t r = 0; r < step.batch.num_rows(); ++r) {
      const BatchRow& each = step.batch.rows()[static_cast<std::size_t>(r)];
      for (std::int32_t i = 0; i < each.new_tokens; ++i) {
        const std::int64_t token = step.batch.token_start(r) + i;
        (each.kind == RowKind::kPad ? step.pads : step.real).push_back(token);
      }
    }
    for (Operand* operand : {&step.q, &step.k, &step.v, &step.gate}) operand->poison(step.pads);
    return step;
  }

  AttentionRunArgs run_args(Step& step) {
    AttentionRunArgs args;
    args.q = step.q.kernel().view();
    args.k = step.k.kernel().view();
    args.v = step.v.kernel().view();
    args.out = step.out.kernel().view();
    args.lse = step.lse.kernel().view();
    return args;
  }

  /// Fills the double caches and outputs of `step` from its double inputs.
  void run_oracle(Step& step) {
    std::vector<std::int64_t> places;
    KvRows kv;
    for (std::int32_t r = 0; r < step.batch.num_rows(); ++r) {
      const BatchRow& each = step.batch.rows()[static_cast<std::size_t>(r)];
      const bool pad = each.kind == RowKind::kPad;
      for (std::int64_t i = each.computed; i < each.computed + each.new_tokens; ++i) {
        places.push_back(pad ? kPadIndex
                             : each.pages[static_cast<std::size_t>(i / kPageSize)] * kPageSize +
                                   i % kPageSize);
      }
      if (!pad) {
        kv.add(step.batch.token_start(r), each.new_tokens,
               static_cast<std::int32_t>(each.computed + each.new_tokens), each.pages);
      }
    }
    const Source s = Source::kRounded;
    reference::store_kv({step.k(s), step.v(s), places.data(), k_cache(s), v_cache(s)});
    const AttentionOptions options{layer.scaling, true, layer.logit_cap, layer.sliding_window};
    reference::attention({kv.view(true), step.q(s), k_cache(s), v_cache(s), step.out(s),
                          layer.sinks, step.lse(s), options});
  }

  void expect_as_oracle(Step& step) {
    const Bound bound{1e-6, 1e-5};
    const auto compare = [&](Operand& operand, const std::vector<std::int64_t>& parts) {
      EXPECT_TRUE(near(operand.of(Source::kKernel).gather(parts),
                       operand.of(Source::kRounded).gather(parts), bound));
    };
    compare(step.out, step.real);
    compare(step.lse, step.real);
    std::vector<std::int64_t> pages;
    for (std::int64_t page = 0; page < kPages; ++page) pages.push_back(page);
    compare(k_cache, pages);
    compare(v_cache, pages);
    for (const double zero : step.out.kernel().gather(step.pads)) EXPECT_EQ(zero, 0.0);
    EXPECT_TRUE(step.out.kernel().gaps_intact());
  }

  Random random{99};
  CountingAllocator memory;  // outlives the context
  std::unique_ptr<Context> context;
  RadixAttention layer;
  Operand k_cache, v_cache;
  std::unique_ptr<PagedAttnBackend> backend;

 private:
  PageRows page_rows_{kPageSize, kPages, 3};
};

}  // namespace hybridattn::testing
