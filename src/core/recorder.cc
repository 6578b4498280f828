#include "src/core/recorder.h"

#include <algorithm>

#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"

namespace hybridattn::core {

Recorder::~Recorder() {
  for (const Block& block : blocks_) allocator_.deallocate(block.data, block.bytes);
}

void Recorder::add(std::string name, Body body, std::size_t bytes) {
  calls.push_back({std::move(name), std::move(body)});
  worker_bytes = std::max(worker_bytes, round_to_alignment(bytes));
}

Status Recorder::hold(std::string_view who, const GraphInput& input) {
  for (const Input& held : inputs) {
    if (held.data.get() == &input) return {};
  }
  std::shared_ptr<const GraphInput> shared = input.weak_from_this().lock();
  if (!input.recordable() || shared == nullptr) {
    return error(StatusCode::kFailedPrecondition, who,
                 ": the plan of a single step cannot be recorded; use plan_graph");
  }
  const std::uint64_t version = shared->version();
  inputs.push_back({std::move(shared), version});
  return {};
}

Result<std::byte*> Recorder::allocate(std::size_t bytes) {
  auto* data = static_cast<std::byte*>(allocator_.allocate(bytes));
  if (data == nullptr) {
    return error(StatusCode::kResourceExhausted, "Graph: the allocator gave no ", bytes,
                 " bytes of workspace");
  }
  blocks_.push_back({data, bytes});
  total_bytes += bytes;
  return data;
}

Result<std::byte*> Recorder::shared_block(std::size_t bytes) {
  if (bytes > shared_bytes_) {
    HYBRIDATTN_ASSIGN(shared_, allocate(round_to_alignment(bytes)));
    shared_bytes_ = round_to_alignment(bytes);
  }
  return shared_;
}

Status Recorder::reserve_workers(int count) {
  if (worker_bytes == 0) return {};
  HYBRIDATTN_ASSIGN(workers, allocate(worker_bytes * static_cast<std::size_t>(count)));
  return {};
}

Status hold_if_recording(Context& context, std::string_view who, const GraphInput& input) {
  Recorder* recorder = recorder_of(context);
  return recorder == nullptr ? Status() : recorder->hold(who, input);
}

Recorder* recorder_of(Context& context) noexcept { return context.impl().recorder; }

}  // namespace hybridattn::core
