#include "hybridattn/ops/attention.h"

#include <cmath>

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/attention_params.h"
#include "src/ops/cache_scale.h"
#include "src/ops/verify_check.h"

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
  ops::check_cache_scale(check, "k_scale", options.k_scale);
  ops::check_cache_scale(check, "v_scale", options.v_scale);
  return check.status();
}

Status check_pages(const AttentionArgs& args, std::int32_t r, std::int64_t pages,
                   std::int64_t page_size) {
  const AttentionRows& rows = args.rows;
  const std::int64_t used = (rows.kv_length[r] + page_size - 1) / page_size;
  const std::int64_t first = rows.kv_start[r];
  if (first < 0 || first > rows.num_pages_listed - used) {
    return error(StatusCode::kOutOfRange, "attention: row ", r, " reads ", used, " pages from ",
                 first, " of the list, which has ", rows.num_pages_listed);
  }
  // Pages wholly left of the window are never read, so an engine may have freed them.
  std::int64_t from = 0;
  if (args.options.window > 0) {
    const std::int64_t oldest =
        static_cast<std::int64_t>(rows.kv_length[r]) - rows.q_length[r] + 1 - args.options.window;
    if (oldest > 0) from = oldest / page_size;
  }
  for (std::int64_t i = from; i < used; ++i) {
    const std::int32_t page = rows.pages[first + i];
    if (page < 0 || page >= pages) {
      return error(StatusCode::kOutOfRange, "attention: row ", r, " needs page ", i, " of ", used,
                   " for ", rows.kv_length[r], " keys and the list has ", page,
                   " there, must be in [0, ", pages, ")");
    }
  }
  return {};
}

Status check_rows(const AttentionArgs& args, std::int64_t tokens, std::int64_t pages,
                  std::int64_t page_size) {
  const AttentionRows& rows = args.rows;
  core::ArgCheck check("attention");
  check.require(rows.count >= 0, "rows.count is ", rows.count, ", must be at least 0");
  check.array("rows.q_start", rows.q_start, rows.count);
  check.array("rows.q_length", rows.q_length, rows.count);
  check.array("rows.kv_length", rows.kv_length, rows.count);
  check.array("rows.kv_start", rows.kv_start, rows.count);
  if (!check.ok()) return check.status();
  const bool dense = args.k.rank == 3;
  for (std::int32_t r = 0; r < rows.count; ++r) {
    const std::int64_t start = rows.q_start[r];
    const std::int64_t length = rows.q_length[r];
    if (start < 0 || length < 0 || start + length > tokens) {
      return error(StatusCode::kOutOfRange, "attention: row ", r, " names queries [", start, ", ",
                   start + length, "), must lie in [0, ", tokens, ")");
    }
    if (rows.kv_length[r] < 0) {
      return invalid_argument("attention: row ", r, " has kv_length ", rows.kv_length[r],
                              ", must be at least 0");
    }
    if (dense) {
      const std::int64_t first = rows.kv_start[r];
      if (first < 0 || first > pages - rows.kv_length[r]) {
        return error(StatusCode::kOutOfRange, "attention: row ", r, " reads ", rows.kv_length[r],
                     " keys from ", first, ", must lie in [0, ", pages, ")");
      }
    } else if (length > 0) {
      HYBRIDATTN_TRY(check_pages(args, r, pages, page_size));
    }
    HYBRIDATTN_TRY(ops::check_parents("attention", r, rows.parents, start, length));
    if (rows.parents == nullptr || length == 0 || rows.parents[start] == kChain) continue;
    check.require_supported(args.options.causal, "row ", r,
                            " is a tree and causal is false, must be true");
    if (!check.ok()) return check.status();
  }
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
  check.distinct("out", args.out, "v", args.v);
  HYBRIDATTN_TRY(check_options(check, args.options));
  HYBRIDATTN_TRY(check_rows(args, check["T"], check["pages"], check["page_size"]));
  const ops::AttentionParams params{args.rows, args.q,       k,      v, args.out, args.sinks,
                                    args.lse,  args.options, hq / hk};
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
