// Ops over [T, H, D] also take [T, D]: one head.
#pragma once

#include "hybridattn/tensor.h"

namespace hybridattn::ops {

/// The view with a head dimension of 1 put in where it has rank 2.
template <class Void>
BasicTensorView<Void> with_heads(const BasicTensorView<Void>& view) {
  if (view.rank != 2) return view;
  return view.at(0, {view.dim(0), 1, view.dim(1)}, {view.stride(0), 0, view.stride(1)});
}

}  // namespace hybridattn::ops
