#include "src/core/context_impl.h"

#include <charconv>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "hybridattn/status_macros.h"
#include "src/core/env.h"
#include "src/core/kernel.h"
#include "src/core/recorder.h"
#include "src/core/thread_pool.h"

namespace hybridattn {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr int kMaxThreads = 1024;

/// Large blocks lie in huge pages where the system has them: workspaces, caches, states and
/// activations are read in patterns that small pages slow down.
class HeapAllocator final : public Allocator {
 public:
  void* allocate(std::size_t bytes) noexcept override {
    const std::size_t size = rounded(bytes);
    void* const block = ::operator new(size, alignment(bytes), std::nothrow);
#if defined(__linux__)
    // Without them it is slower and right.
    if (block != nullptr && bytes >= kLarge) (void)madvise(block, size, MADV_HUGEPAGE);
#endif
    return block;
  }
  void deallocate(void* pointer, std::size_t bytes) noexcept override {
    ::operator delete(pointer, alignment(bytes));
  }

 private:
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;
  static constexpr std::size_t kLarge = kHugePage / 2;

  static std::align_val_t alignment(std::size_t bytes) {
    return std::align_val_t{bytes >= kLarge ? kHugePage : kAlignment};
  }
  /// Up to whole pages; what is too large for that is refused as it is.
  static std::size_t rounded(std::size_t bytes) {
    const std::size_t size = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    return bytes >= kLarge && size >= bytes ? size : bytes;
  }
};

Result<Isa> choose_isa(const ContextOptions& options) {
  Isa isa = best_isa();
  if (options.isa.has_value()) {
    isa = *options.isa;
  } else if (const auto name = core::read_env(core::kEnvIsa); name.has_value()) {
    Result<Isa> parsed = parse_isa(*name);
    if (!parsed.ok()) return invalid_argument(core::kEnvIsa, ": ", parsed.status().message());
    isa = *parsed;
  }
  if (!isa_supported(isa)) {
    return error(StatusCode::kUnsupported, "instruction set ", isa_name(isa),
                 " was asked for; this processor has ", isa_name(best_isa()), " at best");
  }
  return isa;
}

Result<int> choose_threads(int asked) {
  if (asked == 0) {
    const auto text = core::read_env(core::kEnvThreads);
    if (!text.has_value()) return static_cast<int>(core::allowed_cpus().size());
    const char* end = text->data() + text->size();
    const auto parsed = std::from_chars(text->data(), end, asked);
    if (parsed.ec != std::errc() || parsed.ptr != end) asked = -1;
    if (asked < 1 || asked > kMaxThreads) {
      return invalid_argument(core::kEnvThreads, " is \"", *text, "\", must be 1 to ", kMaxThreads);
    }
  }
  if (asked < 1 || asked > kMaxThreads) {
    return invalid_argument("Context::create: threads is ", asked, ", must be 0 to ", kMaxThreads);
  }
  return asked;
}

/// Replaces a block by one of `bytes`; the old one stays when there is no memory.
Status regrow(Context::Impl& impl, std::byte*& block, std::size_t& held, std::size_t wanted,
              std::size_t pieces) {
  Allocator& allocator = *impl.allocator;
  auto* grown = static_cast<std::byte*>(allocator.allocate(wanted * pieces));
  if (grown == nullptr) {
    return error(StatusCode::kResourceExhausted, "workspace: the allocator gave no ",
                 wanted * pieces, " bytes");
  }
  if (block != nullptr && impl.captured) {
    impl.retired.emplace_back(block, held * pieces);
  } else if (block != nullptr) {
    allocator.deallocate(block, held * pieces);
  }
  block = grown;
  held = wanted;
  return {};
}

/// The family that options or environment force; empty where neither does.
Result<std::string> choose_family(const ContextOptions& options) {
  std::optional<std::string> family = options.kernel_family;
  if (!family.has_value()) family = core::read_env(core::kEnvCudaFamily);
  if (!family.has_value()) return std::string();
  for (const char* known : {"sm90_fused", "sm90", "sm80", "smxx"}) {
    if (*family == known) return *family;
  }
  return invalid_argument("Context::create: kernel_family is \"", *family,
                          "\", must be sm90_fused, sm90, sm80 or smxx");
}

/// Opens the accelerator that the options ask for.
Status open_accelerator(const ContextOptions& options, Context::Impl& impl) {
  if (core::open_cuda == nullptr) {
    return error(StatusCode::kUnsupported,
                 "Context::create: device cuda was asked for; this build has cpu only");
  }
  impl.device = DeviceType::kCuda;
  HYBRIDATTN_ASSIGN(impl.kernel_family, choose_family(options));
  HYBRIDATTN_ASSIGN(impl.accelerator, core::open_cuda(options.device_index, options.stream));
  impl.uploads = std::make_unique<core::UploadRing>(*impl.accelerator);
  impl.synchronous = options.synchronous;
  return {};
}

void choose_allocator(const ContextOptions& options, Context::Impl& impl) {
  if (options.allocator != nullptr) {
    impl.allocator.emplace(*options.allocator);
  } else if (impl.accelerator != nullptr) {
    impl.allocator.emplace(impl.accelerator->memory());
  } else {
    impl.own_allocator = std::make_unique<HeapAllocator>();
    impl.allocator.emplace(*impl.own_allocator);
  }
}

}  // namespace

