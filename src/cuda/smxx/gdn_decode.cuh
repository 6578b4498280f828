// The whole layer for one token of a row, in one kernel. A block holds some rows of one head's
// state in registers; the state's loads are issued first and everything else happens while they
// fly.
#pragma once

#include "src/core/kernel.h"
#include "src/cuda/element.cuh"
#include "src/ops/gdn_decode_params.h"

namespace hybridattn::cuda {

struct DecodeParams {
  DeviceRowTables rows;
  View mixed;                    // [tokens, C]
  View conv_weight, conv_state;  // [C, W], [slots, C, W - 1]
  View a, b, a_log, dt_bias;
  View state;               // [slots, HV, V, K]
  View z, norm_weight;      // no data: no norm
  View out;                 // [tokens, HV, V]
  std::uint32_t* counters;  // [rows, HK] blocks that have read their q and k windows
  int v_heads, k_heads, width;
  float scale, beta_factor, epsilon;
  bool sigmoid_gate, channel_decay;
  bool paired;  // two channels of the convolution are whole words
};

/// Why the fused kernels cannot serve a call, nullptr when they can.
const char* decode_refusal(const ops::GdnDecodeParams& p);
DecodeParams decode_params(const ops::GdnDecodeParams& p, const core::DeviceLaunch& launch);

/// X: the type of activations, T: of the state at rest. The instances are in gdn_decode_*.cu.
template <class X, class T, int K, int V>
Status run_decode(const DecodeParams& p, const core::DeviceLaunch& launch);

}  // namespace hybridattn::cuda
