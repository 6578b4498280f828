// F08 to F55 on the GPU, where they concern attention: the classes of docs/faults.md whose tests in
// tests/faults run on the CPU.
#include <cuda_runtime_api.h>

#include <functional>
#include <limits>

#include "tests/cuda/attention_problem.h"
#include "tests/cuda/paged_world.h"
#include "tests/cuda/stream_graph.h"
#include "tests/support/page_rows.h"

namespace hybridattn::testing {
namespace {

using Problem = AttentionProblem;

/// Shared memory that fills what it takes back, so that a stale address reads NaN.
class PoisoningMemory final : public Allocator {
 public:
  void* allocate(std::size_t bytes) noexcept override {
    void* memory = shared_memory().allocate(bytes);
    if (memory != nullptr) std::memset(memory, 0xff, bytes);
    return memory;
  }
  void deallocate(void* pointer, std::size_t bytes) noexcept override {
    if (pointer != nullptr) std::memset(pointer, 0xff, bytes);
    shared_memory().deallocate(pointer, bytes);
  }
};

/// Decode steps by a plan for graphs, each held against the CPU.
class CudaDecodeGraph : public ::testing::Test {
 protected:
  static constexpr std::int32_t kRows = 4;
  static constexpr std::int64_t kPages = 400;

  void SetUp() override {
    if (!cuda_present()) GTEST_SKIP() << "there is no CUDA device";
    stream = std::make_unique<Stream>();
    gpu = std::make_unique<PagedWorld>(stream->context(false, &memory), kRows, kPages);
    cpu = std::make_unique<PagedWorld>(make_context(), kRows, kPages);
    for (PagedWorld* world : {gpu.get(), cpu.get()}) {
      ASSERT_OK(world->backend->set_layers(world->described));
    }
  }
  std::shared_ptr<Plan> plan_for_graphs(PagedWorld& world) {
    GraphShape shape;
    shape.decode_rows = shape.tokens = kRows;
    shape.pages = 390;
    return *world.backend->plan_graph(shape);
  }
  void record() {
    plan = plan_for_graphs(*gpu);
    cpu_plan = plan_for_graphs(*cpu);
    graph = std::make_unique<StreamGraph>(*stream, [&] { return gpu->launch(*plan); });
  }
  static ForwardBatch decode(const std::vector<std::int64_t>& computed) {
    PageRows pages(PagedWorld::kPageSize, kPages, 3);
    std::vector<BatchRow> rows;
    for (const std::int64_t keys : computed) rows.push_back(pages.row(RowKind::kDecode, keys, 1));
    return *ForwardBatch::create(rows);
  }
  void replay(const std::vector<std::int64_t>& computed) {
    const ForwardBatch batch = decode(computed);
    for (auto* buffers : {&gpu->outs, &gpu->lses}) {
      for (Buffer& x : *buffers) std::fill(x.memory().begin(), x.memory().end(), Byte{0xff});
    }
    ASSERT_OK(gpu->backend->replan(*plan, batch));
    graph->launch();
    const auto got = gpu->results();
    ASSERT_OK(cpu->backend->replan(*cpu_plan, batch));
    const auto want = cpu->run(*cpu_plan);
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_TRUE(near(got[i], want[i], {8e-3, 6e-2})) << "layer " << i;
    }
    for (auto row = static_cast<std::int64_t>(computed.size()); row < kRows; ++row) {
      for (std::size_t i = 0; i < 2; ++i) {
        for (const double value : gpu->outs[i].gather({row})) EXPECT_EQ(value, 0.0) << "padding";
        for (const double lse : gpu->lses[i].gather({row})) EXPECT_EQ(lse, -INFINITY) << "padding";
      }
    }
  }

