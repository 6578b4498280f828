// Products of some dozens of rows, from the host: which calls they take, and how much memory their
// blocks have.
#include "src/cuda/sm90/linear_multicast.cuh"

#include "src/cuda/row_elements.cuh"
#include "src/cuda/sm90/linear_multicast_kernel.cuh"

namespace hybridattn::cuda {
namespace {

using namespace multicast;

template <class X, int Rows, int Width, bool Gated>
Status launch_kernel(const LinearCall& p, MulticastCut cut, const core::DeviceLaunch& launch) {
  using Work = Multicast<X, Rows, Width, Gated>;
  const bool sliced = cut.slices() > 1;
  cut.x_stages = std::min(sliced ? kXStagesOfSlices : kXStages, cut.turns * cut.chunks);
  const int fixed = Work::fixed_bytes(cut), room = sliced ? kRoomOfSlices : kRoom;
  cut.stages = std::min({(room - fixed) / Work::kWeightBytes, kStages, cut.turns * cut.chunks});
  LinearMaps maps{};
  HYBRIDATTN_TRY(encode_linear_maps(p, outputs_of_tile(p, Width), Rows >> cut.shares_log2, &maps));
  auto* const kernel = multicast_kernel<X, Rows, Width, Gated>;
  HYBRIDATTN_TRY(allow_shared_memory("linear", kernel, kMostShared));
  const auto blocks = static_cast<unsigned>(cut.clusters << cut.blocks_log2());
  const int bytes = cut.stages * Work::kWeightBytes + fixed;
  return launch_early("linear", launch, kernel,
                      EarlyLaunch{blocks, kThreads<Rows>, bytes, 1 << cut.blocks_log2()}, p, cut,
                      maps);
}

template <class X, int Rows, int Width>
Status launch_width(const LinearCall& p, const MulticastCut& cut,
                    const core::DeviceLaunch& launch) {
  return p.gate_weight.data != nullptr ? launch_kernel<X, Rows, Width, true>(p, cut, launch)
                                       : launch_kernel<X, Rows, Width, false>(p, cut, launch);
}

template <class X, int Rows>
Status launch_rows(const LinearCall& p, bool packs, const core::DeviceLaunch& launch) {
  MulticastCut cut = cut_of(p, Rows, launch.info->num_sms);
  cut.packs = packs;
  if (cut.width == 128) return launch_width<X, Rows, 128>(p, cut, launch);
  if (cut.width == 64) return launch_width<X, Rows, 64>(p, cut, launch);
  return launch_width<X, Rows, sliced_width(Rows)>(p, cut, launch);
}

template <class X>
Status launch_type(const LinearCall& p, bool packs, const core::DeviceLaunch& launch) {
  return p.m <= 64 ? launch_rows<X, 64>(p, packs, launch) : launch_rows<X, 128>(p, packs, launch);
}

}  // namespace

const char* refusal_linear_multicast(const ops::LinearParams& p, const core::DeviceInfo& info) {
  if (info.compute_major != 9) return "the device must be of compute capability 9";
  if (p.x.dim(0) > kLinearMulticastRows) return "x must have at most 128 rows";
  return refusal_linear_rings(p);
}

bool faster_linear_multicast(const ops::LinearParams& p) {
  const std::int64_t gates = p.gate_weight.empty() ? 0 : p.gate_weight.num_elements();
  const bool few = (p.weight.num_elements() + gates) * 2 <= kLinearMulticastBytes;
  const bool hands_on_few = p.next_norm.empty() || p.weight.dim(0) <= kLinearMulticastInner;
  return hands_on_few && (few || p.x.dim(1) <= kLinearMulticastInner);
}

Status run_linear_multicast(const ops::LinearParams& params, const core::DeviceLaunch& launch) {
  const LinearCall p(params);
  const bool packs = in_packs(p.n, params.out, params.next_x);
  return params.x.dtype == DType::kBF16 ? launch_type<__nv_bfloat16>(p, packs, launch)
                                        : launch_type<__half>(p, packs, launch);
}

}  // namespace hybridattn::cuda
