// Rotary position embedding on the first dims of each head.
#pragma once

#include <array>
#include <cstdint>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn {

/// R = number of rotated dims, even, at most D; dims R..D pass through.
struct RotaryArgs {
  ConstTensorView x{};    ///< [T, H, D] f32, bf16 or f16
  ConstTensorView cos{};  ///< [T, R/2] f32
  ConstTensorView sin{};  ///< [T, R/2] f32
  TensorView out{};       ///< [T, H, D]; may be x itself
};

/// out[i] = x[i] cos_i - x[i + R/2] sin_i; out[i + R/2] = x[i + R/2] cos_i + x[i] sin_i (NEOX
/// halves). Errors: invalid_argument, unsupported.
HYBRIDATTN_API Status rotary(Context& context, const RotaryArgs& args);

struct RotaryTableArgs {
  const std::int64_t* positions = nullptr;  ///< [T], each >= 0
  double theta = 10000.0;                   ///< base of the frequencies
  int rotary_dim = 0;                       ///< R
  TensorView cos{};                         ///< [T, R/2] f32
  TensorView sin{};                         ///< [T, R/2] f32
  /// Interleaved M-RoPE: `positions` are those in time, and these two are given with `sections`.
  const std::int64_t* height = nullptr;  ///< [T], each >= 0
  const std::int64_t* width = nullptr;   ///< [T], each >= 0
  /// Frequencies of time, height and width; R/2 together.
  std::array<int, 3> sections{};
  /// CUDA: the same arrays on the device. nullptr = the op uploads them for itself.
  const std::int64_t* device_positions = nullptr;
  const std::int64_t* device_height = nullptr;
  const std::int64_t* device_width = nullptr;
};

/// cos and sin of position * theta^(-2i/R). Frequencies and angles are in double whatever the
/// model's dtype: rounding them to bf16 shifts tokens a few hundred positions on. With three
/// positions a token, frequency i takes the height for i = 1, 4, 7, .. below 3 * sections[1], the
/// width for i = 2, 5, 8, .. below 3 * sections[2], and the time elsewhere (Qwen3-VL's interleaved
/// layout); mrope_positions.h makes them.
/// Errors: invalid_argument, unsupported.
HYBRIDATTN_API Status rotary_table(Context& context, const RotaryTableArgs& args);

}  // namespace hybridattn
