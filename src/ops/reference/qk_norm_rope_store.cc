// The three ops one after the other, in double.
#include <vector>

#include "src/ops/reference/reference.h"

namespace hybridattn::reference {
namespace {

/// Norm and rotation of one of q and k: [tokens, heads, dim] of doubles.
TensorView norm_and_rotate(const QkNormRopeStoreArgs& args, const ConstTensorView& x,
                           const ConstTensorView& weight, std::vector<double>& values) {
  values.assign(static_cast<std::size_t>(x.num_elements()), 0.0);
  const TensorView y(values.data(), DType::kF64, {x.dim(0), x.dim(1), x.dim(2)});
  ConstTensorView from = x;
  if (weight.rank != 0) {
    rms_norm({from, weight, y, args.epsilon, args.zero_centered});
    from = y;
  }
  const ConstTensorView none(nullptr, DType::kF32, {x.dim(0), 0});  // rotates nothing: copies
  rotary({from, args.cos.rank != 0 ? args.cos : none, args.sin.rank != 0 ? args.sin : none, y});
  return y;
}

/// Rounds doubles to `out`.
void copy(const TensorView& x, const TensorView& out) {
  const ConstTensorView none(nullptr, DType::kF32, {x.dim(0), 0});
  rotary({x, none, none, out});
}

}  // namespace

void qk_norm_rope_store(const QkNormRopeStoreArgs& args) {
  std::vector<double> q, k;
  copy(norm_and_rotate(args, args.q, args.q_norm, q), args.q_out);
  if (args.k.rank == 0) return;
  const TensorView keys = norm_and_rotate(args, args.k, args.k_norm, k);
  if (args.k_cache.rank != 0) {
    StoreKvArgs stored{keys,         args.v,       args.token_slots, args.k_cache,
                       args.v_cache, args.k_scale, args.v_scale};
    stored.k_scales = args.k_scales;
    stored.v_scales = args.v_scales;
    store_kv(stored);
  }
  if (args.k_out.rank != 0) copy(keys, args.k_out);
}

}  // namespace hybridattn::reference
