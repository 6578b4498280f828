#include "src/attention/placed_step.h"

#include <cstring>

#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"

namespace hybridattn::backend {

PlacedStep::PlacedStep(Context& context, const AttentionLimits& limits)
    : context_(context), limits_(limits) {}

PlacedStep::~PlacedStep() {
  if (memory_ == nullptr) return;
  (void)context_.synchronize();  // kernels may still read it
  context_.allocator().deallocate(memory_, bytes());
}

std::size_t PlacedStep::bytes() const noexcept {
  return static_cast<std::size_t>(limits_.tokens) * (sizeof(std::int64_t) + 1) + 1;
}

Result<std::unique_ptr<PlacedStep>> PlacedStep::create(Context& context,
                                                       const AttentionLimits& limits) {
  std::unique_ptr<PlacedStep> made(new PlacedStep(context, limits));
  made->memory_ = static_cast<std::byte*>(context.allocator().allocate(made->bytes()));
  if (made->memory_ == nullptr) {
    return error(StatusCode::kResourceExhausted, "PagedAttnBackend: the allocator gave no ",
                 made->bytes(), " bytes for the tokens of a step");
  }
  made->token_slots_ = reinterpret_cast<std::int64_t*>(made->memory_);
  made->pad_ = reinterpret_cast<std::uint8_t*>(made->token_slots_ + limits.tokens);
  return made;
}

bool PlacedStep::holds(const AttentionLimits& limits) const noexcept {
  return limits.rows <= limits_.rows && limits.tokens <= limits_.tokens &&
         limits.pages <= limits_.pages && limits.keys <= limits_.keys &&
         limits.all_keys <= limits_.all_keys && limits.row_tokens == limits_.row_tokens;
}

Status PlacedStep::add(const AttentionHeads& heads) {
  for (const auto& kind : kinds_) {
    if (kind.first == heads) return {};
  }
  HYBRIDATTN_ASSIGN(std::unique_ptr<DeviceAttentionRows> made,
                    DeviceAttentionRows::create(context_, heads, limits_));
  if (step_.token_slots != nullptr) HYBRIDATTN_TRY(made->write(step_.rows));
  kinds_.emplace_back(heads, std::move(made));
  return {};
}

Result<AttentionRows> PlacedStep::rows(const AttentionHeads& heads) {
  HYBRIDATTN_TRY(add(heads));
  for (const auto& [kind, rows] : kinds_) {
    if (kind == heads) return rows->rows();
  }
  return error(StatusCode::kInternal, "PagedAttnBackend: no rows for ", heads.num_heads, " heads");
}

Status PlacedStep::write(const PagedStep& step) {
  const auto tokens = static_cast<std::size_t>(step.tokens);
  core::UploadRing& ring = *context_.impl().uploads;
  const std::size_t all = tokens * (sizeof(std::int64_t) + 1);
  HYBRIDATTN_ASSIGN(const core::UploadRing::Piece piece, ring.take(all + 1));
  if (tokens > 0) {
    const std::size_t slots = tokens * sizeof(std::int64_t);
    std::memcpy(piece.host, step.token_slots, slots);
    std::memcpy(piece.host + slots, step.pad, tokens);
    core::Device& device = *context_.impl().accelerator;
    HYBRIDATTN_TRY(device.copy(token_slots_, piece.host, slots));
    HYBRIDATTN_TRY(device.copy(pad_, piece.host + slots, tokens));
  }
  for (const auto& kind : kinds_) HYBRIDATTN_TRY(kind.second->write(step.rows));
  step_ = step;
  return {};
}

}  // namespace hybridattn::backend
