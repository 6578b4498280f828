// Whether a processor's products of bf16 pairs are worth taking.
#pragma once

namespace hybridattn::core {

/// Whether vdpbf16ps outruns fused multiply-adds of floats. On Zen 4 it does twice as much; Intel's
/// cores, with tiles or where a virtual machine hides them, issue it so seldom that it does half.
/// By vendor, not by a measurement: results must not change from run to run.
bool bf16_dots_pay() noexcept;

}  // namespace hybridattn::core