  PoisoningMemory memory;
  std::unique_ptr<Stream> stream;
  std::unique_ptr<PagedWorld> gpu, cpu;
  std::shared_ptr<Plan> plan, cpu_plan;
  std::unique_ptr<StreamGraph> graph;
};

using F08BakedAddressOnCuda = CudaDecodeGraph;
using F09StalePlanOnCuda = CudaDecodeGraph;
using F55AllocationInCaptureOnCuda = CudaDecodeGraph;

TEST_F(F08BakedAddressOnCuda, EagerStepsThatMoveTheWorkspaceBetweenReplays) {
  record();
  replay({5, 3000});
  for (const std::size_t bytes : {std::size_t{8} << 20, std::size_t{64} << 20}) {
    const auto eager = gpu->backend->plan(decode({300, 40, 2000, 17}));
    ASSERT_OK(eager.status());
    ASSERT_OK(gpu->launch(**eager));
    ASSERT_OK(gpu->context->reserve_workspace(bytes, bytes));
    ASSERT_OK(gpu->context->synchronize());
    replay({6, 3001});
  }
}

TEST_F(F09StalePlanOnCuda, LengthsThatJump) {
  record();
  for (const auto& computed : std::vector<std::vector<std::int64_t>>{
           {0}, {4095}, {16}, {4095, 0, 16}, {}, {1500, 1500, 1500, 1500}, {0, 0, 0, 0}}) {
    ASSERT_OK(gpu->context->synchronize());
    poison_workspace(*gpu->context);
    replay(computed);
  }
}

TEST_F(F55AllocationInCaptureOnCuda, DestroyOneGraphReplayTheOther) {
  record();
  replay({5, 3000});
  {
    const auto other = plan_for_graphs(*gpu);
    StreamGraph second(*stream, [&] { return gpu->launch(*other); });
    ASSERT_OK(gpu->backend->replan(*other, decode({900})));
    second.launch();
    ASSERT_OK(gpu->context->synchronize());
  }
  replay({6, 3001, 9});
}

using F13OldBitsInPagesOnCuda = CudaAttention;
using F46EmptyRowsOnCuda = CudaAttention;
using F47WindowBoundsOnCuda = CudaAttention;
using F48IgnoredOptionOnCuda = CudaAttention;
using F49DependsOnTrafficOnCuda = CudaAttention;
using F53ZeroLengthsOnCuda = CudaAttention;
using F54LimitsOnCuda = CudaAttention;

TEST_F(F13OldBitsInPagesOnCuda, BehindTheLastKeyOfAPartlyFilledPage) {
  for (const DType cache : {DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    const DType q = cache == DType::kF16 ? DType::kF16 : DType::kBF16;
    for (const std::int64_t page : {16, 256}) {
      // Rows that end inside a page, at its last key and one behind; the rest of each is NaN.
      Problem problem({{1, 21}, {40, 255}, {3, 16}, {1, 257}, {130, 300}}, page, 64, q, 4, 2,
                      cache);
      expect_as_plain(problem);
      Buffer out = problem.make_out(), lse = problem.make_lse();
      ASSERT_OK(attention(context(), problem.args(out, lse)));
      for (const double value : out.values()) ASSERT_TRUE(std::isfinite(value));
    }
  }
}

TEST_F(F46EmptyRowsOnCuda, EveryFewQueriesOverEveryFewKeys) {
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    std::vector<AttentionRow> list;
    for (const std::int32_t queries : {0, 1, 2, 70}) {
      for (const std::int32_t keys : {0, 1, 15, 16, 17}) list.push_back({queries, keys});
    }
    Problem problem(list, 16, 64, DType::kBF16, 4, 2, cache);
    problem.add_sinks();
    problem.add_gates();
    for (std::size_t r = 0; r < list.size(); ++r) {
      for (std::int32_t t = 0; t + list[r].keys < list[r].queries; ++t) {
        problem.gate.poison({problem.rows.q_start[r] + t});  // of a query that sees nothing
      }
    }
    for (const char* family : {"sm90", "sm80", "smxx"}) {
      if (cache == DType::kF8E4M3 && family[2] == '9') continue;
      const auto forced = make_cuda_context(family);
      Buffer out = problem.make_out(), lse = problem.make_lse();
      Buffer wanted = problem.make_out(), wanted_lse = problem.make_lse();
      ASSERT_OK(attention(*forced, problem.args(out, lse)));
      reference::attention(problem.args(wanted, wanted_lse));
      EXPECT_TRUE(near(out.values(), wanted.values(), {4e-3, 3e-2})) << family;
      EXPECT_TRUE(near(finite(lse), finite(wanted_lse), {3e-6, 3e-5})) << family;
      for (std::size_t r = 0; r < list.size(); ++r) {
        for (std::int32_t t = 0; t + list[r].keys < list[r].queries; ++t) {
          const std::int64_t token = problem.rows.q_start[r] + t;
          EXPECT_EQ(lse.get({token, 1}), -INFINITY) << family;
          for (const double value : out.gather({token})) EXPECT_EQ(value, 0.0) << family;
        }
      }
    }
  }
}

TEST_F(F46EmptyRowsOnCuda, MergingPrefixAndSuffixIsTheWhole) {
  for (const std::int32_t prefix : {0, 16, 3008}) {
    for (const std::int32_t fresh : {1, 2, 40}) {
      Problem problem({{fresh, prefix + fresh}}, 16, 128, DType::kBF16, 4, 1);
      Buffer whole = problem.make_out(), whole_lse = problem.make_lse();
      ASSERT_OK(attention(context(), problem.args(whole, whole_lse)));
      const auto part = [&](std::int32_t keys, std::int32_t first_page, bool causal, Buffer& out,
                            Buffer& lse) {
        KvRows rows;
        const auto& pages = problem.pages_of[0];
        rows.add(0, fresh, keys, {pages.begin() + first_page, pages.end()});
        AttentionArgs args = problem.args(out, lse);
        args.rows = rows.view(true);
        args.options.causal = causal;
        ASSERT_OK(attention(context(), args));
      };
      Buffer before = problem.make_out(), before_lse = problem.make_lse();
      Buffer after = problem.make_out(), after_lse = problem.make_lse();
      part(prefix, 0, false, before, before_lse);
      part(fresh, prefix / 16, true, after, after_lse);
      ASSERT_OK(merge_states(context(), {before.view(), before_lse.view(), after.view(),
                                         after_lse.view(), after.view(), after_lse.view()}));
      EXPECT_TRUE(near(after.values(), whole.values(), {4e-3, 3e-2}));
      EXPECT_TRUE(near(after_lse.values(), whole_lse.values(), {3e-6, 3e-5}));
    }
  }
}

TEST_F(F47WindowBoundsOnCuda, ExactlyTheWindowIsSeen) {
  // With logits that are all alike each value has the weight of its key.
  struct Kind {
    const char* family;
    DType cache;
  };
  for (const std::int32_t window : {15, 16, 17, 64}) {
    for (const auto& [family, cache] :
         {Kind{"auto", DType::kF16}, Kind{"auto", DType::kF8E4M3}, Kind{"sm90", DType::kF16},
          Kind{"sm80", DType::kF16}, Kind{"sm80", DType::kF8E4M3}, Kind{"smxx", DType::kF16}}) {
      const auto forced = make_cuda_context(family);
      std::vector<AttentionRow> list;
      for (const std::int32_t keys : {window - 1, window, window + 1, window + 16}) {
        for (const std::int32_t queries : {1, keys}) list.push_back({queries, keys});
      }
      Problem problem(list, 16, 128, DType::kF16, 2, 2, cache);
      problem.options.window = window;
      problem.q.fill(std::vector<double>(static_cast<std::size_t>(problem.q.num_elements()), 0.0));
      for (std::size_t r = 0; r < list.size(); ++r) {
        for (std::int64_t j = 0; j < list[r].keys; ++j) {
          const std::int64_t page = problem.pages_of[r][static_cast<std::size_t>(j / 16)];
          for (std::int64_t d = 0; d < 128; ++d) {
            problem.v.set({page, j % 16, 1, d}, d == j ? 1.0 : 0.0);
          }
        }
      }
      Buffer out = problem.make_out(), lse = problem.make_lse();
      ASSERT_OK(attention(*forced, problem.args(out, lse)));
      for (std::size_t r = 0; r < list.size(); ++r) {
        for (std::int32_t t = 0; t < list[r].queries; ++t) {
          const std::int32_t position = list[r].keys - list[r].queries + t;
          for (std::int32_t j = 0; j < list[r].keys; ++j) {
            const bool seen = j <= position && j > position - window;
            ASSERT_NEAR(out.get({problem.rows.q_start[r] + t, 1, j}),
                        seen ? 1.0 / std::min(window, position + 1) : 0.0, 1e-4)
                << family << ", window " << window << ", row " << r << ", query " << t << ", key "
                << j;
          }
        }
      }
    }
  }
}

struct ShownOption {
  const char* name;
  std::function<void(Problem&)> set;
};

/// Each option changes what each kind of row gives in a family, over pages and dense keys.
void expect_shown(const char* family, DType cache, const std::vector<ShownOption>& options) {
  const auto forced = make_cuda_context(family);
  for (const std::int64_t page : {0, 16}) {
    const auto make = [&] {
      Problem problem({{1, 900}, {60, 700}, {9, 500}, {1, 9000}}, page, 128, DType::kBF16, 6, 2,
                      cache);
      problem.plant_trees({2});
      return problem;
    };
    Problem plain = make();
    Buffer out = plain.make_out(), lse = plain.make_lse();
    ASSERT_OK(attention(*forced, plain.args(out, lse)));
    for (const ShownOption& option : options) {
      Problem changed = make();
      option.set(changed);
      Buffer other = changed.make_out(), other_lse = changed.make_lse();
      ASSERT_OK(attention(*forced, changed.args(other, other_lse)));
      for (std::size_t r = 0; r < changed.list.size(); ++r) {
        EXPECT_NE(other.gather({changed.rows.q_start[r]}), out.gather({changed.rows.q_start[r]}))
            << option.name << ", " << family << ", page size " << page << ", row " << r;
      }
    }
  }
}

TEST_F(F48IgnoredOptionOnCuda, EveryOptionShowsOnEveryPath) {
  std::vector<ShownOption> options{{"cap", [](Problem& p) { p.options.logit_cap = 1.0f; }},
                                   {"window", [](Problem& p) { p.options.window = 20; }},
                                   {"sinks", [](Problem& p) { p.add_sinks(); }},
                                   {"gates", [](Problem& p) { p.add_gates(); }},
                                   {"k_scale", [](Problem& p) { p.options.k_scale = 0.5f; }},
                                   {"v_scale", [](Problem& p) { p.options.v_scale = 0.5f; }}};
  for (const char* family : {"sm90", "sm80", "smxx"}) {
    expect_shown(family, DType::kBF16, options);
  }
  options.push_back({"a scale of each head", [](Problem& p) { p.add_head_scales(); }});
  for (const char* family : {"sm80", "smxx"}) expect_shown(family, DType::kF8E4M3, options);
}

TEST_F(F49DependsOnTrafficOnCuda, ARowAloneAndInCompanyAreTheSameBits) {
  const auto invariant = make_cuda_context("", true);
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    Problem problem({{1, 3000}, {40, 2000}, {1, 17}, {3, 900}}, 16, 128, DType::kBF16, 4, 1, cache);
    problem.add_gates();
    problem.add_sinks();
    Buffer all = problem.make_out(), all_lse = problem.make_lse();
    ASSERT_OK(attention(*invariant, problem.args(all, all_lse)));
    for (std::size_t r = 0; r < problem.list.size(); ++r) {
      KvRows alone;
      alone.add(problem.rows.q_start[r], problem.list[r].queries, problem.list[r].keys,
                problem.pages_of[r]);
      Buffer out = problem.make_out(), lse = problem.make_lse();
      AttentionArgs args = problem.args(out, lse);
      args.rows = alone.view(true);
      ASSERT_OK(attention(*invariant, args));
      for (std::int32_t t = 0; t < problem.list[r].queries; ++t) {
        const std::int64_t token = problem.rows.q_start[r] + t;
        ASSERT_EQ(out.gather({token}), all.gather({token})) << "row " << r;
        ASSERT_EQ(lse.gather({token}), all_lse.gather({token})) << "row " << r;
      }
    }
  }
}

