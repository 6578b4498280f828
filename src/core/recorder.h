// What a graph is while it is being recorded: the calls, what they read, the workspace they name.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hybridattn/graph.h"
#include "src/core/kernel.h"

namespace hybridattn::core {

class Recorder {
 public:
  using Body = std::function<Status(Launch&)>;
  struct Call {
    std::string name;
    Body body;
  };
  struct Input {
    std::shared_ptr<const GraphInput> data;
    std::uint64_t replayed;  // its version at the last replay, at first when it was recorded
  };

  explicit Recorder(Allocator& allocator) : allocator_(allocator) {}
  ~Recorder();
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  void add(std::string name, Body body, std::size_t worker_bytes);
  /// Errors: failed_precondition for an input that is not recordable.
  Status hold(std::string_view who, const GraphInput& input);
  /// A block that calls may share one after the other, like the context's shared workspace. It
  /// never moves: recorded calls have its address. Errors: resource_exhausted.
  Result<std::byte*> shared_block(std::size_t bytes);
  /// The workers' scratch for all calls. Errors: resource_exhausted.
  Status reserve_workers(int workers);

  std::vector<Call> calls;
  std::vector<Input> inputs;
  std::byte* workers = nullptr;
  std::size_t worker_bytes = 0;
  std::size_t total_bytes = 0;

 private:
  struct Block {
    std::byte* data;
    std::size_t bytes;
  };
  Result<std::byte*> allocate(std::size_t bytes);

  Allocator& allocator_;
  std::vector<Block> blocks_;    // all of them, for the end
  std::byte* shared_ = nullptr;  // the largest block handed out by shared_block
  std::size_t shared_bytes_ = 0;
};

/// Makes the graph that is being recorded, if any, an owner of `input`. Errors: as Recorder::hold.
Status hold_if_recording(Context& context, std::string_view who, const GraphInput& input);

/// The context's recorder while a graph is recorded, else nullptr.
Recorder* recorder_of(Context& context) noexcept;

}  // namespace hybridattn::core
