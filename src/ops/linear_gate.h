// What products ask of the gate of their outputs.
#pragma once

#include "src/core/arg_check.h"

namespace hybridattn::ops {

inline void check_gate(core::ArgCheck& check, const ConstTensorView& gate,
                       const ConstTensorView& out) {
  check.optional_input("gate", gate, {"M", "N"});
  check.require(gate.empty() || gate.dtype == out.dtype, "gate is ", dtype_name(gate.dtype),
                ", out is ", dtype_name(out.dtype), ": they must be of one type");
}

}  // namespace hybridattn::ops
