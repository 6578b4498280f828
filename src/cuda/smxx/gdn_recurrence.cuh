// The gated delta rule token after token, as every op that steps needs it: decode, verify, and
// prefill where no chunked kernel serves the call.
#pragma once

#include "src/core/kernel.h"
#include "src/cuda/element.cuh"
#include "src/ops/gdn_prefill_params.h"
#include "src/ops/gdn_verify_params.h"

namespace hybridattn::cuda {

/// What the recurrence kernels take.
struct RecurrenceParams {
  DeviceRowTables rows;
  View q, k;                     // [tokens, HK, K]
  View v, out;                   // [tokens, HV, V]
  View log_decay;                // [tokens, HV] or [tokens, HV, K] f32
  View beta;                     // [tokens, HV] f32
  View state;                    // [slots, HV, V, K]
  View kept;                     // verify: [kept slots, HV, V, K]
  const std::int32_t* kept_row;  // verify: [rows] first kept slot; else nullptr
  const std::int32_t* parents;   // verify: [tokens], or nullptr: chains
  /// States to be stored on the way, in slots of `state`.
  ops::PlacedCheckpoints checkpoints;
  /// [rows, HV, V, K] f32 that rows begin with in place of `state`; then there are no outputs, and
  /// rows of no tokens are stored too. No data: as always.
  View begin;
  int v_heads, group, k_dim, v_dim;
  float scale;
  bool qk_l2norm, channel_decay;
};

RecurrenceParams recurrence_params(const ops::GdnParams& p);
RecurrenceParams recurrence_params(const ops::GdnVerifyParams& p);
RecurrenceParams recurrence_params(const ops::GdnPrefillParams& p);

/// K up to 256, any V, any strides.
Status run_recurrence(const char* op, const RecurrenceParams& p, const core::DeviceLaunch& launch);
/// The checkpoints of a prefill, from the states at the chunk boundaries before them, in float32:
/// `boundary` [checkpoints, HV, V, K].
Status finish_checkpoints(const ops::GdnPrefillParams& p, const View& boundary,
                          const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
