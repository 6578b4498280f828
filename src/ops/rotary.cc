#include "hybridattn/ops/rotary.h"

#include <cmath>

#include "hybridattn/status_macros.h"
#include "src/core/arg_check.h"
#include "src/core/kernel.h"
#include "src/ops/place_rows.h"
#include "src/ops/rotary_params.h"

namespace hybridattn {

Status rotary(Context& context, const RotaryArgs& args) {
  core::ArgCheck check("rotary");
  check.input("x", args.x, {"T", "H", "D"});
  check.input("cos", args.cos, {"T", "R/2"}, core::Dtypes::kF32);
  check.input("sin", args.sin, {"T", "R/2"}, core::Dtypes::kF32);
  check.output("out", args.out, {"T", "H", "D"});
  if (!check.ok()) return check.status();
  check.require(2 * check["R/2"] <= check["D"], "cos has R/2 = ", check["R/2"],
                " (dim 1), must be at most D/2 with D = ", check["D"], " of x");
  if (!check.ok()) return check.status();
  const ops::RotaryParams params{args.x, args.cos, args.sin, args.out};
  const auto scratch = static_cast<std::size_t>(2 * check["D"]) * sizeof(float);
  return core::launch(context, "rotary", params, scratch);
}

namespace {

Status check_positions(core::ArgCheck& check, const char* name, const std::int64_t* positions) {
  check.array(name, positions, check["T"]);
  for (std::int64_t t = 0; check.ok() && t < check["T"]; ++t) {
    check.require(positions[t] >= 0, name, "[", t, "] is ", positions[t], ", must be at least 0");
  }
  return check.status();
}

Status check_sections(core::ArgCheck& check, const RotaryTableArgs& args) {
  check.require((args.height == nullptr) == (args.width == nullptr), "height is ",
                args.height == nullptr ? "null" : "given", " and width is ",
                args.width == nullptr ? "null" : "given", ", must both be one or the other");
  if (!check.ok() || args.height == nullptr) return check.status();
  const auto& s = args.sections;
  check.require(
      s[0] >= 0 && s[1] >= 0 && s[2] >= 0 && std::int64_t{s[0]} + s[1] + s[2] == check["R/2"],
      "sections are ", s[0], ", ", s[1], ", ", s[2],
      ", must be at least 0 and R/2 = ", check["R/2"], " together");
  HYBRIDATTN_TRY(check_positions(check, "height", args.height));
  return check_positions(check, "width", args.width);
}

}  // namespace

Status rotary_table(Context& context, const RotaryTableArgs& args) {
  core::ArgCheck check("rotary_table");
  check.output("cos", args.cos, {"T", "R/2"}, core::Dtypes::kF32);
  check.output("sin", args.sin, {"T", "R/2"}, core::Dtypes::kF32);
  if (!check.ok()) return check.status();
  check.require(
      args.rotary_dim >= 0 && args.rotary_dim % 2 == 0 && args.rotary_dim / 2 == check["R/2"],
      "rotary_dim is ", args.rotary_dim, ", must be 2 * ", check["R/2"], " (dim 1 of cos)");
  check.require(std::isfinite(args.theta) && args.theta > 0, "theta is ", args.theta,
                ", must be finite and positive");
  if (!check.ok()) return check.status();
  HYBRIDATTN_TRY(check_positions(check, "positions", args.positions));
  HYBRIDATTN_TRY(check_sections(check, args));
  const std::int64_t tokens = check["T"];
  HYBRIDATTN_ASSIGN(const std::int64_t* positions,
                    ops::place_array(context, args.positions, tokens, args.device_positions));
  HYBRIDATTN_ASSIGN(const std::int64_t* height,
                    ops::place_array(context, args.height, tokens, args.device_height));
  HYBRIDATTN_ASSIGN(const std::int64_t* width,
                    ops::place_array(context, args.width, tokens, args.device_width));
  const ops::RotaryTableParams params{positions, args.theta,       args.rotary_dim,
                                      args.cos,  args.sin,         height,
                                      width,     args.sections[1], args.sections[2]};
  return core::launch(context, "rotary_table", params);
}

}  // namespace hybridattn
