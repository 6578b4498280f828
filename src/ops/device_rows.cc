#include "hybridattn/device_rows.h"

#include <algorithm>

#include "hybridattn/ops/gdn_prefill.h"
#include "hybridattn/status_macros.h"
#include "src/core/context_impl.h"
#include "src/ops/place_rows.h"

namespace hybridattn {

DeviceRows::DeviceRows(Context& context, std::int32_t max_rows, std::int32_t max_tokens)
    : context_(context), max_rows_(max_rows),
      // Each row may end in a chunk that is not full.
      max_chunks_(std::min(max_tokens, max_rows + max_tokens / kGdnChunk)), max_tokens_(max_tokens),
      host_(4 * static_cast<std::size_t>(max_rows)) {}

DeviceRows::~DeviceRows() {
  if (block_ == nullptr) return;
  (void)context_.synchronize();  // kernels may still read it
  context_.allocator().deallocate(block_, ops::RowBlock{max_rows_, max_chunks_}.bytes());
}

Result<std::unique_ptr<DeviceRows>> DeviceRows::create(Context& context, std::int32_t max_rows,
                                                       std::int32_t max_tokens) {
  if (max_rows < 1 || max_tokens < 0) {
    return invalid_argument("DeviceRows: max_rows is ", max_rows, " and max_tokens ", max_tokens,
                            ", must be at least 1 and 0");
  }
  std::unique_ptr<DeviceRows> made(new DeviceRows(context, max_rows, max_tokens));
  if (context.device() == DeviceType::kCpu) return made;
  const ops::RowBlock block{max_rows, made->max_chunks_};
  made->block_ = static_cast<std::byte*>(context.allocator().allocate(block.bytes()));
  if (made->block_ == nullptr) {
    return error(StatusCode::kResourceExhausted, "DeviceRows: the allocator gave no ",
                 block.bytes(), " bytes");
  }
  made->tables_ = block.tables(made->block_);
  HYBRIDATTN_TRY(made->write({}));
  return made;
}

Status DeviceRows::write(const RaggedRows& rows) {
  std::int64_t tokens = 0;
  for (std::int32_t r = 0; r < rows.count; ++r) tokens += rows.length[r];
  if (rows.count > max_rows_ || tokens > max_tokens_) {
    return error(StatusCode::kOutOfRange, "DeviceRows::write: ", rows.count, " rows of ", tokens,
                 " tokens, made for at most ", max_rows_, " of ", max_tokens_);
  }
  count_ = rows.count;
  auto next = host_.begin();
  for (const std::int32_t* array : {rows.start, rows.length, rows.slot, rows.computed}) {
    if (rows.count > 0) std::copy_n(array, rows.count, next);
    next += max_rows_;
  }
  if (block_ == nullptr) return {};
  const ops::RowBlock block{max_rows_, max_chunks_};
  core::UploadRing& uploads = *context_.impl().uploads;
  HYBRIDATTN_ASSIGN(const core::UploadRing::Piece piece, uploads.take(block.bytes()));
  block.write(rows, piece.host);
  return context_.impl().accelerator->upload(block_, piece.host, block.bytes());
}

RaggedRows DeviceRows::rows() const noexcept {
  RaggedRows rows;
  rows.count = count_;
  rows.start = host_.data();
  rows.length = host_.data() + max_rows_;
  rows.slot = host_.data() + 2 * static_cast<std::size_t>(max_rows_);
  rows.computed = host_.data() + 3 * static_cast<std::size_t>(max_rows_);
  rows.device = block_ == nullptr ? nullptr : &tables_;
  return rows;
}

}  // namespace hybridattn