TEST_F(F53ZeroLengthsOnCuda, AtTheStartTheMiddleTheEndAndEverywhere) {
  for (const auto& list : std::vector<std::vector<AttentionRow>>{{{0, 0}, {5, 70}, {0, 9}},
                                                                 {{128, 128}, {0, 0}, {128, 300}},
                                                                 {{1, 40}, {0, 0}, {0, 0}},
                                                                 {{0, 0}, {0, 33}, {0, 0}},
                                                                 {}}) {
    for (const std::int64_t page : {0, 16}) {
      Problem problem(list, page, 64);
      Buffer out = problem.make_out(), lse = problem.make_lse();
      ASSERT_OK(attention(context(), problem.args(out, lse)));
      Buffer plain_out = problem.make_out(), plain_lse = problem.make_lse();
      ASSERT_OK(attention(*plain_, problem.args(plain_out, plain_lse)));
      std::int32_t tokens = 0;
      for (const AttentionRow& row : list) tokens += row.queries;
      for (std::int64_t t = 0; t < out.shape()[0]; ++t) {
        ASSERT_EQ(out.is_poison({t}), t >= tokens) << "token " << t;
        if (t >= tokens) continue;
        EXPECT_TRUE(near(out.gather({t}), plain_out.gather({t}), {5e-3, 4e-2})) << "token " << t;
      }
    }
  }
}

