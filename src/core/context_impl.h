// What a Context holds.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hybridattn/context.h"
#include "src/core/counting_allocator.h"
#include "src/core/device.h"
#include "src/core/tracer.h"
#include "src/core/upload_ring.h"

namespace hybridattn {

namespace core {
class Recorder;
}

class __attribute__((visibility("hidden"))) Context::Impl {
 public:
  ~Impl();

  Status reserve(std::size_t shared, std::size_t per_worker);
  Status reserve_counters(std::size_t count);

  DeviceType device = DeviceType::kCpu;
  std::unique_ptr<core::Device> accelerator;  // nullptr on the CPU
  Isa isa = Isa::kBaseline;
  std::unique_ptr<Executor> own_executor;
  std::unique_ptr<Allocator> own_allocator;
  std::unique_ptr<core::Tracer> tracer;              // nullptr: no trace
  Executor* executor = nullptr;                      // the tracer's where there is one
  std::optional<core::CountingAllocator> allocator;  // the caller's, the accelerator's or its own
  std::unique_ptr<core::UploadRing> uploads;         // nullptr on the CPU
  std::string kernel_family;                         // forced; empty = the first that serves a call
  bool synchronous = false;
  bool batch_invariant = false;
  bool chunk_invariant = false;
  std::function<void(std::string_view)> log;
  const char* last_target = "";        // of a kernel, as it named itself: never an allocation
  const char* last_op = nullptr;       // of the accelerator
  core::Recorder* recorder = nullptr;  // borrowed, while a graph is recorded

  std::byte* shared = nullptr;
  std::size_t shared_bytes = 0;
  std::byte* workers = nullptr;
  std::size_t worker_bytes = 0;
  // Blocks that a captured graph may name live as long as the context, when larger ones take over.
  bool captured = false;
  std::vector<std::pair<std::byte*, std::size_t>> retired;
  std::uint32_t* counters = nullptr;  // zeros between the kernels of the accelerator
  std::size_t num_counters = 0;
};

namespace core {

/// Blocks of workspace are multiples of a cache line.
constexpr std::size_t round_to_alignment(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

/// The shared workspace block, at least `bytes` large. It stays valid until a larger one is asked
/// for; while a graph is recorded it is a block of the graph's own. Errors: resource_exhausted.
Result<std::byte*> shared_workspace(Context& context, std::size_t bytes);

/// Fills the kernel tables; defined in register.cc. Safe to call from many threads.
void register_kernels();

}  // namespace core
}  // namespace hybridattn
