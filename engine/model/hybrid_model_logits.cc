// The last part of the forward pass: logits of tokens, and what they say.
#include <algorithm>
#include <numeric>

#include "engine/model/activations.h"
#include "engine/model/hybrid_model.h"
#include "engine/ops/embedding.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

std::int64_t greedy_bytes(std::int64_t rows) {
  return static_cast<std::int64_t>(greedy_scratch_bytes(rows));
}

}  // namespace

std::int64_t HybridModel::logits_block() const {
  // 32 MiB of logits: enough rows to use each weight many times, little beside the weights. On a
  // GPU that takes more rows, and there is more memory.
  const int shift = weights_->on_device() ? 26 : 23;
  const std::int64_t rows = (std::int64_t{1} << shift) / config_.vocab_size;
  return std::clamp<std::int64_t>(rows, 1, 256);
}

bool HybridModel::has_head(const Plan& plan) const {
  const GraphShape& shape = plan.shape();
  return weights_->on_device() && shape.tokens <= logits_block() &&
         shape.tokens == shape.decode_rows;
}

Status HybridModel::run_to_tokens(const Plan& plan, AttentionBackend& backend) {
  HYBRIDATTN_TRY(run(plan, backend));
  if (!has_head(plan)) return {};
  arena_.rewind();
  const ResidualBuffers residual(arena_, config_, dtype_, tokens_);
  HYBRIDATTN_ASSIGN(const TensorView logits, head(residual.hidden, nullptr));
  return choose_largest(logits);
}

Status HybridModel::check_logits_tokens(std::span<const std::int32_t> tokens) const {
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= tokens_) {
      return error(StatusCode::kOutOfRange, "HybridModel::logits: tokens[", i, "] is ", tokens[i],
                   ", must be in [0, ", tokens_, ")");
    }
  }
  const auto rows = static_cast<std::int64_t>(tokens.size());
  if (rows > logits_block()) {
    return invalid_argument("HybridModel::logits: ", rows, " tokens are given, must be at most ",
                            logits_block());
  }
  return {};
}

Result<TensorView> HybridModel::head(const TensorView& hidden, float* out) {
  const std::int64_t rows = hidden.dim(0);
  const TensorView normed = arena_.take(dtype_, {rows, config_.hidden_size});
  const TensorView logits = out != nullptr
                                ? TensorView(out, DType::kF32, {rows, config_.vocab_size})
                                : arena_.take(DType::kF32, {rows, config_.vocab_size});
  // Of a shard that has some of the vocabulary: its columns of the logits.
  const std::int64_t own = weights_->lm_head.dim(0);
  const bool has_all = own == config_.vocab_size;
  const TensorView part =
      has_all ? logits : logits.at(communicator_->rank() * own, {rows, own}, {logits.stride(0), 1});
  if (weights_->on_device()) {
    HYBRIDATTN_TRY(linear(context_, {hidden,
                                     weights_->lm_head,
                                     part,
                                     false,
                                     {},
                                     {},
                                     weights_->final_norm,
                                     config_.rms_norm_eps}));
  } else {
    HYBRIDATTN_TRY(normalize(hidden, weights_->final_norm, normed));
    HYBRIDATTN_TRY(multiply(normed, weights_->lm_head, part));
  }
  if (!has_all) HYBRIDATTN_TRY(communicator_->all_gather_columns(context_, logits));
  return logits;
}

Status HybridModel::choose_largest(const TensorView& logits) {
  const TensorView scratch = arena_.take(DType::kI8, {greedy_bytes(logits.dim(0))});
  return run_or_record(context_, "greedy_tokens", [this, logits, scratch] {
    return greedy_tokens(context_, logits, limits_.device(), static_cast<std::byte*>(scratch.data),
                         chosen_.device().data());
  });
}

TensorView HybridModel::replayed_logits() {
  arena_.rewind();
  const ResidualBuffers residual(arena_, config_, dtype_, tokens_);
  arena_.take(dtype_, {tokens_, config_.hidden_size});  // as head() lays them out
  return arena_.take(DType::kF32, {tokens_, config_.vocab_size});
}

