// Contexts: options, environment, workspace, the caller's executor and allocator.
#include "hybridattn/context.h"

#include <atomic>
#include <cstdlib>
#include <map>
#include <optional>

#include <gtest/gtest.h>

#include "hybridattn/ops.h"
#include "src/core/env.h"
#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

/// Sets a variable for one scope.
class ScopedEnv {
 public:
  ScopedEnv(const char* name, const char* value) : name_(name), before_(core::read_env(name)) {
    setenv(name, value, 1);
  }
  ~ScopedEnv() {
    if (before_.has_value()) {
      setenv(name_, before_->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  ScopedEnv(const ScopedEnv&) = delete;
  ScopedEnv& operator=(const ScopedEnv&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

Status create_status(const ContextOptions& options = {}) {
  return Context::create(options).status();
}

TEST(Isa, NamesParseToThemselves) {
  for (int i = 0; i < kIsaCount; ++i) {
    const auto isa = static_cast<Isa>(i);
    ASSERT_TRUE(parse_isa(isa_name(isa)).ok());
    EXPECT_EQ(*parse_isa(isa_name(isa)), isa);
  }
  EXPECT_ERROR(parse_isa("sse9").status(), kInvalidArgument, "sse9", "avx512_bf16");
  EXPECT_ERROR(parse_isa("").status(), kInvalidArgument, "baseline");
}

TEST(Isa, TheBaselineAndTheBestAreSupported) {
  EXPECT_TRUE(isa_supported(Isa::kBaseline));
  EXPECT_TRUE(isa_supported(best_isa()));
  for (const Isa isa : supported_isas()) EXPECT_LE(isa, best_isa());
}

TEST(Context, DefaultsAreTheBest) {
  unsetenv(core::kEnvIsa);
  const auto context = Context::create();
  ASSERT_TRUE(context.ok());
  EXPECT_EQ((*context)->isa(), best_isa());
  EXPECT_EQ((*context)->device(), DeviceType::kCpu);
  EXPECT_EQ((*context)->last_kernel_target(), "");
  EXPECT_GE((*context)->executor().concurrency(), 1);
}

TEST(Context, BadOptionsNameTheValue) {
  ContextOptions options;
  options.device = DeviceType::kCuda;
  EXPECT_ERROR(create_status(options), kUnsupported, "cuda");
  options = {};
  options.threads = -3;
  EXPECT_ERROR(create_status(options), kInvalidArgument, "threads is -3");
  options.threads = 100000;
  EXPECT_ERROR(create_status(options), kInvalidArgument, "100000");
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    options = {};
    options.isa = isa;
    if (!isa_supported(isa)) {
      EXPECT_ERROR(create_status(options), kUnsupported, isa_name(isa).data());
    }
  }
}

TEST(Context, IsaFromTheEnvironment) {
  for (const Isa isa : supported_isas()) {
    const ScopedEnv env(core::kEnvIsa, isa_name(isa).data());
    const auto context = Context::create();
    ASSERT_TRUE(context.ok());
    EXPECT_EQ((*context)->isa(), isa);
    ContextOptions options;
    options.isa = Isa::kBaseline;
    EXPECT_EQ((*Context::create(options))->isa(), Isa::kBaseline) << "options come first";
  }
}

TEST(Context, BadEnvironmentIsAnErrorAndEmptyIsUnset) {
  {
    const ScopedEnv env(core::kEnvIsa, "avx9000");
    EXPECT_ERROR(create_status(), kInvalidArgument, "HYBRIDATTN_ISA", "avx9000");
  }
  {
    const ScopedEnv env(core::kEnvIsa, "");
    EXPECT_OK(create_status());
  }
  for (const char* threads : {"0", "-1", "2x", "many", "99999"}) {
    const ScopedEnv env(core::kEnvThreads, threads);
    EXPECT_ERROR(create_status(), kInvalidArgument, "HYBRIDATTN_THREADS", threads);
  }
  const ScopedEnv env(core::kEnvThreads, "3");
  EXPECT_EQ((*Context::create())->executor().concurrency(), 3);
  ContextOptions options;
  options.threads = 2;
  EXPECT_EQ((*Context::create(options))->executor().concurrency(), 2);
}

TEST(Context, WorkspaceGrowsAndNeverShrinks) {
  CountingAllocator memory;
  {
    ContextOptions options;
    options.threads = 3;
    options.allocator = &memory;
    auto context = *Context::create(options);
    EXPECT_EQ(context->workspace_bytes(), 0u);
    ASSERT_OK(context->reserve_workspace(1000, 100));
    EXPECT_GE(context->workspace_bytes(), 1000u + 3 * 100u);
    EXPECT_EQ(context->workspace_bytes(), memory.held);
    const int calls = memory.calls;
    ASSERT_OK(context->reserve_workspace(10, 1));
    EXPECT_EQ(memory.calls, calls) << "no allocation where there is room";
    ASSERT_OK(context->reserve_workspace(5000, 0));
    EXPECT_EQ(context->workspace_bytes(), memory.held);
    ASSERT_OK(context->reserve_workspace(0, 5000));
    EXPECT_EQ(context->workspace_bytes(), memory.held);
  }
  EXPECT_EQ(memory.held, 0u);
}

TEST(Context, WithoutMemoryTheOldWorkspaceStays) {
  CountingAllocator memory;
  const auto context = make_context(best_isa(), 1, &memory);
  const std::size_t before = context->workspace_bytes();
  memory.fail = true;
  EXPECT_ERROR(context->reserve_workspace(1 << 26, 0), kResourceExhausted, "67108864");
  EXPECT_ERROR(context->reserve_workspace(0, 1 << 26), kResourceExhausted, "67108864");
  EXPECT_EQ(context->workspace_bytes(), before);
  Buffer x(DType::kF32, {1, 1, 16});
  x.fill(std::vector<double>(16, 1.0));
  EXPECT_OK(l2norm(*context, {x.view(), x.view()}));
  memory.fail = false;
}

TEST(Context, AnOpWithoutMemoryReportsItAndWritesNothing) {
  CountingAllocator memory;
  ContextOptions options;
  options.allocator = &memory;
  const auto context = *Context::create(options);
  memory.fail = true;
  Buffer x(DType::kF32, {1, 1, 16});
  Buffer out(DType::kF32, {1, 1, 16});
  EXPECT_ERROR(l2norm(*context, {x.view(), out.view()}), kResourceExhausted, "allocator");
  EXPECT_TRUE(out.is_poison({}));
}

class CountingExecutor final : public Executor {
 public:
  int concurrency() const noexcept override { return workers; }
  void run(std::int64_t count, Task task, void* argument) override {
    ++loops;
    for (std::int64_t i = 0; i < count; ++i) task(argument, i, static_cast<int>(i % workers));
  }
  int workers = 4;
  int loops = 0;
};

TEST(Context, UsesTheCallersExecutor) {
  CountingExecutor executor;
  ContextOptions options;
  options.executor = &executor;
  options.threads = -5;  // ignored
  const auto context = Context::create(options);
  ASSERT_TRUE(context.ok());
  EXPECT_EQ(&(*context)->executor(), &executor);
  Buffer x(DType::kF32, {64, 8, 64});
  x.fill(std::vector<double>(64 * 8 * 64, 1.0));
  ASSERT_OK(l2norm(**context, {x.view(), x.view()}));
  EXPECT_GT(executor.loops, 0);
  EXPECT_NEAR(x.get({63, 7, 63}), 0.125, 1e-6);
  executor.workers = 0;
  EXPECT_ERROR(create_status(options), kInvalidArgument, "concurrency is 0");
  executor.workers = 4;
}

TEST(Context, EachReportsItsOwnTarget) {
  std::map<std::string, Isa> seen;
  Buffer x(DType::kF32, {1, 1, 16});
  x.fill(std::vector<double>(16, 1.0));
  for (const Isa isa : supported_isas()) {
    const auto context = make_context(isa);
    ASSERT_OK(l2norm(*context, {x.view(), x.view()}));
    EXPECT_EQ(context->last_kernel_target(), target_name(isa));
    // Tiles serve products alone: everything else is the code of the set below.
    EXPECT_EQ(seen.emplace(context->last_kernel_target(), isa).second, isa != Isa::kAmx);
  }
}

}  // namespace
}  // namespace hybridattn::testing
