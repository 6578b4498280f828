#include "hybridattn/paged_attn_backend.h"

#include <algorithm>
#include <limits>

#include "hybridattn/ops.h"
#include "hybridattn/status_macros.h"
#include "src/attention/placed_step.h"
#include "src/attention/spare_steps.h"
#include "src/attention/step_shape.h"
#include "src/attention/step_uses.h"
#include "src/core/context_impl.h"
#include "src/core/recorder.h"
#include "src/ops/attention_check.h"
#include "src/ops/attention_params.h"

namespace hybridattn {
namespace {

struct PagedPlan final : Plan {
  PagedPlan(std::uint64_t backend, const GraphShape& shape, bool recordable)
      : Plan(backend, shape, recordable) {
    // Behind the rows one more, for tokens that no row names.
    const auto rows = static_cast<std::size_t>(backend::total_rows(shape)) + 1;
    for (auto* array : {&q_start, &q_length, &kv_length}) array->resize(rows);
    kv_start.resize(rows);
    // Never empty: a null pointer would mean dense keys.
    pages.resize(static_cast<std::size_t>(shape.pages) + 1, kPadIndex);
    token_slots.resize(static_cast<std::size_t>(shape.tokens));
    parents.resize(static_cast<std::size_t>(shape.tokens), kChain);
    for (auto* array : {&move_source, &move_destination}) {
      array->resize(static_cast<std::size_t>(shape.verify_rows > 0 ? shape.tokens : 0));
    }
  }

  /// `pages_listed`: what of the list the rows name; recorded calls read more of it later.
  AttentionRows rows(std::int64_t pages_listed) const {
    AttentionRows rows;
    rows.count = static_cast<std::int32_t>(q_start.size());
    rows.q_start = q_start.data();
    rows.q_length = q_length.data();
    rows.kv_length = kv_length.data();
    rows.kv_start = kv_start.data();
    rows.pages = pages.data();
    rows.num_pages_listed = pages_listed;
    rows.parents = parents.data();
    return rows;
  }