TEST_F(F53ZeroLengthsOnCuda, ALongRowAmongManyShortOnes) {
  std::vector<AttentionRow> list(63, {1, 1});
  list.insert(list.begin() + 20, {1, 8192});
  list.insert(list.begin() + 40, {300, 8192});
  Problem problem(list, 64, 64, DType::kBF16, 2, 1);
  expect_as_plain(problem);
}

TEST_F(F54LimitsOnCuda, RowsTimesHeadsOnBothSidesOf65535) {
  for (const std::int32_t rows : {16383, 16384, 16385}) {
    Problem problem(std::vector<AttentionRow>(static_cast<std::size_t>(rows), {1, 1}), 1, 64,
                    DType::kBF16, 4, 4);
    Buffer out = problem.make_out(DType::kBF16), lse = problem.make_lse();
    ASSERT_OK(attention(context(), problem.args(out, lse)));
    for (const std::int64_t r : {std::int64_t{0}, std::int64_t{rows / 2}, std::int64_t{rows - 1}}) {
      const std::int64_t page = problem.pages_of[static_cast<std::size_t>(r)][0];
      for (std::int64_t h = 0; h < 4; ++h) {  // one key: the output is its value
        ASSERT_EQ(out.get({r, h, 63}), problem.v.get({page, 0, h, 63})) << r;
      }
    }
  }
}

