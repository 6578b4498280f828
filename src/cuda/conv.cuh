// What the kernels of the causal convolution share.
#pragma once

#include "src/cuda/element.cuh"
#include "src/ops/causal_conv_params.h"

namespace hybridattn::cuda {

inline constexpr int kMaxConvWidth = 4;
inline constexpr int kConvThreads = 128;  // channels of a block

struct ConvParams {
  DeviceRowTables rows;
  View x, weight, state, out;
  int channels, width;
  bool silu;
  ops::PlacedCheckpoints checkpoints;
  bool whole_taps = false;  // those of neighbouring channels may be read together

  explicit ConvParams(const ops::CausalConvParams& p)
      : rows(*p.rows.device), x(p.x), weight(p.weight), state(p.state), out(p.out),
        channels(static_cast<int>(p.x.dim(1))), width(static_cast<int>(p.weight.dim(1))),
        silu(p.silu), checkpoints(p.checkpoints) {}

  /// Blocks over `units` (chunks or rows) and all channels.
  dim3 grid(std::int32_t units) const {
    return dim3(static_cast<unsigned>(units),
                static_cast<unsigned>((channels + kConvThreads - 1) / kConvThreads));
  }
};

}  // namespace hybridattn::cuda