  std::vector<std::int32_t> q_start, q_length, kv_length;
  std::vector<std::int32_t> pages;  // kPadIndex behind those that are named
  std::int64_t pages_named = 0;
  std::vector<std::int64_t> kv_start;
  std::vector<std::int64_t> token_slots;
  std::vector<std::int32_t> parents;                        // [tokens] of trees, kChain elsewhere
  std::vector<std::int64_t> move_source, move_destination;  // places, for a commit
  std::shared_ptr<backend::PlacedStep> placed;              // nullptr on the CPU
};

struct CacheShape {
  std::int64_t num_pages;
  std::int64_t page_size;
};

Status check_layers(const PagedKvView& cache) {
  if (cache.k.empty() || cache.k.size() != cache.v.size()) {
    return invalid_argument("PagedAttnBackend: the cache has ", cache.k.size(), " layers of k and ",
                            cache.v.size(), " of v, must have the same number, at least 1");
  }
  for (std::size_t i = 0; i < cache.k.size(); ++i) {
    for (const TensorView* view : {&cache.k[i], &cache.v[i]}) {
      if (view->rank != 4 || view->dim(0) != cache.k[0].dim(0) ||
          view->dim(1) != cache.k[0].dim(1) || view->dim(1) < 1) {
        return invalid_argument("PagedAttnBackend: layer ", i, " of the cache has rank ",
                                view->rank, ", pages ", view->dim(0), ", page_size ", view->dim(1),
                                ", must be rank 4 with ", cache.k[0].dim(0), " pages of ",
                                cache.k[0].dim(1), " as layer 0, at least 1");
      }
    }
  }
  return {};
}

/// A row's pages exist and are enough; what it writes nobody else reads or writes in this step.
Status check_row_pages(const RowView& row, std::int32_t index, const CacheShape& cache,
                       backend::StepUses& uses) {
  if (row.kind == RowKind::kPad) return {};  // its tokens have no place anywhere
  const std::int64_t length = row.computed + row.new_tokens;
  const std::int64_t needed = (length + cache.page_size - 1) / cache.page_size;
  if (static_cast<std::int64_t>(row.pages.size()) < needed) {
    return error(StatusCode::kOutOfRange, "PagedAttnBackend: row ", index, " has ",
                 row.pages.size(), " pages of ", cache.page_size, " tokens, must have ", needed,
                 " for ", length, " tokens");
  }
  for (std::int64_t i = 0; i < needed; ++i) {
    const std::int32_t page = row.pages[static_cast<std::size_t>(i)];
    if (page < 0 || page >= cache.num_pages) {
      return error(StatusCode::kOutOfRange, "PagedAttnBackend: row ", index, " has page id ", page,
                   " at ", i, ", must be in [0, ", cache.num_pages, ")");
    }
    const bool written = row.new_tokens > 0 && i >= row.computed / cache.page_size;
    const backend::StepUses::Use* first = uses.add(page, index, written);
    if (first != nullptr && (written || first->written)) {
      return invalid_argument("PagedAttnBackend: page ", page, " is ",
                              first->written ? "written" : "read", " by row ", first->row, " and ",
                              written ? "written" : "read", " by row ", index,
                              ", must belong to the row that writes it alone");
    }
  }
  return {};
}

/// Row `at` of the plan and its tokens.
void write_row(const RowView& row, std::size_t at, const CacheShape& cache, std::int64_t& pages,
               PagedPlan& plan) {
  const bool pad = row.kind == RowKind::kPad;
  const std::int64_t length = pad ? 0 : row.computed + row.new_tokens;
  plan.q_start[at] = row.first_token;
  plan.q_length[at] = row.new_tokens;
  plan.kv_length[at] = static_cast<std::int32_t>(length);
  plan.kv_start[at] = pages;
  for (std::int64_t i = 0; i < (length + cache.page_size - 1) / cache.page_size; ++i) {
    plan.pages[static_cast<std::size_t>(pages++)] = row.pages[static_cast<std::size_t>(i)];
  }
  for (std::int32_t i = 0; i < row.new_tokens; ++i) {
    const auto token = static_cast<std::size_t>(row.first_token + i);
    const std::int64_t position = row.computed + i;
    plan.token_slots[token] = kPadIndex;
    plan.parents[token] = row.parents.empty() ? kChain : row.parents[static_cast<std::size_t>(i)];
    if (pad) continue;
    const std::int64_t page = row.pages[static_cast<std::size_t>(position / cache.page_size)];
    plan.token_slots[token] = page * cache.page_size + position % cache.page_size;
  }
}

AttentionOptions options_of(const RadixAttention& layer) {
  const bool causal = layer.attn_type != AttentionType::kDecoderBidirectional;
  return {layer.scaling, causal,        layer.logit_cap, layer.sliding_window,
          layer.k_scale, layer.v_scale, layer.k_scales,  layer.v_scales};
}

/// As much as a plan of this shape can name. A row's keys are at most all pages that are listed.
AttentionLimits limits_of(const GraphShape& shape, std::int64_t page_size, bool captured) {
  AttentionLimits limits;
  limits.rows = static_cast<std::int32_t>(backend::total_rows(shape)) + 1;
  limits.tokens = shape.tokens;
  limits.pages = shape.pages + 1;
  limits.keys = static_cast<std::int32_t>(
      std::min<std::int64_t>(shape.pages * page_size, std::numeric_limits<std::int32_t>::max()));
  const bool decode = shape.prefill_rows == 0 && shape.verify_rows == 0;
  limits.row_tokens = decode && shape.tokens <= shape.decode_rows + 1 ? 1 : 0;
  limits.all_keys = std::max<std::int64_t>(shape.pages * page_size, 1);
  limits.captured = captured;
  return limits;
}

AttentionLimits rounded_up(AttentionLimits limits) {
  limits.rows = backend::round_up_count(limits.rows);
  limits.tokens = backend::round_up_count(limits.tokens);
  limits.pages = backend::round_up_count(limits.pages);
  limits.keys = backend::round_up_count(limits.keys);
  limits.all_keys = backend::round_up_count(limits.all_keys);
  return limits;
}

AttentionHeads heads_of(const RadixAttention& layer, std::int64_t page_size) {
  const bool causal = layer.attn_type != AttentionType::kDecoderBidirectional;
  return {layer.num_heads, layer.num_kv_heads, static_cast<std::int32_t>(page_size), causal,
          layer.sliding_window};
}

/// The rows as the context's kernels read them.
Result<AttentionRows> rows_of(const PagedPlan& plan, const RadixAttention& layer,
                              std::int64_t page_size) {
  if (plan.placed == nullptr) return plan.rows(static_cast<std::int64_t>(plan.pages.size()));
  return plan.placed->rows(heads_of(layer, page_size));
}

/// Scratch for the kernels of these kinds of layers, so that no run grows it.
Status reserve_parts(Context& context,
                     std::span<const std::pair<AttentionHeads, std::int32_t>> kinds,
                     const backend::PlacedStep& placed) {
  std::size_t bytes = 0;
  for (const auto& [heads, dim] : kinds) bytes = std::max(bytes, placed.scratch_bytes(heads, dim));
  return context.reserve_workspace(0, bytes);
}

Status verify_of_bidirectional(std::int32_t layer_id) {
  return error(StatusCode::kUnsupported, "PagedAttnBackend: layer ", layer_id,
               " is decoder_bidirectional, which has no verify rows: a draft would see the next");
}

std::size_t prepared_bytes(std::int64_t tokens, const RadixAttention& layer) {
  return static_cast<std::size_t>(tokens * layer.num_heads * layer.head_dim) * sizeof(float);
}

/// q as it enters the attention: normalised and rotated. Normalises, rotates and stores k and v on
/// the way, where the call asks for it. Where q changes it goes to the workspace, in the type that
/// it came in, for products in that type.
Result<ConstTensorView> prepare(Context& context, const RadixAttention& layer,
                                const AttentionRunArgs& args, const PagedPlan& plan,
                                const TensorView& k_cache, const TensorView& v_cache) {
  const std::int64_t* token_slots = plan.token_slots.data();
  const std::int64_t* device_slots = plan.placed == nullptr ? nullptr : plan.placed->token_slots();
  const bool stored = !args.k.empty() && args.save_kv_cache;
  const bool rotated = !args.cos.empty();
  if (!rotated && args.q_norm.empty() && (args.k_norm.empty() || !stored)) {
    if (stored) {
      HYBRIDATTN_TRY(
          store_kv(context, {args.k, args.v, token_slots, k_cache, v_cache, layer.k_scale,
                             layer.v_scale, device_slots, layer.k_scales, layer.v_scales}));
    }
    return args.q;
  }
  const std::int64_t tokens = args.q.dim(0);
  HYBRIDATTN_ASSIGN(std::byte * block,
                    core::shared_workspace(context, prepared_bytes(tokens, layer)));
  QkNormRopeStoreArgs fused;
  fused.q = args.q;
  fused.q_norm = args.q_norm;
  fused.epsilon = args.norm_epsilon;
  fused.cos = args.cos;
  fused.sin = args.sin;
  fused.q_out = TensorView(block, args.q.dtype, {tokens, layer.num_heads, layer.head_dim});
  if (stored) {
    fused.k = args.k;
    fused.v = args.v;
    fused.k_norm = args.k_norm;
    fused.token_slots = token_slots;
    fused.device_token_slots = device_slots;
    fused.k_cache = k_cache;
    fused.v_cache = v_cache;
    fused.k_scale = layer.k_scale;
    fused.v_scale = layer.v_scale;
    fused.k_scales = layer.k_scales;
    fused.v_scales = layer.v_scales;
  }
  HYBRIDATTN_TRY(qk_norm_rope_store(context, fused));
  return ConstTensorView(fused.q_out);
}

Status check_tensor(const RadixAttention& layer, const char* name, const ConstTensorView& view,
                    std::int64_t tokens, std::int64_t heads, std::int64_t dim) {
  if (view.rank == 3 && view.dim(0) == tokens && view.dim(1) == heads && view.dim(2) == dim)
    return {};
  return invalid_argument("PagedAttnBackend: layer ", layer.layer_id, ": ", name, " has shape [",
                          view.dim(0), ", ", view.dim(1), ", ", view.dim(2), "] of rank ",
                          view.rank, ", must be [", tokens, ", ", heads, ", ", dim, "]");
}

Status check_args(const Plan& plan, const RadixAttention& layer, const AttentionRunArgs& args) {
  const std::int64_t tokens = plan.num_tokens();
  HYBRIDATTN_TRY(check_tensor(layer, "q", args.q, tokens, layer.num_heads, layer.head_dim));
  HYBRIDATTN_TRY(check_tensor(layer, "out", args.out, tokens, layer.num_heads, layer.v_head_dim));
  if (args.k.rank != args.v.rank) {
    return invalid_argument("PagedAttnBackend: layer ", layer.layer_id, ": k is ",
                            args.k.rank == 0 ? "missing" : "given", " and v is ",
                            args.v.rank == 0 ? "missing" : "given",
                            ", must both be one or the other");
  }
  if (args.k.rank != 0) {
    HYBRIDATTN_TRY(check_tensor(layer, "k", args.k, tokens, layer.num_kv_heads, layer.head_dim));
    HYBRIDATTN_TRY(check_tensor(layer, "v", args.v, tokens, layer.num_kv_heads, layer.v_head_dim));
  }
  if (args.cos.empty() != args.sin.empty()) {
    return invalid_argument("PagedAttnBackend: layer ", layer.layer_id,
                            ": cos and sin must be given together");
  }
  if (!args.gate.empty()) {
    HYBRIDATTN_TRY(
        check_tensor(layer, "gate", args.gate, tokens, layer.num_heads, layer.v_head_dim));
  }
  return {};
}

}  // namespace

PagedAttnBackend::PagedAttnBackend(Context& context, PagedKvView cache,
                                   const PagedAttnOptions& options)
    : context_(context), options_(options), cache_(std::move(cache)),
      uses_(std::make_unique<backend::StepUses>()) {}

PagedAttnBackend::~PagedAttnBackend() = default;

Result<std::unique_ptr<PagedAttnBackend>> PagedAttnBackend::create(
    Context& context, PagedKvView cache, const PagedAttnOptions& options) {
  HYBRIDATTN_TRY(check_layers(cache));
  HYBRIDATTN_TRY(ops::check_shared_prefixes("PagedAttnBackend", context, options.shared_prefixes));
  return std::unique_ptr<PagedAttnBackend>(
      new PagedAttnBackend(context, std::move(cache), options));
}

Status PagedAttnBackend::check_layer(const RadixAttention& layer) const {
  const auto wrong = [&](StatusCode code, const auto&... parts) {
    return error(code, name(), ": layer ", layer.layer_id, " ", parts...);
  };
  if (layer.attn_type > AttentionType::kEncoderOnly) {
    return wrong(StatusCode::kInvalidArgument, "has attn_type ", static_cast<int>(layer.attn_type),
                 ", must be an AttentionType");
  }
  const auto of_heads = [&](const char* what, const ConstTensorView& view, std::int32_t heads) {
    if (view.empty() || (view.rank == 1 && view.dim(0) == heads && view.dtype == DType::kF32)) {
      return Status();
    }
    return wrong(StatusCode::kInvalidArgument, "has ", what, " of rank ", view.rank, ", ",
                 view.dim(0), " elements and dtype ", dtype_name(view.dtype), ", must be [", heads,
                 "] f32");
  };
  HYBRIDATTN_TRY(of_heads("sinks", layer.sinks, layer.num_heads));
  HYBRIDATTN_TRY(of_heads("k_scales", layer.k_scales, layer.num_kv_heads));
  HYBRIDATTN_TRY(of_heads("v_scales", layer.v_scales, layer.num_kv_heads));
  if (layer.attn_type == AttentionType::kEncoderOnly || layer.is_cross_attention) {
    return wrong(StatusCode::kUnsupported, "is ",
                 layer.is_cross_attention ? "cross" : attention_type_name(layer.attn_type),
                 " attention, which a paged cache of the batch's own tokens cannot serve; the op "
                 "`attention` "
                 "takes dense keys and values");
  }
  if (layer.kv_index < 0 || static_cast<std::size_t>(layer.kv_index) >= cache_.k.size()) {
    return wrong(StatusCode::kOutOfRange, "has kv_index ", layer.kv_index, ", must be in [0, ",
                 cache_.k.size(), ")");
  }
  const TensorView& k = cache_.k[static_cast<std::size_t>(layer.kv_index)];
  const TensorView& v = cache_.v[static_cast<std::size_t>(layer.kv_index)];
  if (layer.num_kv_heads != k.dim(2) || layer.head_dim != k.dim(3) ||
      layer.v_head_dim != v.dim(3)) {
    return wrong(StatusCode::kInvalidArgument, "has num_kv_heads ", layer.num_kv_heads,
                 ", head_dim ", layer.head_dim, ", v_head_dim ", layer.v_head_dim,
                 ", its cache has ", k.dim(2), ", ", k.dim(3), ", ", v.dim(3));
  }
  if (layer.attn_type == AttentionType::kDecoderBidirectional && layer.sliding_window != -1) {
    return wrong(StatusCode::kUnsupported, "is decoder_bidirectional with sliding_window ",
                 layer.sliding_window, ", must be -1 (off)");
  }
  return {};
}

Status PagedAttnBackend::set_layers(std::span<const RadixAttention> layers) {
  std::size_t token_bytes = 0;
  std::size_t worker_bytes = 0;
  std::int32_t bidirectional = -1;
  for (const RadixAttention& layer : layers) {
    HYBRIDATTN_TRY(check_layer(layer));
    HYBRIDATTN_TRY(ops::check_attention_layer(layer.num_heads, layer.num_kv_heads, layer.head_dim,
                                              layer.v_head_dim, options_of(layer)));
    token_bytes = std::max(token_bytes, prepared_bytes(1, layer));
    worker_bytes =
        std::max(worker_bytes, ops::attention_workspace(layer.num_heads / layer.num_kv_heads,
                                                        layer.head_dim, layer.v_head_dim));
    if (layer.attn_type == AttentionType::kDecoderBidirectional) bidirectional = layer.layer_id;
  }
  kinds_.clear();
  for (const RadixAttention& layer : layers) {
    kinds_.emplace_back(heads_of(layer, cache_.k[0].dim(1)), layer.head_dim);
  }
  token_bytes_ = token_bytes;
  worker_bytes_ = worker_bytes;
  bidirectional_ = bidirectional;
  return {};
}

Result<std::shared_ptr<Plan>> PagedAttnBackend::make_plan(const GraphShape& shape,
                                                          bool recordable) {
  auto plan = std::make_shared<PagedPlan>(id(), shape, recordable);
  if (context_.device() == DeviceType::kCuda) {
    HYBRIDATTN_ASSIGN(plan->placed, place_step(shape, recordable));
    for (const auto& kind : kinds_) HYBRIDATTN_TRY(plan->placed->add(kind.first));
    if (recordable) HYBRIDATTN_TRY(reserve_parts(context_, kinds_, *plan->placed));
  }
  return std::shared_ptr<Plan>(std::move(plan));
}

/// Room on the device for the steps of a plan. Single steps hand theirs on when they end.
Result<std::shared_ptr<backend::PlacedStep>> PagedAttnBackend::place_step(const GraphShape& shape,
                                                                          bool recordable) {
  AttentionLimits limits = limits_of(shape, cache_.k[0].dim(1), recordable);
  limits.cache_pages = cache_.k[0].dim(0);
  limits.shared_prefixes = options_.shared_prefixes;
  limits.least_saved = options_.least_saved;
  if (recordable) {
    HYBRIDATTN_ASSIGN(std::shared_ptr<backend::PlacedStep> made,
                      backend::PlacedStep::create(context_, limits));
    return made;
  }
  HYBRIDATTN_ASSIGN(std::shared_ptr<backend::PlacedStep> taken,
                    backend::take_spare(
                        spare_, [&](const backend::PlacedStep& step) { return step.holds(limits); },
                        [&] { return backend::PlacedStep::create(context_, rounded_up(limits)); }));
  taken->forget();
  return taken;
}

Status PagedAttnBackend::check_rows(std::span<const RowView> rows) {
  const CacheShape cache{cache_.k[0].dim(0), cache_.k[0].dim(1)};
  uses_->begin(cache.num_pages);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    HYBRIDATTN_TRY(check_row_pages(rows[i], rows[i].index, cache, *uses_));
    HYBRIDATTN_TRY(backend::check_on_grid(context_, name(), rows[i]));
    if (rows[i].kind == RowKind::kVerify && bidirectional_ >= 0) {
      return verify_of_bidirectional(bidirectional_);
    }
  }
  return {};
}