Context::Impl::~Impl() {
  // Kernels may still use what is freed here; an error of theirs has nobody left to hear it.
  if (accelerator != nullptr) (void)accelerator->synchronize("~Context");
  if (counters != nullptr) allocator->deallocate(counters, num_counters * sizeof(*counters));
  for (const auto& [block, bytes] : retired) allocator->deallocate(block, bytes);
  if (shared != nullptr) allocator->deallocate(shared, shared_bytes);
  const auto pieces = static_cast<std::size_t>(executor != nullptr ? executor->concurrency() : 0);
  if (workers != nullptr) allocator->deallocate(workers, worker_bytes * pieces);
}

Status Context::Impl::reserve(std::size_t shared_wanted, std::size_t per_worker) {
  const bool grows = shared_wanted > shared_bytes || per_worker > worker_bytes;
  if (grows && accelerator != nullptr) {
    if (accelerator->capturing()) {
      return error(StatusCode::kFailedPrecondition, "workspace: it has ", shared_bytes, " + ",
                   worker_bytes, " bytes and must grow to ", shared_wanted, " + ", per_worker,
                   " while a graph is captured; reserve them or run once before");
    }
    HYBRIDATTN_TRY(accelerator->synchronize("workspace"));
  }
  if (shared_wanted > shared_bytes) {
    HYBRIDATTN_TRY(regrow(*this, shared, shared_bytes, core::round_to_alignment(shared_wanted), 1));
  }
  if (per_worker > worker_bytes) {
    const auto pieces = static_cast<std::size_t>(executor->concurrency());
    HYBRIDATTN_TRY(
        regrow(*this, workers, worker_bytes, core::round_to_alignment(per_worker), pieces));
  }
  return {};
}

