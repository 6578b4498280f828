#include "hybridattn/ops/attention.h"

#include <cmath>

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/core/context_impl.h"
#include "src/core/kernel.h"
#include "src/ops/attention_check.h"
#include "src/ops/attention_params.h"
#include "src/ops/attention_place.h"
#include "src/ops/cache_scale.h"

namespace hybridattn {
namespace {

constexpr std::int64_t kMaxHeadDim = 512;

/// Dense keys and values as pages of one token, so that kernels see one form.
ConstTensorView as_pages(const ConstTensorView& view) {
  if (view.rank != 3) return view;
  return view.at(0, {view.dim(0), 1, view.dim(1), view.dim(2)},
                 {view.stride(0), view.stride(0), view.stride(1), view.stride(2)});
}

void check_heads(core::ArgCheck& check, std::int64_t hq, std::int64_t hk, std::int64_t dim,
                 std::int64_t v_dim) {
  check.require(hk > 0 && hq > 0 && hq % hk == 0, "q has HQ = ", hq,
                " heads, must be a multiple of HK = ", hk, " of k");
  check.require_supported(dim >= 1 && dim <= kMaxHeadDim, "q has D = ", dim, ", must be 1 to ",
                          kMaxHeadDim);
  check.require_supported(v_dim >= 1 && v_dim <= kMaxHeadDim, "v has DV = ", v_dim,
                          ", must be 1 to ", kMaxHeadDim);
}

Status check_options(core::ArgCheck& check, const AttentionOptions& options) {
  check.require(std::isfinite(options.scale) && options.scale != 0, "scale is ", options.scale,
                ", must be given: finite and not 0 (usually D^-1/2)");
  check.require(std::isfinite(options.logit_cap) && options.logit_cap >= 0, "logit_cap is ",
                options.logit_cap, ", must be finite and at least 0 (0 = off)");
  check.require(options.window == -1 || options.window >= 1, "window is ", options.window,
                ", must be at least 1, or -1 (off)");
  check.require_supported(options.causal || options.window == -1, "window is ", options.window,
                          " without causal, must be -1 (off)");
  ops::check_cache_scales(check, "k_scale", options.k_scale, "k_scales", options.k_scales);
  ops::check_cache_scales(check, "v_scale", options.v_scale, "v_scales", options.v_scales);
  return check.status();
}

AttentionHeads heads_of(const AttentionArgs& args, std::int64_t hq, std::int64_t hk,
                        std::int64_t page_size) {
  const bool dense = args.rows.pages == nullptr;
  return {static_cast<std::int32_t>(hq), static_cast<std::int32_t>(hk),
          dense ? 0 : static_cast<std::int32_t>(page_size), args.options.causal,
          args.options.window};
}

/// Rows that were checked when they were written must have been written for this call's heads.
Status check_placed(const Context& context, const PlacedAttentionRows& placed,
                    const AttentionHeads& heads, std::int64_t tokens, std::int64_t pages) {
  core::ArgCheck check("attention");
  check.require(placed.context == &context, "rows.device is of another context");
  const AttentionHeads& made = placed.heads;
  check.require(made == heads, "rows.device was made for HQ = ", made.num_heads,
                ", HK = ", made.num_kv_heads, ", page_size ", made.page_size, ", causal ",
                made.causal, ", window ", made.window, ", must be ", heads.num_heads, ", ",
                heads.num_kv_heads, ", ", heads.page_size, ", ", heads.causal, ", ", heads.window);
  if (!check.ok()) return check.status();
  if (placed.end_token <= tokens && placed.end_page <= pages) return {};
  return error(StatusCode::kOutOfRange, "attention: rows.device names queries up to ",
               placed.end_token, " and pages up to ", placed.end_page, ", must lie below ", tokens,
               " and ", pages);
}

/// Cuts the rows into work for the kernels of the accelerator and uploads both.
Status place_rows(Context& context, const AttentionHeads& heads, std::int64_t tokens,
                  ops::AttentionParams& params, ops::AttentionTables& tables) {
  const bool placed = params.rows.device != nullptr;
  if (context.impl().accelerator->capturing() && !(placed && params.rows.device->captured)) {
    return error(StatusCode::kFailedPrecondition,
                 "attention: a graph is captured and rows.device is ",
                 placed ? "of limits with captured = false" : "null",
                 ", must be of a DeviceAttentionRows whose calls may be captured");
  }
  if (context.impl().accelerator->capturing() && params.rows.device->cache_pages == 0) {
    return error(
        StatusCode::kFailedPrecondition,
        "attention: a graph is captured and cache_pages of the limits of rows.device is 0, "
        "must be that of the caches: a later write may name what they do not have");
  }
  if (placed) {
    params.tables = &params.rows.device->tables;
    return {};
  }
  HYBRIDATTN_TRY(ops::check_attention_lengths("attention", params.rows, heads));
  ops::AttentionSchedule schedule;
  ops::schedule_attention(params.rows, ops::attention_cut(context, heads), schedule);
  HYBRIDATTN_TRY(ops::place_attention_rows(context, params.rows, tokens, schedule, tables));
  params.tables = &tables;
  return {};
}

}  // namespace

Status ops::check_attention_layer(std::int64_t num_heads, std::int64_t num_kv_heads,
                                  std::int64_t head_dim, std::int64_t v_head_dim,
                                  const AttentionOptions& options) {
  core::ArgCheck check("attention");
  check_heads(check, num_heads, num_kv_heads, head_dim, v_head_dim);
  return check_options(check, options);
}

Status attention(Context& context, const AttentionArgs& args) {
  core::ArgCheck check("attention");
  const ConstTensorView k = as_pages(args.k);
  const ConstTensorView v = as_pages(args.v);
  check.input("q", args.q, {"T", "HQ", "D"});
  check.input("k", k, {"pages", "page_size", "HK", "D"}, core::Dtypes::kCacheFloat);
  check.input("v", v, {"pages", "page_size", "HK", "DV"}, core::Dtypes::kCacheFloat);
  check.output("out", args.out, {"T", "HQ", "DV"});
  check.optional_input("sinks", args.sinks, {"HQ"}, core::Dtypes::kF32);
  check.optional_output("lse", args.lse, {"T", "HQ"}, core::Dtypes::kF32);
  check.optional_input("gate", args.gate, {"T", "HQ", "DV"});
  if (!check.ok()) return check.status();
  const bool dense = args.k.rank == 3;
  check.require((args.v.rank == 3) == dense, "v has rank ", args.v.rank, ", k has ", args.k.rank);
  check.require(dense == (args.rows.pages == nullptr), "rows.pages is ", dense ? "given" : "null",
                ", must be ", dense ? "null" : "given", " for k of rank ", args.k.rank);
  const std::int64_t hq = check["HQ"];
  const std::int64_t hk = check["HK"];
  check.require(check["page_size"] > 0, "k has page_size = 0, must be at least 1");
  check_heads(check, hq, hk, check["D"], check["DV"]);
  check.distinct("out", args.out, "q", args.q).distinct("out", args.out, "k", args.k);
  check.distinct("out", args.out, "v", args.v).distinct("out", args.out, "gate", args.gate);
  HYBRIDATTN_TRY(check_options(check, args.options));
  const AttentionHeads heads = heads_of(args, hq, hk, check["page_size"]);
  if (args.rows.device != nullptr) {
    HYBRIDATTN_TRY(check_placed(context, *args.rows.device, heads, check["T"], check["pages"]));
  } else {
    ops::AttentionEnds ends;
    HYBRIDATTN_TRY(
        ops::check_attention_rows("attention", args.rows, heads, check["T"], check["pages"], ends));
  }
  ops::AttentionParams params{args.rows,
                              args.q,
                              k,
                              v,
                              args.out,
                              args.sinks,
                              args.lse,
                              args.options,
                              args.gate,
                              ops::head_scales(args.options.k_scale, args.options.k_scales),
                              ops::head_scales(args.options.v_scale, args.options.v_scales),
                              hq / hk,
                              context.chunk_invariant()};
  params.batch_invariant = context.batch_invariant();
  ops::AttentionTables tables;
  if (context.device() == DeviceType::kCuda) {
    HYBRIDATTN_TRY(place_rows(context, heads, check["T"], params, tables));
  }
  return core::launch(context, "attention", params,
                      ops::attention_workspace(hq / hk, check["D"], check["DV"]));
}

Status merge_states(Context& context, const MergeStatesArgs& args) {
  core::ArgCheck check("merge_states");
  check.input("out_a", args.out_a, {"T", "H", "D"}).input("out_b", args.out_b, {"T", "H", "D"});
  check.input("lse_a", args.lse_a, {"T", "H"}, core::Dtypes::kF32);
  check.input("lse_b", args.lse_b, {"T", "H"}, core::Dtypes::kF32);
  check.output("out", args.out, {"T", "H", "D"});
  check.optional_output("lse", args.lse, {"T", "H"}, core::Dtypes::kF32);
  if (!check.ok()) return check.status();
  const ops::MergeStatesParams params{args.out_a, args.lse_a, args.out_b,
                                      args.lse_b, args.out,   args.lse};
  const auto scratch = static_cast<std::size_t>(3 * check["D"]) * sizeof(float);
  return core::launch(context, "merge_states", params, scratch);
}

}  // namespace hybridattn