Status PagedAttnBackend::write_rows(Plan& base, std::span<const RowView> rows) {
  auto& plan = static_cast<PagedPlan&>(base);
  const CacheShape cache{cache_.k[0].dim(0), cache_.k[0].dim(1)};
  std::int64_t pages = 0;
  std::int32_t tokens = 0;
  std::size_t at = 0;
  for (const RowView& row : rows) {
    write_row(row, at++, cache, pages, plan);
    tokens += row.new_tokens;
  }
  // Tokens that no row names are padding: one for each row that is left, the rest as one row.
  RowView rest{0, RowKind::kPad, kPadIndex, {}, 0, 0, tokens};
  for (; at < plan.q_start.size(); ++at) {
    const std::int32_t left = plan.num_tokens() - rest.first_token;
    rest.new_tokens = at + 1 < plan.q_start.size() ? std::min(left, 1) : left;
    write_row(rest, at, cache, pages, plan);
    rest.first_token += rest.new_tokens;
  }
  if (pages < plan.pages_named) {
    std::fill(plan.pages.begin() + pages, plan.pages.begin() + plan.pages_named, kPadIndex);
  }
  plan.pages_named = pages;
  if (plan.placed != nullptr) {
    HYBRIDATTN_TRY(
        plan.placed->write({plan.rows(pages), plan.token_slots.data(), plan.num_tokens()}));
    // Rows of a plan for graphs have from the start what any may need.
    if (!plan.recordable()) HYBRIDATTN_TRY(reserve_parts(context_, kinds_, *plan.placed));
  }
  plan.set_written();
  return {};
}

