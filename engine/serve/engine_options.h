// What an engine is asked to be.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/model/weights.h"
#include "hybridattn/hybridattn.h"

namespace hybridattn::engine {

struct EngineOptions {
  ContextOptions context;
  std::optional<DType> dtype;     ///< f32 or bf16; unset = the checkpoint's, f32 where that is f16
  std::optional<DType> kv_dtype;  ///< f32, bf16, f16 or f8_e4m3; unset = dtype
  DType state_dtype = DType::kF32;  ///< f32 or bf16 at rest
  WeightFormat weights = WeightFormat::kStored;
  /// Prompt tokens of one step, at most. With chunk_invariant in `context` it is cut to a multiple
  /// of kGdnChunk, which it must reach. With batch_invariant a prompt takes whole chunks or waits.
  std::int32_t chunk = 512;
  std::int32_t max_batch = 8;   ///< requests that run at once
  std::int32_t page_size = 16;  ///< tokens of a page
  /// Tokens drafted for each request and step, at most, from what was said before; those that the
  /// sampler would have taken are kept. 0 = off. Prompts may be cut at other places then: with
  /// batch_invariant or chunk_invariant the output is the same to the bit, else within the bounds.
  std::int32_t draft_tokens = 0;
  /// Record decode steps once and replay them, on a GPU steps of short prompts too. With
  /// batch_invariant the output is the same to the bit, else within the bounds.
  bool graphs = true;
  /// On a GPU: a step is ordered before the tokens of the last one are read, where the device chose
  /// those and nothing is drafted: they come with the next call of step(). The output is the same.
  bool overlap = true;
  /// Tensor parallel: how many ranks share the heads and the widths of each layer. On CUDA each has
  /// a device of its own and NCCL joins them; on the CPU each is a thread of this process with
  /// `context.threads` threads of its own, a way to test and no faster. Results are those of one
  /// rank within the bounds, and the same bits each time. With several, `context` may have no
  /// executor and no stream, which could not serve them all, and an allocator on the CPU alone, one
  /// that is thread-safe; its trace and log are the first rank's. A rank that fails ends the step
  /// of all; on CUDA the engine is of no use afterwards.
  std::int32_t ranks = 1;
  /// CUDA, several ranks: the device of each. Empty = context.device_index and those behind it.
  std::vector<int> devices{};
};

/// Sizes of the caches. Tokens are those of one request, prompt and output together.
struct CacheOptions {
  std::int64_t max_tokens_per_request = 0;
  std::int64_t memory_bytes =
      0;  ///< budget of both caches, of each rank; 0 = what max_batch requests need
};

/// What options say by themselves, whatever the model. Errors: invalid_argument; unsupported for
/// what several ranks cannot do.
Status check_options(const EngineOptions& options);

/// The context of one of the ranks.
ContextOptions rank_context(const EngineOptions& options, std::int32_t rank);

}  // namespace hybridattn::engine
