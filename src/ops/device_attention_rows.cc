#include "hybridattn/device_attention_rows.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/core/context_impl.h"
#include "src/ops/attention_check.h"
#include "src/ops/attention_place.h"

namespace hybridattn {

struct DeviceAttentionRows::Impl {
  Context& context;
  AttentionHeads heads;
  AttentionLimits limits;
  std::vector<std::int32_t> ints{};  // q_start, q_length, kv_length, [limits.rows] each
  std::vector<std::int64_t> kv_start{};
  std::vector<std::int32_t> parents{}, pages{};
  std::int32_t count = 0;
  std::int64_t listed = 0;
  bool trees = false;
  // Of a CUDA context alone.
  ops::AttentionCut cut{};
  ops::AttentionSchedule schedule{};
  ops::AttentionBlock block{};
  std::byte* memory = nullptr;
  PlacedAttentionRows placed{};

  void keep(const AttentionRows& rows, std::int64_t tokens);
  Status upload(const AttentionRows& rows);
};

namespace {

Status check_made(const AttentionHeads& heads, const AttentionLimits& limits) {
  core::ArgCheck check("DeviceAttentionRows");
  check.require(
      heads.num_kv_heads > 0 && heads.num_heads > 0 && heads.num_heads % heads.num_kv_heads == 0,
      "num_heads is ", heads.num_heads,
      ", must be a multiple of num_kv_heads = ", heads.num_kv_heads);
  check.require(heads.page_size >= 0, "page_size is ", heads.page_size, ", must be at least 0");
  check.require(heads.window == -1 || (heads.window >= 1 && heads.causal), "window is ",
                heads.window, ", must be -1 (off), or at least 1 with causal");
  check.require(limits.rows >= 1 && limits.tokens >= 0 && limits.pages >= 0 && limits.keys >= 0 &&
                    limits.row_tokens >= 0,
                "limits are ", limits.rows, " rows, ", limits.tokens, " tokens, ", limits.pages,
                " pages, ", limits.keys, " keys and ", limits.row_tokens,
                " tokens of a row, must be at least 1, 0, 0, 0 and 0");
  return check.status();
}

}  // namespace

void DeviceAttentionRows::Impl::keep(const AttentionRows& rows, std::int64_t tokens) {
  count = rows.count;
  auto next = ints.begin();
  for (const std::int32_t* array : {rows.q_start, rows.q_length, rows.kv_length}) {
    if (count > 0) std::copy_n(array, count, next);
    next += limits.rows;
  }
  if (count > 0) std::copy_n(rows.kv_start, count, kv_start.begin());
  trees = ops::has_tree(rows);
  if (trees) std::copy_n(rows.parents, tokens, parents.begin());
  listed = rows.pages == nullptr ? 0 : rows.num_pages_listed;
  // Where the device has the pages nobody reads them here.
  if (listed > 0 && memory == nullptr) std::copy_n(rows.pages, listed, pages.begin());
}

Status DeviceAttentionRows::Impl::upload(const AttentionRows& rows) {
  ops::schedule_attention(rows, cut, schedule);
  if (!block.holds(schedule)) {
    return error(StatusCode::kInternal, "DeviceAttentionRows::write: ", schedule.few.size(), " + ",
                 schedule.many.size(), " pieces of work and ", schedule.joins.size(),
                 " joins, the block has room for ", block.few, " + ", block.many, " and ",
                 block.joins);
  }
  core::UploadRing& ring = *context.impl().uploads;
  HYBRIDATTN_ASSIGN(const core::UploadRing::Piece piece, ring.take(block.bytes_of(rows)));
  block.write(rows, schedule, piece.host);
  HYBRIDATTN_TRY(context.impl().accelerator->upload(memory, piece.host, piece.bytes));
  if (!limits.captured) ops::trim_tables(schedule, placed.tables);
  return {};
}

DeviceAttentionRows::DeviceAttentionRows(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

DeviceAttentionRows::~DeviceAttentionRows() {
  if (impl_->memory == nullptr) return;
  (void)impl_->context.synchronize();  // kernels may still read it
  impl_->context.allocator().deallocate(impl_->memory, impl_->block.bytes());
}

Result<std::unique_ptr<DeviceAttentionRows>> DeviceAttentionRows::create(
    Context& context, const AttentionHeads& heads, const AttentionLimits& limits) {
  HYBRIDATTN_TRY(check_made(heads, limits));
  HYBRIDATTN_TRY(
      ops::check_shared_prefixes("DeviceAttentionRows", context, limits.shared_prefixes));
  try {
    return make(context, heads, limits);
  } catch (const std::exception&) {  // bad_alloc, length_error
    return error(StatusCode::kResourceExhausted, "DeviceAttentionRows: there is no memory for ",
                 limits.rows, " rows of ", limits.tokens, " tokens over ", limits.pages, " pages");
  }
}

Result<std::unique_ptr<DeviceAttentionRows>> DeviceAttentionRows::make(
    Context& context, const AttentionHeads& heads, const AttentionLimits& limits) {
  auto impl = std::unique_ptr<Impl>(new Impl{context, heads, limits});
  Impl& x = *impl;
  x.ints.resize(3 * static_cast<std::size_t>(limits.rows));
  x.kv_start.resize(static_cast<std::size_t>(limits.rows));
  x.parents.resize(static_cast<std::size_t>(limits.tokens));
  x.pages.resize(static_cast<std::size_t>(limits.pages) + 1, kPadIndex);
  std::unique_ptr<DeviceAttentionRows> made(new DeviceAttentionRows(std::move(impl)));
  if (context.device() == DeviceType::kCpu) return made;
  x.cut = ops::attention_cut(context, heads);
  if (limits.shared_prefixes) {
    x.cut.shared_page_size = heads.page_size;
    x.cut.least_saved = limits.least_saved;
  }
  ops::choose_joins(limits, x.cut);
  const ops::AttentionMost most = ops::most_attention_work(x.cut, limits);
  x.block = {limits.rows,
             limits.tokens,
             most.few,
             most.many,
             most.joins,
             most.part_rows,
             limits.tokens,
             x.cut.many_rows,
             heads.page_size == 0 ? 0 : limits.pages + 1,
             most.arrivals,
             x.cut.shared_page_size > 0};
  x.schedule.reserve(most);
  x.memory = static_cast<std::byte*>(context.allocator().allocate(x.block.bytes()));
  if (x.memory == nullptr) {
    return error(StatusCode::kResourceExhausted, "DeviceAttentionRows: the allocator gave no ",
                 x.block.bytes(), " bytes");
  }
  x.placed = {x.block.tables(x.memory), heads, &context, limits.captured, 0, 0, limits.cache_pages};
  HYBRIDATTN_TRY(context.impl().uploads->reserve(x.block.bytes()));
  AttentionRows none;
  none.pages = heads.page_size == 0 ? nullptr : x.pages.data();
  HYBRIDATTN_TRY(made->write(none));
  return made;
}

Status DeviceAttentionRows::write(const AttentionRows& rows) {
  Impl& x = *impl_;
  const bool dense = x.heads.page_size == 0;
  constexpr const char* kVerb = "DeviceAttentionRows::write";
  core::ArgCheck check(kVerb);
  check.require((rows.pages == nullptr) == dense && rows.num_pages_listed >= 0, "rows.pages is ",
                rows.pages == nullptr ? "null" : "given", " with ", rows.num_pages_listed,
                " pages listed, must be ", dense ? "null" : "given", " for page_size ",
                x.heads.page_size);
  if (!check.ok()) return check.status();
  if (x.memory != nullptr && x.context.impl().accelerator->capturing()) {
    return error(StatusCode::kFailedPrecondition, kVerb,
                 ": a graph is captured, which would write these rows at every launch");
  }
  const std::int64_t ids = dense ? std::numeric_limits<std::int64_t>::max() : std::int64_t{1} << 31;
  ops::AttentionEnds ends;
  HYBRIDATTN_TRY(ops::check_attention_rows(kVerb, rows, x.heads, x.limits.tokens,
                                           x.limits.cache_pages > 0 ? x.limits.cache_pages : ids,
                                           ends));
  HYBRIDATTN_TRY(ops::check_attention_lengths(kVerb, rows, x.heads));
  std::int32_t most_keys = 0, most_tokens = 0;
  std::int64_t all_keys = 0;
  for (std::int32_t r = 0; r < rows.count; ++r) {
    most_keys = std::max(most_keys, rows.kv_length[r]);
    most_tokens = std::max(most_tokens, rows.q_length[r]);
    all_keys += rows.kv_length[r];
  }
  const std::int64_t pages = dense ? 0 : rows.num_pages_listed;
  const std::int32_t row_tokens = x.limits.row_tokens == 0 ? x.limits.tokens : x.limits.row_tokens;
  if (rows.count > x.limits.rows || most_keys > x.limits.keys || pages > x.limits.pages ||
      most_tokens > row_tokens || (x.limits.all_keys > 0 && all_keys > x.limits.all_keys)) {
    return error(StatusCode::kOutOfRange, "DeviceAttentionRows::write: ", rows.count,
                 " rows of up to ", most_tokens, " queries and ", most_keys, " keys over ", pages,
                 " pages, made for at most ", x.limits.rows, ", ", row_tokens, ", ", x.limits.keys,
                 " and ", x.limits.pages);
  }
  if (x.memory != nullptr) {
    HYBRIDATTN_TRY(x.upload(rows));
    // A captured call reads whatever is written later.
    x.placed.end_token = x.limits.captured ? x.limits.tokens : ends.token;
    x.placed.end_page = x.limits.captured ? std::max(ends.page, x.limits.cache_pages) : ends.page;
  }
  x.keep(rows, ends.token);
  return {};
}

AttentionRows DeviceAttentionRows::rows() const noexcept {
  const Impl& x = *impl_;
  AttentionRows rows;
  rows.count = x.count;
  rows.q_start = x.ints.data();
  rows.q_length = x.ints.data() + x.limits.rows;
  rows.kv_length = x.ints.data() + 2 * static_cast<std::size_t>(x.limits.rows);
  rows.kv_start = x.kv_start.data();
  rows.pages = x.heads.page_size == 0 ? nullptr : x.pages.data();
  rows.num_pages_listed = x.listed;
  rows.parents = x.trees ? x.parents.data() : nullptr;
  rows.device = x.memory == nullptr ? nullptr : &x.placed;
  return rows;
}

}  // namespace hybridattn
