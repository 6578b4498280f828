// The fused ops of a Gated DeltaNet layer where no kernel fuses them: the ops one after the other.
#pragma once

#include "src/core/kernel.h"
#include "src/ops/gdn_decode_params.h"
#include "src/ops/gdn_decode_verify_params.h"

namespace hybridattn::ops {

/// `verify`: nullptr = rows of one token, states in place. Errors: as the ops'; failed_precondition
/// while a graph is recorded, which would keep what is decided here of these rows.
Status run_gdn_decode_apart(Context& context, const char* op, const GdnDecodeParams& params,
                            const GdnDecodeVerifyParams* verify);

/// The kernel that serves the whole call, or `apart`.
template <class Params, class Apart>
Status launch_fused_or_apart(Context& context, const char* op, const Params& params,
                             const Apart& apart) {
  if (context.device() == DeviceType::kCpu) return apart(context);
  const core::DeviceChoice<Params> fused = core::choose_device_kernel(context, params);
  return fused.kernel == nullptr ? apart(context)
                                 : core::launch_device_kernel(context, op, *fused.kernel, params);
}

/// Whether one kernel of the context's device serves the whole call, whose rows lie there.
template <class Params>
bool is_fused(Context& context, const Params& params) {
  return context.device() != DeviceType::kCpu &&
         core::choose_device_kernel(context, params).kernel != nullptr;
}

/// The ops without their checks, for params that check_gdn_decode and check_gdn_decode_verify have
/// made: rows are placed where the kernels read them, then launched.
Status run_checked(Context& context, GdnDecodeParams& params);
Status run_checked(Context& context, GdnDecodeVerifyParams& params);

}  // namespace hybridattn::ops
