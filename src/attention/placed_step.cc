#include "src/attention/placed_step.h"

#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"
#include "src/ops/attention_place.h"

namespace hybridattn::backend {

PlacedStep::PlacedStep(Context& context, const AttentionLimits& limits)
    : context_(context), limits_(limits) {}

PlacedStep::~PlacedStep() {
  if (memory_ == nullptr) return;
  (void)context_.synchronize();  // kernels may still read it
  context_.allocator().deallocate(memory_, bytes());
}

std::size_t PlacedStep::bytes() const noexcept {
  return static_cast<std::size_t>(limits_.tokens + 1) * sizeof(std::int64_t);
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
  if (context_.impl().accelerator->capturing()) {
    return error(StatusCode::kFailedPrecondition, "PagedAttnBackend: a graph is captured and no ",
                 "layer given to set_layers has ", heads.num_heads, " heads over ",
                 heads.num_kv_heads, ", causal ", heads.causal, ", window ", heads.window);
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

std::size_t PlacedStep::scratch_bytes(const AttentionHeads& heads,
                                      std::int64_t dim) const noexcept {
  for (const auto& [kind, rows] : kinds_) {
    if (kind != heads) continue;
    return ops::attention_parts_bytes(rows->rows().device->tables.part_rows, heads.num_kv_heads,
                                      dim);
  }
  return 0;
}

Status PlacedStep::write(const PagedStep& step) {
  const std::size_t slots = static_cast<std::size_t>(step.tokens) * sizeof(std::int64_t);
  if (slots > 0) {
    HYBRIDATTN_TRY(context_.upload(token_slots_, step.token_slots, slots));
  }
  for (const auto& kind : kinds_) HYBRIDATTN_TRY(kind.second->write(step.rows));
  step_ = step;
  return {};
}

}  // namespace hybridattn::backend
