#include "engine/serve/engine_options.h"

#include <limits>
#include <set>

#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

/// NCCL sums in an order that depends on the place in the message: of two ranks there is only one
/// order.
constexpr std::int32_t kMostInvariantRanks = 2;

Status check_devices(const EngineOptions& o) {
  if (o.devices.empty()) return {};
  const std::set<int> different(o.devices.begin(), o.devices.end());
  if (o.context.device == DeviceType::kCpu) {
    return invalid_argument("devices has ", o.devices.size(),
                            " entries, must be empty where device is cpu");
  }
  if (static_cast<std::int64_t>(o.devices.size()) != o.ranks ||
      different.size() != o.devices.size() || *different.begin() < 0) {
    return invalid_argument("devices has ", o.devices.size(), " entries for ", o.ranks,
                            " ranks, must have one for each, all different and at least 0");
  }
  return {};
}

/// What a context may have that is to be one of several.
Status check_ranks(const EngineOptions& o) {
  const bool on_cpu = o.context.device == DeviceType::kCpu;
  const std::pair<const char*, const void*> shared[] = {
      {"executor", o.context.executor},
      {"allocator", on_cpu ? nullptr : o.context.allocator},
      {"stream", o.context.stream}};
  for (const auto& [name, value] : shared) {
    if (value == nullptr) continue;
    return invalid_argument("context.", name, " is given, must be unset with ", o.ranks,
                            " ranks, each of which has its own");
  }
  const bool invariant = o.context.batch_invariant || o.context.chunk_invariant;
  if (!on_cpu && invariant && o.ranks > kMostInvariantRanks) {
    return error(StatusCode::kUnsupported, "ranks is ", o.ranks, ", must be at most ",
                 kMostInvariantRanks,
                 " on cuda for batch-invariant and chunk-invariant: sums over more depend on what "
                 "is beside them");
  }
  return {};
}

}  // namespace

ContextOptions rank_context(const EngineOptions& options, std::int32_t rank) {
  ContextOptions context = options.context;
  if (options.devices.empty()) {
    context.device_index += rank;
  } else {
    context.device_index = options.devices[static_cast<std::size_t>(rank)];
  }
  if (rank > 0) {
    context.trace = nullptr;  // a trace and a log are of one thread
    context.log = {};
  }
  return context;
}

Status check_options(const EngineOptions& o) {
  if (o.chunk < 1) return invalid_argument("chunk is ", o.chunk, ", must be at least 1");
  if (o.max_batch < 1)
    return invalid_argument("max-batch is ", o.max_batch, ", must be at least 1");
  if (o.page_size < 1)
    return invalid_argument("page_size is ", o.page_size, ", must be at least 1");
  if (o.draft_tokens < 0 || o.draft_tokens > kMaxTreeTokens) {
    return invalid_argument("draft-tokens is ", o.draft_tokens, ", must be 0 to ", kMaxTreeTokens);
  }
  if (std::int64_t{o.max_batch} * (o.draft_tokens + 2) > std::numeric_limits<std::int32_t>::max()) {
    return invalid_argument("max-batch is ", o.max_batch, " with draft-tokens ", o.draft_tokens,
                            ", must be under 2^31 state slots together");
  }
  if (o.context.chunk_invariant && o.chunk < kGdnChunk) {
    return invalid_argument("chunk is ", o.chunk, ", must be at least ", kGdnChunk,
                            " for chunk-invariant");
  }
  if (o.context.chunk_invariant && o.state_dtype != DType::kF32) {
    return invalid_argument("state-dtype is ", dtype_name(o.state_dtype),
                            ", must be f32 for chunk-invariant");
  }
  if (o.ranks < 1) return invalid_argument("ranks is ", o.ranks, ", must be at least 1");
  HYBRIDATTN_TRY(check_devices(o));
  if (o.dtype.has_value() && *o.dtype != DType::kF32 && *o.dtype != DType::kBF16) {
    return invalid_argument("dtype is ", dtype_name(*o.dtype), ", must be f32 or bf16");
  }
  return o.ranks == 1 ? Status() : check_ranks(o);
}

}  // namespace hybridattn::engine
