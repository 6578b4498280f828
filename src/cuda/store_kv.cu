// Stores keys and values to pages on CUDA: a thread for some elements of a head of k or of v.
#include "src/cuda/kernels.h"
#include "src/cuda/qk_rows.cuh"

namespace hybridattn::cuda {
namespace {

struct StoreParams {
  View k, v, k_cache, v_cache;
  const std::int64_t* token_slots;  // [tokens]
  std::int64_t tokens, heads, dim, v_dim, page_size;
  core::HeadScales k_scale, v_scale;
};

template <int N>
__global__ void __launch_bounds__(kElementThreads)
    store_kv_kernel(const __grid_constant__ StoreParams p) {
  let_next_begin();
  wait_for_writers();
  const std::int64_t units = (p.dim + p.v_dim) / N;  // of a head: k, then v
  const std::int64_t count = p.tokens * p.heads * units;
  for (std::int64_t i = flat_index(); i < count; i += flat_step()) {
    const Split row = split(i, units);
    const Split at = split(row.whole, p.heads);
    const std::int64_t slot = p.token_slots[at.whole];
    if (slot == kPadIndex) continue;
    const std::int64_t first = row.rest * N;
    float x[N];
    if (first < p.dim) {
      load_elements(row_of(p.k, at.whole, at.rest), first, x);
      store_scaled(place_of(p.k_cache, slot, p.page_size, at.rest), first, x,
                   p.k_scale.of(at.rest));
    } else {
      load_elements(row_of(p.v, at.whole, at.rest), first - p.dim, x);
      store_scaled(place_of(p.v_cache, slot, p.page_size, at.rest), first - p.dim, x,
                   p.v_scale.of(at.rest));
    }
  }
}

Status run(const ops::StoreKvParams& p, const core::DeviceLaunch& launch) {
  const StoreParams params{View(p.k),     View(p.v),        View(p.k_cache), View(p.v_cache),
                           p.token_slots, p.k.dim(0),       p.k.dim(1),      p.k.dim(2),
                           p.v.dim(2),    p.k_cache.dim(1), p.k_scale,       p.v_scale};
  const std::int64_t elements = params.tokens * params.heads * (params.dim + params.v_dim);
  const bool packs = in_packs(params.dim, p.k, ConstTensorView(p.k_cache)) &&
                     in_packs(params.v_dim, p.v, ConstTensorView(p.v_cache));
  return launch_elements("store_kv", launch, packs, store_kv_kernel<kPack>, store_kv_kernel<1>,
                         elements, params);
}

}  // namespace

core::DeviceKernels<ops::StoreKvParams> store_kv_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
