// The whole layer for drafted tokens, in one kernel: the arithmetic of gdn_decode for one token
// after the other, every state and window kept.
#pragma once

#include "src/cuda/smxx/gdn_decode.cuh"
#include "src/ops/gdn_decode_verify_params.h"

namespace hybridattn::cuda {

struct DecodeVerifyParams {
  DecodeParams decode;
  View kept, kept_conv;          // [kept slots, HV, V, K], [kept slots, C, W - 1]
  const std::int32_t* kept_row;  // [rows]
  const std::int32_t* parents;   // optional [tokens]
};

/// X: the type of activations, T: of the state at rest. The instances are in
/// gdn_decode_verify_*.cu.
template <class X, class T, int K, int V>
Status run_decode_verify(const DecodeVerifyParams& p, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