TEST_F(F54LimitsOnCuda, MoreThan16384RaggedTokens) {
  std::vector<AttentionRow> list;
  for (std::int32_t at = 0, length = 1; at < 20000; at += length, length = length % 97 + 1) {
    list.push_back({length, length});
  }
  Problem problem(list, 0, 64, DType::kBF16, 1, 1);
  expect_as_plain(problem);
}

/// An allocator with so many bytes and not one more.
class LimitedMemory final : public Allocator {
 public:
  void* allocate(std::size_t bytes) noexcept override {
    if (bytes > left) return nullptr;
    left -= bytes;
    held += bytes;
    return shared_memory().allocate(bytes);
  }
  void deallocate(void* pointer, std::size_t bytes) noexcept override {
    if (pointer == nullptr) return;
    left += bytes;
    held -= bytes;
    shared_memory().deallocate(pointer, bytes);
  }
  std::size_t left = std::numeric_limits<std::size_t>::max() / 2, held = 0;
};

TEST_F(F54LimitsOnCuda, MemoryOneByteTooSmallIsRefusedByThePlan) {
  const Stream stream;
  PageRows pages(PagedWorld::kPageSize, 400, 0);
  const ForwardBatch batch = *ForwardBatch::create(
      {pages.row(RowKind::kDecode, 3000, 1), pages.row(RowKind::kPrefill, 2000, 90)});
  const auto plan_with = [&](std::size_t bytes, std::size_t& held) {
    LimitedMemory memory;
    memory.left = bytes;
    PagedWorld world(stream.context(false, &memory), 91, 400);
    EXPECT_OK(world.backend->set_layers(world.described));
    const Status planned = world.backend->plan(batch).status();
    held = memory.held;
    for (const Buffer& out : world.outs) EXPECT_TRUE(out.is_poison({}));
    return planned;
  };
  std::size_t needed = 0, held = 0;
  ASSERT_OK(plan_with(std::size_t{1} << 40, needed));
  EXPECT_OK(plan_with(2 * needed, held));  // a block that grows is there twice for a while
  EXPECT_EQ(held, needed);
  EXPECT_ERROR(plan_with(needed - 1, held), kResourceExhausted, "bytes");
}

}  // namespace
}  // namespace hybridattn::testing
