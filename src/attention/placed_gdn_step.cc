#include "src/attention/placed_gdn_step.h"

#include <algorithm>
#include <cstring>

#include "hybridattn/ops/gdn_prefill.h"
#include "hybridattn/status_macros.h"
#include "src/attention/step_shape.h"
#include "src/core/context_impl.h"
#include "src/ops/place_rows.h"

namespace hybridattn::backend {
namespace {

/// Room for rows with `tokens` tokens in all: each may end in a chunk that is not full.
ops::RowBlock room_for(std::int64_t rows, std::int64_t tokens) {
  return {static_cast<std::int32_t>(rows),
          static_cast<std::int32_t>(std::min(tokens, rows + tokens / kGdnChunk))};
}

ops::RowBlock exactly(const RaggedRows& rows) {
  return {rows.count, static_cast<std::int32_t>(ops::count_chunks(rows))};
}

}  // namespace

/// How the arrays lie in the block: tables of rows, then kept slots, parents, kinds of tokens.
struct PlacedGdnStep::Layout {
  ops::RowBlock all, prefills, verifies;
  std::int64_t tokens;

  static Layout of(const GraphShape& shape) {
    const std::int64_t tokens = shape.tokens;
    const std::int64_t prefills = std::int64_t{shape.prefill_rows} + 1;
    return {room_for(shape.decode_rows + prefills, tokens), room_for(prefills, tokens),
            room_for(shape.verify_rows, tokens), tokens};
  }
  static Layout of(const GdnStep& step) {
    return {exactly(step.steps_and_prefills), exactly(step.prefills), exactly(step.verifies),
            step.tokens};
  }

  std::size_t kept_at() const { return all.bytes() + prefills.bytes() + verifies.bytes(); }
  std::size_t parents_at() const { return kept_at() + words(verifies.count); }
  std::size_t pad_at() const { return parents_at() + words(tokens); }
  std::size_t chunk_pad_at() const { return pad_at() + static_cast<std::size_t>(tokens); }
  std::size_t bytes() const { return chunk_pad_at() + static_cast<std::size_t>(tokens); }

 private:
  static std::size_t words(std::int64_t count) {
    return static_cast<std::size_t>(count) * sizeof(std::int32_t);
  }
};

PlacedGdnStep::PlacedGdnStep(Context& context, const GraphShape& shape, bool captured)
    : context_(context), shape_(shape), captured_(captured), bytes_(Layout::of(shape).bytes()) {}

PlacedGdnStep::~PlacedGdnStep() {
  if (block_ == nullptr) return;
  (void)context_.synchronize();  // kernels may still read it
  context_.allocator().deallocate(block_, bytes_);
}

Result<std::unique_ptr<PlacedGdnStep>> PlacedGdnStep::create(Context& context,
                                                             const GraphShape& shape,
                                                             bool captured) {
  std::unique_ptr<PlacedGdnStep> made(new PlacedGdnStep(context, shape, captured));
  made->block_ = static_cast<std::byte*>(context.allocator().allocate(made->bytes_));
  if (made->block_ == nullptr) {
    return error(StatusCode::kResourceExhausted, "GDNAttnBackend: the allocator gave no ",
                 made->bytes_, " bytes for the rows of a step");
  }
  made->point(Layout::of(shape), shape.decode_rows);
  return made;
}

bool PlacedGdnStep::holds(const GraphShape& shape) const noexcept {
  GraphShape rows = shape;
  rows.pages = 0;
  return !shape_excess(rows, shape_).has_value();
}

void PlacedGdnStep::point(const Layout& layout, std::int32_t num_steps) noexcept {
  const std::byte* at = block_;
  const auto take = [&at](const ops::RowBlock& block) {
    const DeviceRowTables tables = block.tables(at);
    at += block.bytes();
    return tables;
  };
  all_ = take(layout.all);
  prefills_ = take(layout.prefills);
  verifies_ = take(layout.verifies);
  steps_ = all_;  // its first rows; those of one token have no need of chunks
  steps_.count = num_steps;
  steps_.chunks = 0;
  kept_ = reinterpret_cast<const std::int32_t*>(block_ + layout.kept_at());
  parents_ = reinterpret_cast<const std::int32_t*>(block_ + layout.parents_at());
  pad_ = reinterpret_cast<const std::uint8_t*>(block_ + layout.pad_at());
  chunk_pad_ = reinterpret_cast<const std::uint8_t*>(block_ + layout.chunk_pad_at());
}

Status PlacedGdnStep::write(const GdnStep& step) {
  const Layout layout = captured_ ? Layout::of(shape_) : Layout::of(step);
  HYBRIDATTN_ASSIGN(const core::UploadRing::Piece piece,
                    context_.impl().uploads->take(layout.bytes()));
  std::byte* at = piece.host;
  const auto add = [&at](const ops::RowBlock& block, const RaggedRows& rows) {
    block.write(rows, at);
    at += block.bytes();
  };
  add(layout.all, step.steps_and_prefills);
  add(layout.prefills, step.prefills);
  add(layout.verifies, step.verifies);
  const auto copy = [&piece](std::size_t to, const void* from, std::int64_t count,
                             std::size_t size) {
    if (count > 0) std::memcpy(piece.host + to, from, static_cast<std::size_t>(count) * size);
  };
  copy(layout.kept_at(), step.verify.kept, step.verifies.count, sizeof(std::int32_t));
  copy(layout.parents_at(), step.verify.parents, step.tokens, sizeof(std::int32_t));
  copy(layout.pad_at(), step.pad, step.tokens, 1);
  copy(layout.chunk_pad_at(), step.chunk_pad, step.tokens, 1);
  point(layout, step.steps.count);
  return context_.impl().accelerator->upload(block_, piece.host, piece.bytes);
}

}  // namespace hybridattn::backend
