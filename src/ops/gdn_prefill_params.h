// What a gdn_prefill kernel takes.
#pragma once

#include <cstddef>

#include "hybridattn/ops/gdn_prefill.h"
#include "src/ops/checkpoints_params.h"
#include "src/ops/gdn_params.h"

namespace hybridattn::ops {

struct GdnPrefillParams : GdnParams {
  /// Rows may not be cut where that depends on the other rows: the context is batch_invariant.
  bool whole_rows;
  PlacedCheckpoints checkpoints;
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

/// Whether the CPU's products in bf16 serve a call: they need whole tiles.
inline bool gdn_prefill_in_bf16(const GdnPrefillParams& p) {
  for (const DType dtype : {p.q.dtype, p.k.dtype, p.v.dtype}) {
    if (dtype != DType::kBF16) return false;
  }
  return !p.channel_decay() && p.k.dim(2) % 32 == 0 && p.v.dim(2) % 16 == 0;
}

/// Bytes of scratch of one worker for products in bf16: the state and its pairs; k in two forms, q
/// and k of a chunk that is not full; four chunk x chunk matrices; u and o; the gates.
constexpr std::size_t gdn_prefill_bf16_scratch(std::int64_t k_dim, std::int64_t v_dim) {
  const std::int64_t c = kGdnChunk;
  const std::int64_t state = k_dim * v_dim * 4 + k_dim / 2 * v_dim * 4;
  const std::int64_t keys = 3 * (k_dim / 2 * c * 4) + 2 * (c * k_dim * 2);
  const std::int64_t matrices = c * c * (3 * 4 + 2 * 2);
  const std::int64_t values = 2 * (c * v_dim * 4) + 2 * (c / 2 * v_dim * 4);
  const std::int64_t gates = (6 + c / 16) * c * 4 + c * 8;
  const std::int64_t turning = 16 * k_dim * 4;  // where sixteen rows of a state are more than u
  return static_cast<std::size_t>(state + keys + matrices + values + gates + turning);
}

/// Bytes of scratch of one worker for its checkpoints: a state, and what a step needs.
constexpr std::size_t gdn_checkpoint_scratch(std::int64_t k_dim, std::int64_t v_dim) {
  return static_cast<std::size_t>(k_dim * v_dim + 4 * k_dim + 2 * v_dim) * sizeof(float);
}

/// Bytes of scratch of one worker, whichever form serves, that of checkpoints left out.
constexpr std::size_t gdn_prefill_workspace(std::int64_t k_dim, std::int64_t v_dim,
                                            bool channel_decay) {
  const std::size_t in_float = gdn_prefill_scratch(k_dim, v_dim, channel_decay);
  const std::size_t in_bf16 = gdn_prefill_bf16_scratch(k_dim, v_dim);
  return in_float > in_bf16 ? in_float : in_bf16;
}

}  // namespace hybridattn::ops
