// Rotary embedding and its table on CUDA: a thread for some pairs of a head, or for some elements
// that are not rotated; a warp for the frequencies of some tokens.
#include <cmath>

#include "src/core/formulas.h"
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"
#include "src/cuda/qk_rows.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kThreads = 256;

struct RotaryKernelParams {
  View x, cos, sin, out;
  std::int64_t tokens, heads, half;
  std::int64_t copied;  // elements behind the rotated ones that are copied
};

template <int N>
__global__ void __launch_bounds__(kElementThreads)
    rotary_kernel(const __grid_constant__ RotaryKernelParams p) {
  let_next_begin();
  wait_for_writers();
  const std::int64_t units = (p.half + p.copied) / N;  // of a row
  const std::int64_t count = p.tokens * p.heads * units;
  for (std::int64_t i = flat_index(); i < count; i += flat_step()) {
    const Split row = split(i, units);
    const Split at = split(row.whole, p.heads);
    const RowElements x = row_of(p.x, at.whole, at.rest), out = row_of(p.out, at.whole, at.rest);
    const std::int64_t first = row.rest * N;
    float lower[N], upper[N];
    if (first >= p.half) {
      load_elements(x, first + p.half, lower);
      store_elements(out, first + p.half, lower);
      continue;
    }
    load_elements(x, first, lower);
    load_elements(x, first + p.half, upper);
    rotate(lower, upper, row_of(p.cos, at.whole), row_of(p.sin, at.whole), first);
    store_elements(out, first, lower);
    store_elements(out, first + p.half, upper);
  }
}

bool same(const ConstTensorView& a, const ConstTensorView& b) {
  return a.data == b.data && a.dtype == b.dtype && a.strides == b.strides;
}

Status run_rotary(const ops::RotaryParams& p, const core::DeviceLaunch& launch) {
  const std::int64_t dim = p.x.dim(2), half = p.cos.dim(1);
  // In place the elements that are not rotated stand where they belong.
  const std::int64_t copied = same(p.x, p.out) ? 0 : dim - 2 * half;
  const RotaryKernelParams params{View(p.x),  View(p.cos), View(p.sin), View(p.out),
                                  p.x.dim(0), p.x.dim(1),  half,        copied};
  const bool packs = half % kPack == 0 && in_packs(dim, p.x, p.cos, p.sin, ConstTensorView(p.out));
  return launch_elements("rotary", launch, packs, rotary_kernel<kPack>, rotary_kernel<1>,
                         params.tokens * params.heads * (half + copied), params);
}

struct TableParams {
  const std::int64_t* positions[3];  // [tokens] each: time, height, width
  View cos, sin;
  std::int64_t tokens;
  int half;
  double theta;
  int height_section, width_section;  // 0 where all angles are of the first position
};

/// cos and sin of an angle of any size. The library's own keep an array in memory for angles past
/// 1e5; so the angle is brought to one turn first, where the forms in half turns need none. What
/// the constant lacks is less than the angle's own rounding.
__device__ inline double2 direction(double angle) {
  constexpr double kTurn = 6.283185307179586477;
  const double rest = fma(-rint(angle * (1.0 / kTurn)), kTurn, angle);
  double2 out;
  sincospi(rest * (2.0 / kTurn), &out.y, &out.x);
  return out;
}

__global__ void __launch_bounds__(kThreads) table_kernel(const __grid_constant__ TableParams p) {
  let_next_begin();
  wait_for_writers();
  const int lane = threadIdx.x % 32;
  const std::int64_t first = flat_index() / 32, step = flat_step() / 32;
  for (int i = lane; i < p.half; i += 32) {
    const std::int64_t* positions =
        p.positions[core::mrope_axis(i, p.height_section, p.width_section)];
    const double frequency = pow(p.theta, -2.0 * i / (2 * p.half));
    for (std::int64_t t = first; t < p.tokens; t += step) {
      const double2 at = direction(static_cast<double>(positions[t]) * frequency);
      p.cos.as<float>()[p.cos.at(t, i)] = static_cast<float>(at.x);
      p.sin.as<float>()[p.sin.at(t, i)] = static_cast<float>(at.y);
    }
  }
}

Status run_table(const ops::RotaryTableParams& p, const core::DeviceLaunch& launch) {
  const bool three = p.height != nullptr;
  const TableParams params{{p.positions, p.height, p.width},
                           View(p.cos),
                           View(p.sin),
                           p.cos.dim(0),
                           p.rotary_dim / 2,
                           p.theta,
                           three ? p.height_section : 0,
                           three ? p.width_section : 0};
  if (params.tokens == 0 || params.half == 0) return {};
  // A warp takes its frequencies once for all of its tokens.
  const unsigned grid = std::min(grid_for(params.tokens, kThreads / 32, *launch.info),
                                 2u * static_cast<unsigned>(launch.info->num_sms));
  return launch_early("rotary_table", launch, table_kernel, grid, kThreads, 0, params);
}

}  // namespace

core::DeviceKernels<ops::RotaryParams> rotary_kernels() {
  return {{{"smxx", nullptr, nullptr, run_rotary}}};
}
core::DeviceKernels<ops::RotaryTableParams> rotary_table_kernels() {
  return {{{"smxx", nullptr, nullptr, run_table}}};
}

}  // namespace hybridattn::cuda