Result<TensorView> HybridModel::compute_logits(std::span<const std::int32_t> tokens, float* out) {
  const auto rows = static_cast<std::int64_t>(tokens.size());
  arena_.rewind();
  const ResidualBuffers residual(arena_, config_, dtype_, tokens_);
  const TensorView hidden = arena_.take(DType::kF32, {rows, config_.hidden_size});
  std::copy(tokens.begin(), tokens.end(), wanted_.host().begin());
  HYBRIDATTN_TRY(wanted_.upload(tokens.size()));
  HYBRIDATTN_TRY(gather_rows(context_, residual.hidden, tokens, wanted_.device(), hidden));
  return head(hidden, out);
}

Status HybridModel::logits(std::span<const std::int32_t> tokens, float* out) {
  HYBRIDATTN_TRY(check_logits_tokens(tokens));
  if (!weights_->on_device()) return compute_logits(tokens, out).status();
  const auto vocab = static_cast<std::size_t>(config_.vocab_size);
  if (knows_logits_) {
    const TensorView all = replayed_logits();
    for (std::size_t i = 0; out != nullptr && i < tokens.size(); ++i) {
      const float* row = static_cast<const float*>(all.data) + tokens[i] * all.stride(0);
      HYBRIDATTN_TRY(context_.copy(out + i * vocab, row, vocab * sizeof(float)));
    }
  } else {
    HYBRIDATTN_ASSIGN(const TensorView logits, compute_logits(tokens, nullptr));
    if (out != nullptr) {
      HYBRIDATTN_TRY(context_.copy(out, logits.data, tokens.size() * vocab * sizeof(float)));
    }
  }
  // A copy to memory that is not pinned has ended, but `out` may be the caller's pinned memory.
  return context_.synchronize();
}

Status HybridModel::set_limits(std::span<const std::int32_t> limits) {
  if (limits.size() > limits_.size()) {
    return error(StatusCode::kOutOfRange, "HybridModel::set_limits: ", limits.size(),
                 " limits are given, must be at most ", limits_.size());
  }
  const auto host = limits_.host();
  const auto rest = host.subspan(limits.size());
  const bool same = std::equal(limits.begin(), limits.end(), host.begin()) &&
                    std::all_of(rest.begin(), rest.end(),
                                [&](std::int32_t limit) { return limit == config_.vocab_size; });
  if (same) return {};
  std::fill(std::copy(limits.begin(), limits.end(), host.begin()), host.end(), config_.vocab_size);
  return limits_.upload(host.size());
}

Status HybridModel::draw(const TensorView& logits, std::span<const std::int32_t> rows,
                         std::span<const Draw> draws) {
  // Rows that nobody wants have some draw too.
  Draw any;
  any.limit = config_.vocab_size;
  const auto all = draws_.host().first(static_cast<std::size_t>(logits.dim(0)));
  std::fill(all.begin(), all.end(), any);
  for (std::size_t i = 0; i < rows.size(); ++i) all[static_cast<std::size_t>(rows[i])] = draws[i];
  HYBRIDATTN_TRY(draws_.upload(all.size()));
  return draw_tokens(context_, logits, all.data(), draws_.device(), chosen_.device().data());
}

Result<Choices> HybridModel::choose(std::span<const std::int32_t> tokens,
                                    std::span<const Draw> draws) {
  HYBRIDATTN_TRY(check_logits_tokens(tokens));
  if (!weights_->on_device()) {
    return error(StatusCode::kFailedPrecondition,
                 "HybridModel::choose: the weights are on the CPU, where logits are read");
  }
  const bool greedy =
      std::all_of(draws.begin(), draws.end(), [](const Draw& draw) { return draw.scale == 0; });
  Choices choices;
  if (knows_logits_) {
    choices.places.assign(tokens.begin(), tokens.end());
    if (!greedy) HYBRIDATTN_TRY(draw(replayed_logits(), tokens, draws));
    HYBRIDATTN_ASSIGN(choices.step, chosen_.send(static_cast<std::size_t>(tokens_)));
    return choices;
  }
  choices.places.resize(tokens.size());
  std::iota(choices.places.begin(), choices.places.end(), 0);
  if (!tokens.empty()) {
    std::vector<std::int32_t> limits;
    for (const Draw& each : draws) limits.push_back(each.limit);
    if (greedy) HYBRIDATTN_TRY(set_limits(limits));
    HYBRIDATTN_ASSIGN(const TensorView logits, compute_logits(tokens, nullptr));
    HYBRIDATTN_TRY(greedy ? choose_largest(logits) : draw(logits, choices.places, draws));
  }
  HYBRIDATTN_ASSIGN(choices.step, chosen_.send(tokens.size()));
  return choices;
}

}  // namespace hybridattn::engine
