// Scoring: the likelihood of given ids, in chunks.
#include <algorithm>

#include "engine/ops/cuda/kernels.h"
#include "engine/serve/engine.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {

Status Engine::score_chunk(std::span<const std::int32_t> ids, std::int64_t first,
                           std::int64_t count, const Handle& row, ScoreResult& result) {
  HYBRIDATTN_ASSIGN(BatchRow batch_row,
                    table_->batch_row(row, RowKind::kPrefill, static_cast<std::int32_t>(count)));
  HYBRIDATTN_ASSIGN(const ForwardBatch batch, ForwardBatch::create({std::move(batch_row)}));
  const std::span<const std::int32_t> some =
      ids.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
  HYBRIDATTN_TRY(run_eagerly(batch, some));
  HYBRIDATTN_TRY(table_->advance(row, static_cast<std::int32_t>(count)));
  const std::int64_t vocab = model().config().vocab_size;
  const std::int64_t block = model().logits_block();
  std::vector<std::int32_t> tokens;
  for (std::int64_t done = 0; done < count; done += block) {
    const std::int64_t rows = std::min(block, count - done);
    tokens.clear();
    for (std::int64_t i = 0; i < rows; ++i) tokens.push_back(static_cast<std::int32_t>(done + i));
    logits_.resize(std::max(logits_.size(), static_cast<std::size_t>(rows * vocab)));
    HYBRIDATTN_TRY(logits(tokens, logits_.data()));
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::span<const float> row_logits(logits_.data() + i * vocab,
                                              static_cast<std::size_t>(vocab));
      const auto next = static_cast<std::size_t>(first + done + i + 1);
      HYBRIDATTN_TRY(check_logits(row_logits, next));
      result.argmax.push_back(argmax(row_logits));
      if (next < ids.size()) {
        result.logprobs.push_back(log_probability(row_logits, ids[next]));
      } else {
        result.last_logits.assign(row_logits.begin(), row_logits.end());
      }
    }
  }
  return {};
}

Result<ScoreResult> Engine::score(std::span<const std::int32_t> ids, std::int32_t chunk,
                                  const LoadProgress& progress) {
  HYBRIDATTN_TRY(check_prompt("score", ids, static_cast<std::int64_t>(ids.size())));
  if (chunk < 1) return invalid_argument("score: chunk is ", chunk, ", must be at least 1");
  if (context().chunk_invariant()) {
    if (chunk < kGdnChunk) {
      return invalid_argument("score: chunk is ", chunk, ", must be at least ", kGdnChunk,
                              " for chunk-invariant");
    }
    chunk -= chunk % kGdnChunk;
  }
  if (!idle()) {
    return error(StatusCode::kFailedPrecondition, "score: requests are running, must be idle");
  }
  const cuda::ThreadDevice device(options_.context);
  const auto total = static_cast<std::int64_t>(ids.size());
  HYBRIDATTN_ASSIGN(const Handle row, table_->open(total));
  ScoreResult result;
  Status status;
  for (std::int64_t first = 0; status.ok() && first < total; first += chunk) {
    const std::int64_t count = std::min<std::int64_t>(chunk, total - first);
    status = score_chunk(ids, first, count, row, result);
    if (progress) progress(static_cast<double>(first + count) / static_cast<double>(total));
  }
  HYBRIDATTN_TRY(table_->close(row));
  HYBRIDATTN_TRY(status);
  double sum = 0;
  for (const double logprob : result.logprobs) sum -= logprob;
  if (!result.logprobs.empty()) result.mean_nll = sum / static_cast<double>(result.logprobs.size());
  return result;
}

}  // namespace hybridattn::engine
