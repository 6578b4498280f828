// One layer of Gated DeltaNet over the rows of a plan.
#pragma once

#include "hybridattn/layers.h"
#include "src/attention/gdn_plan.h"

namespace hybridattn::backend {

/// A layer's call, and the states that it is about. Everything was checked.
struct GdnCall {
  const RadixLinearAttention& layer;
  const GdnRunArgs& args;
  TensorView state, conv;
  TensorView kept_state, kept_conv;  // empty: no verify rows
};

/// Runs it. Where the device has one kernel for rows that step token by token they take that, and
/// the ops one after the other are for prefill rows alone. Errors: as the ops'.
Status run_gdn_layer(Context& context, const GdnPlan& plan, const GdnCall& call);

/// On a GPU: grows the workspace now to what run_gdn_layer will want for such a layer, so that no
/// run does. `dtype`: of the activations. Errors: resource_exhausted; failed_precondition in a
/// capture.
Status reserve_gdn_layer(Context& context, const GdnPlan& plan, const RadixLinearAttention& layer,
                         const TensorView& state, DType dtype);

}  // namespace hybridattn::backend
