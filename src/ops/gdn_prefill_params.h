// What a gdn_prefill kernel takes.
#pragma once

#include <cstddef>

#include "hybridattn/ops/gdn_prefill.h"
#include "src/ops/gdn_params.h"

namespace hybridattn::ops {

struct GdnPrefillParams : GdnParams {
  /// Rows may not be cut where that depends on the other rows: the context is batch_invariant.
  bool whole_rows;
};

/// Bytes of scratch that one worker needs: q, k and v, u, o of a chunk, two chunk x chunk products,
/// the gates, and the state in float32 where it is bf16 at rest; where each key channel decays by
/// itself, also decayed copies of q and k.
constexpr std::size_t gdn_prefill_scratch(std::int64_t k_dim, std::int64_t v_dim,
                                          bool channel_decay) {
  const std::int64_t c = kGdnChunk;
  const std::int64_t decayed = channel_decay ? (2 * c + 1) * k_dim : 0;
  const std::int64_t floats =
      c * (2 * k_dim + 3 * v_dim) + 2 * c * c + v_dim * k_dim + 4 * c + decayed;
  const std::int64_t sums = channel_decay ? c * k_dim : c;
  return static_cast<std::size_t>(floats) * sizeof(float) +
         static_cast<std::size_t>(sums) * sizeof(double);
}

}  // namespace hybridattn::ops
