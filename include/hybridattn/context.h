// Context: the device, the threads, the allocator and the workspace that a series of calls share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "hybridattn/export.h"
#include "hybridattn/status.h"

namespace hybridattn {

class Trace;

enum class DeviceType : std::uint8_t { kCpu, kCuda };

/// Instruction sets that the CPU kernels are compiled for, slowest first.
enum class Isa : std::uint8_t {
  kBaseline,    ///< What the compiler's target guarantees: SSE2 on x86-64.
  kAvx2,        ///< AVX2, FMA, F16C.
  kAvx512,      ///< AVX-512 F, BW, CD, DQ, VL.
  kAvx512Bf16,  ///< The same with VNNI, VBMI2 and bf16 dot products (Zen 4, Sapphire Rapids).
  kAmx,         ///< The same with AMX tiles for products in bf16 (Sapphire Rapids and later).
};
inline constexpr int kIsaCount = 5;

/// "baseline", "avx2", "avx512", "avx512_bf16", "amx": the names that HYBRIDATTN_ISA takes.
HYBRIDATTN_API std::string_view isa_name(Isa isa) noexcept;
HYBRIDATTN_API Result<Isa> parse_isa(std::string_view name);
/// Whether this processor, and this build, can run the kernels of `isa`.
HYBRIDATTN_API bool isa_supported(Isa isa) noexcept;
/// The fastest supported instruction set.
HYBRIDATTN_API Isa best_isa() noexcept;

/// Runs parallel loops. A caller who has a thread pool wraps it in this; otherwise the context
/// makes a pool of its own.
class HYBRIDATTN_API Executor {
 public:
  using Task = void (*)(void* argument, std::int64_t index, int worker);

  virtual ~Executor() = default;
  /// Upper bound of the workers that take part in one loop, at least 1.
  virtual int concurrency() const noexcept = 0;
  /// Calls task(argument, i, worker) exactly once for each i in [0, count) and returns when all are
  /// done. `worker` is in [0, concurrency()) and no two tasks run with the same one at a time.
  virtual void run(std::int64_t count, Task task, void* argument) = 0;
};

/// Runs `body(index, worker)` for each index in [0, count) on the executor, as Executor::run says.
template <class Body>
void parallel_for(Executor& executor, std::int64_t count, const Body& body) {
  executor.run(
      count,
      [](void* argument, std::int64_t index, int worker) {
        (*static_cast<const Body*>(argument))(index, worker);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

/// Where all memory of a context comes from.
class HYBRIDATTN_API Allocator {
 public:
  virtual ~Allocator() = default;
  /// `bytes` of memory aligned to 64 bytes, or nullptr when there is none.
  virtual void* allocate(std::size_t bytes) noexcept = 0;
  virtual void deallocate(void* pointer, std::size_t bytes) noexcept = 0;
};

struct ContextOptions {
  DeviceType device = DeviceType::kCpu;
  /// Which CUDA device.
  int device_index = 0;
  /// CUDA: the stream that everything is ordered on (a cudaStream_t), borrowed; it must outlive the
  /// context. nullptr = a stream of the context's own.
  void* stream = nullptr;
  /// CUDA: wait for each op, so that it reports its own faults. For finding one; slow.
  bool synchronous = false;
  /// CUDA: take only this family where an op has several: "sm90", "sm80", "smxx" or, for
  /// gdn_prefill, "sm90_fused"; an op that it cannot serve is refused. Unset =
  /// HYBRIDATTN_CUDA_FAMILY from the environment, else the fastest that serves each call.
  std::optional<std::string> kernel_family{};
  /// Threads of the context's own pool; 0 = one for each core of the affinity mask. Ignored when
  /// `executor` is given.
  int threads = 0;
  /// Borrowed; must outlive the context. nullptr = own pool.
  Executor* executor = nullptr;
  /// Memory of the context's device. Borrowed; must outlive the context. nullptr = aligned operator
  /// new, or cudaMalloc.
  Allocator* allocator = nullptr;
  /// Force an instruction set. Unset = HYBRIDATTN_ISA from the environment, else the best.
  std::optional<Isa> isa{};
  /// With the same chunks of a prompt a request's results are bit-equal alone, beside any others,
  /// in any order of rows, eager or replayed. The CPU kernels are so always.
  bool batch_invariant = false;
  /// Implies batch_invariant. Results do not depend on the chunks of a prompt either: prefill rows
  /// start at multiples of kGdnChunk tokens (others are refused by the plan), states are float32 at
  /// rest, and drafted tokens give the bits of decoded ones.
  bool chunk_invariant = false;
  /// Receives single lines of diagnostics. The library never prints.
  std::function<void(std::string_view)> log{};
  /// Borrowed; must outlive the context. Records every op: see trace.h. nullptr = nothing is timed.
  Trace* trace = nullptr;
};

/// One per thread of control: a context serves one thread at a time, and different contexts share
/// nothing. Every op and backend takes one.
class HYBRIDATTN_API Context {
 public:
  /// Errors: invalid_argument for a bad option or an unknown HYBRIDATTN_ISA; unsupported for an
  /// instruction set or a device that is not there.
  static Result<std::unique_ptr<Context>> create(const ContextOptions& options = {});
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  DeviceType device() const noexcept;
  Isa isa() const noexcept;
  Executor& executor() const noexcept;
  Allocator& allocator() const noexcept;
  bool batch_invariant() const noexcept;
  bool chunk_invariant() const noexcept;
  /// CUDA: what everything is ordered on, a cudaStream_t. nullptr on the CPU. Within an
  /// UploadScope take it anew for each kernel of your own: what waits goes before.
  void* stream() const noexcept;
  /// CUDA: memory of the host for copies that go on by themselves. On the CPU as allocator().
  Allocator& pinned_allocator() const noexcept;

  /// Copies between any two of memory of the device and of the host, in order with the ops. From or
  /// to host memory that is not pinned, the source may be written, the result read, when the call
  /// returns. Errors: device_error.
  Status copy(void* to, const void* from, std::size_t bytes);
  /// Copies a small array of any host memory to the device, in order with the ops, and waits for
  /// none of them: `from` may be written when the call returns. See UploadScope for several.
  /// Errors: resource_exhausted, device_error; failed_precondition while a graph is captured.
  Status upload(void* to, const void* from, std::size_t bytes);

  /// The instruction set that the last op's kernel was compiled for, as the kernel itself reported
  /// it ("AVX2", "AVX3_ZEN4", "AVX3_ZEN4_BF16" and "AMX" where products of a kernel that others
  /// take in float32 are in bf16, ...), or its family on CUDA ("sm90", ..., "streamed", "few_rows",
  /// "multicast", "cublaslt" or "tiles" of products); empty before the first op.
  std::string_view last_kernel_target() const noexcept;

  /// Makes the workspace at least this large now, so that no later call allocates: `shared` bytes
  /// in one block and `per_worker` bytes for each worker. Plans call it with what their runs need.
  /// Errors: resource_exhausted when the allocator gives nothing; the old workspace stays.
  Status reserve_workspace(std::size_t shared, std::size_t per_worker);
  /// Waits until the device has done all that was ordered on the context's stream. Errors:
  /// device_error, with the last op named. On the CPU nothing is ever pending.
  Status synchronize();
  /// Bytes of workspace held now.
  std::size_t workspace_bytes() const noexcept;
  /// Bytes of allocator() in use now: workspace, and what caches, plans, graphs and others of this
  /// context hold.
  std::size_t allocated_bytes() const noexcept;

  class Impl;
  Impl& impl() noexcept { return *impl_; }

 private:
  explicit Context(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hybridattn
