// The mixture of experts around the library's products: routing, and the weighted sum.
#pragma once

#include <cstdint>
#include <vector>

#include "hybridattn/context.h"
#include "hybridattn/tensor.h"

namespace hybridattn::engine {

/// Which experts serve which tokens.
struct Routing {
  std::int32_t top_k = 0;
  std::vector<std::int32_t> experts;  ///< [T, top_k] the chosen experts, best first
  std::vector<float> weights;         ///< [T, top_k]
  // The same by expert: expert e serves entries [offsets[e], offsets[e + 1]).
  std::vector<std::int32_t> offsets;  ///< [E + 1]
  std::vector<std::int32_t> tokens;   ///< [T * top_k] token of each entry, rising within an expert
  std::vector<std::int32_t> entries;  ///< [T, top_k] entry of each token's choice
};

/// Softmax over all experts in float32, the top_k largest (ties: the lower index), divided by their
/// sum where `normalize` is set. `logits` [T, E] f32.
void route(const ConstTensorView& logits, std::int32_t top_k, bool normalize, Routing& routing);

/// hidden[t] += sum_j weights[t, j] * outputs[entry of (t, j)], j in order. outputs [T * top_k, H]
/// f32, hidden [T, H] f32.
void combine_experts(Context& context, const Routing& routing, const ConstTensorView& outputs,
                     const TensorView& hidden);

/// hidden[t] += sigmoid(gate[t]) * x[t]. gate [T, 1] f32, x and hidden [T, H] f32.
void add_gated(Context& context, const ConstTensorView& gate, const ConstTensorView& x,
               const TensorView& hidden);

}  // namespace hybridattn::engine