Context::Context(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Context::~Context() = default;

Result<std::unique_ptr<Context>> Context::create(const ContextOptions& options) {
  core::register_kernels();
  auto impl = std::make_unique<Impl>();
  HYBRIDATTN_ASSIGN(impl->isa, choose_isa(options));
  const bool on_cpu = options.device == DeviceType::kCpu;
  if (!on_cpu) HYBRIDATTN_TRY(open_accelerator(options, *impl));
  choose_allocator(options, *impl);
  impl->executor = options.executor;
  if (impl->executor == nullptr) {
    HYBRIDATTN_ASSIGN(const int threads, on_cpu ? choose_threads(options.threads) : Result<int>(1));
    impl->own_executor = std::make_unique<core::ThreadPool>(threads);
    impl->executor = impl->own_executor.get();
  } else if (impl->executor->concurrency() < 1) {
    return invalid_argument("Context::create: executor's concurrency is ",
                            impl->executor->concurrency(), ", must be at least 1");
  }
  if (options.trace != nullptr) {
    impl->tracer = std::make_unique<core::Tracer>(*options.trace, *impl->executor);
    impl->executor = &impl->tracer->executor();
  }
  impl->log = options.log;
  impl->chunk_invariant = options.chunk_invariant;
  impl->batch_invariant = options.batch_invariant || options.chunk_invariant;
  return std::unique_ptr<Context>(new Context(std::move(impl)));
}

DeviceType Context::device() const noexcept { return impl_->device; }
Isa Context::isa() const noexcept { return impl_->isa; }
Executor& Context::executor() const noexcept { return *impl_->executor; }
Allocator& Context::allocator() const noexcept { return *impl_->allocator; }
bool Context::batch_invariant() const noexcept { return impl_->batch_invariant; }
bool Context::chunk_invariant() const noexcept { return impl_->chunk_invariant; }
std::string_view Context::last_kernel_target() const noexcept { return impl_->last_target; }
void* Context::stream() const noexcept {
  return impl_->accelerator == nullptr ? nullptr : impl_->accelerator->stream();
}
Allocator& Context::pinned_allocator() const noexcept {
  return impl_->accelerator == nullptr ? *impl_->allocator : impl_->accelerator->pinned();
}

Status Context::copy(void* to, const void* from, std::size_t bytes) {
  if (impl_->accelerator != nullptr) return impl_->accelerator->copy(to, from, bytes);
  if (bytes > 0) std::memcpy(to, from, bytes);
  return {};
}

Status Context::upload(void* to, const void* from, std::size_t bytes) {
  return impl_->uploads != nullptr ? impl_->uploads->copy(to, from, bytes) : copy(to, from, bytes);
}

Status Context::reserve_workspace(std::size_t shared, std::size_t per_worker) {
  return impl_->reserve(shared, per_worker);
}

Status Context::synchronize() {
  if (impl_->accelerator == nullptr) return {};
  return impl_->accelerator->synchronize(concat(
      "Context::synchronize, after ", impl_->last_op == nullptr ? "nothing" : impl_->last_op));
}

std::size_t Context::workspace_bytes() const noexcept {
  return impl_->shared_bytes + impl_->num_counters * sizeof(std::uint32_t) +
         impl_->worker_bytes * static_cast<std::size_t>(impl_->executor->concurrency());
}

std::size_t Context::allocated_bytes() const noexcept { return impl_->allocator->live_bytes(); }

namespace core {

Result<std::byte*> shared_workspace(Context& context, std::size_t bytes) {
  Recorder* recorder = recorder_of(context);
  if (recorder != nullptr && context.device() == DeviceType::kCpu) {
    return recorder->shared_block(bytes);
  }
  // On a GPU the steps of a context follow one another on its stream: graphs share its block, which
  // a larger one replaces but does not free.
  HYBRIDATTN_TRY(context.impl().reserve(bytes, 0));
  return context.impl().shared;
}

Result<Launch> begin_launch(Context& context, std::size_t worker_bytes) {
  Context::Impl& impl = context.impl();
  HYBRIDATTN_TRY(impl.reserve(0, worker_bytes));
  return Launch{*impl.executor, impl.isa, impl.workers, impl.worker_bytes};
}

bool recording(Context& context) noexcept { return recorder_of(context) != nullptr; }

void record_launch(Context& context, const char* op, std::function<void(Launch&)> call,
                   std::size_t worker_bytes) {
  recorder_of(context)->add(
      op,
      [kernel = std::move(call)](Launch& launch) {
        kernel(launch);
        return Status();
      },
      worker_bytes);
}

void end_launch(Context& context, const Launch& launch) noexcept {
  if (*launch.target != '\0') context.impl().last_target = launch.target;
}

}  // namespace core
}  // namespace hybridattn