/// The accepted path of a tree moves to the front of the row's new places, where that of a chain is
/// already.
Status PagedAttnBackend::move_accepted(Plan& base, std::span<const AcceptedRow> accepted) {
  HYBRIDATTN_TRY(check_plan(base));
  auto* plan = static_cast<PagedPlan*>(&base);
  std::int64_t moved = 0;
  for (const AcceptedRow& row : accepted) {
    const std::int64_t* slots = plan->token_slots.data() + row.first_token;
    for (std::size_t i = 0; i < row.path.size(); ++i) {
      if (row.path[i] == static_cast<std::int32_t>(i)) continue;
      plan->move_source[static_cast<std::size_t>(moved)] = slots[row.path[i]];
      plan->move_destination[static_cast<std::size_t>(moved++)] = slots[i];
    }
  }
  for (std::size_t i = 0; i < cache_.k.size() && moved > 0; ++i) {
    HYBRIDATTN_TRY(copy_kv(context_, {cache_.k[i], cache_.v[i], plan->move_source.data(),
                                      plan->move_destination.data(), moved}));
  }
  return {};
}

Status PagedAttnBackend::reserve(std::int32_t max_tokens) {
  if (max_tokens < 0) return invalid_argument(name(), "::reserve: max_tokens is ", max_tokens);
  return context_.reserve_workspace(token_bytes_ * static_cast<std::size_t>(max_tokens),
                                    worker_bytes_);
}

