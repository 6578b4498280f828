#include "hybridattn/ops/qk_norm_rope_store.h"

#include <algorithm>

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/cache_scale.h"
#include "src/ops/place_rows.h"
#include "src/ops/qk_norm_rope_store_params.h"
#include "src/ops/slot_check.h"

namespace hybridattn {
namespace {

bool given(const ConstTensorView& view) { return view.rank != 0; }

/// What must come together does, and k goes somewhere.
void check_given(core::ArgCheck& check, const QkNormRopeStoreArgs& args) {
  const auto together = [&](const char* a, const ConstTensorView& first, const char* b,
                            const ConstTensorView& second) {
    check.require(given(first) == given(second), a, " is ", given(first) ? "given" : "missing",
                  " and ", b, " is ", given(second) ? "given" : "missing",
                  ", must both be one or the other");
  };
  together("cos", args.cos, "sin", args.sin);
  together("k_cache", args.k_cache, "v_cache", args.v_cache);
  together("v", args.v, "v_cache", args.v_cache);
  const bool needs_k = given(args.k_norm) || given(args.k_out) || given(args.k_cache);
  check.require(given(args.k) || !needs_k,
                "k is missing, must be given with k_norm, k_out and k_cache");
  check.require(!given(args.k) || given(args.k_out) || given(args.k_cache),
                "k_out and k_cache are missing, k must go to at least one of them");
}

void check_tensors(core::ArgCheck& check, const QkNormRopeStoreArgs& args) {
  using core::Dtypes;
  check.input("q", args.q, {"T", "HQ", "D"}).output("q_out", args.q_out, {"T", "HQ", "D"});
  if (given(args.k)) check.input("k", args.k, {"T", "HK", "D"});
  if (given(args.k_out)) check.output("k_out", args.k_out, {"T", "HK", "D"});
  if (given(args.q_norm)) check.input("q_norm", args.q_norm, {"D"});
  if (given(args.k_norm)) check.input("k_norm", args.k_norm, {"D"});
  if (given(args.cos)) {
    check.input("cos", args.cos, {"T", "R/2"}, Dtypes::kF32);
    check.input("sin", args.sin, {"T", "R/2"}, Dtypes::kF32);
    check.require(2 * check["R/2"] <= check["D"], "cos has R/2 = ", check["R/2"],
                  " (dim 1), must be at most D/2 with D = ", check["D"], " of q");
  }
  if (given(args.k_cache)) {
    check.input("v", args.v, {"T", "HK", "DV"});
    check.output("k_cache", args.k_cache, {"pages", "page_size", "HK", "D"}, Dtypes::kCacheFloat);
    check.output("v_cache", args.v_cache, {"pages", "page_size", "HK", "DV"}, Dtypes::kCacheFloat);
    check.array("token_slots", args.token_slots, check["T"]);
  }
  check.require(args.epsilon >= 0, "epsilon is ", args.epsilon, ", must be at least 0");
  ops::check_cache_scales(check, "k_scale", args.k_scale, "k_scales", args.k_scales);
  ops::check_cache_scales(check, "v_scale", args.v_scale, "v_scales", args.v_scales);
}

}  // namespace

Status qk_norm_rope_store(Context& context, const QkNormRopeStoreArgs& args) {
  core::ArgCheck check("qk_norm_rope_store");
  check_given(check, args);
  check_tensors(check, args);
  if (!check.ok()) return check.status();
  const std::int64_t* token_slots = nullptr;
  if (given(args.k_cache)) {
    HYBRIDATTN_TRY(ops::check_slots(check.op(), "token_slots", args.token_slots, check["T"],
                                    check["pages"] * check["page_size"]));
    HYBRIDATTN_ASSIGN(token_slots, ops::place_array(context, args.token_slots, check["T"],
                                                    args.device_token_slots));
  }
  const ops::QkNormRopeStoreParams params{args.q,
                                          args.k,
                                          args.v,
                                          args.q_norm,
                                          args.k_norm,
                                          args.cos,
                                          args.sin,
                                          args.q_out,
                                          args.k_out,
                                          token_slots,
                                          args.k_cache,
                                          args.v_cache,
                                          args.epsilon,
                                          args.zero_centered,
                                          ops::head_scales(args.k_scale, args.k_scales),
                                          ops::head_scales(args.v_scale, args.v_scales)};
  const std::int64_t widest = std::max(check["D"], check["DV"]);
  return core::launch(context, "qk_norm_rope_store", params,
                      static_cast<std::size_t>(4 * widest) * sizeof(float));
}

}  // namespace hybridattn