Status PagedAttnBackend::run_attention(const Plan& base, const RadixAttention& layer,
                                       const AttentionRunArgs& args) {
  HYBRIDATTN_TRY(check_plan(base));
  const auto* plan = static_cast<const PagedPlan*>(&base);
  HYBRIDATTN_TRY(check_layer(layer));
  if (plan->shape().verify_rows > 0 && layer.attn_type == AttentionType::kDecoderBidirectional) {
    return verify_of_bidirectional(layer.layer_id);
  }
  if (plan->num_tokens() == 0) return {};
  HYBRIDATTN_TRY(check_args(*plan, layer, args));
  HYBRIDATTN_TRY(core::hold_if_recording(context_, name(), *plan));
  const auto index = static_cast<std::size_t>(layer.kv_index);
  HYBRIDATTN_ASSIGN(const ConstTensorView q,
                    prepare(context_, layer, args, *plan, cache_.k[index], cache_.v[index]));
  HYBRIDATTN_ASSIGN(const AttentionRows rows, rows_of(*plan, layer, cache_.k[0].dim(1)));
  HYBRIDATTN_TRY(
      hybridattn::attention(context_, {rows, q, cache_.k[index], cache_.v[index], args.out,
                                       layer.sinks, args.lse, options_of(layer), args.gate}));
  if (!core::recording(context_)) plan->set_ran();
  return {};
}

}  // namespace hybridattn
