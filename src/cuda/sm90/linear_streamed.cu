// Products of few rows whose weights are on their way before the kernel in front of them ends, from
// the host: which calls it takes, and how much memory its blocks have.
#include "src/cuda/sm90/linear_streamed.cuh"

#include "src/cuda/sm90/linear_multicast.cuh"
#include "src/cuda/sm90/linear_streamed_kernel.cuh"

namespace hybridattn::cuda {
namespace {

using namespace streamed;

/// Stages of a ring for `all` chunks: an even number, so that each is of one team, or one for each
/// chunk.
template <int Rows>
int stages_of(const StreamedCut& cut, bool normed, int all) {
  const int all_room = Rows == 32 && cut.buffers == 1 ? kRoomBeside : kRoom;
  const int room = all_room - fixed_bytes<Rows>(cut, normed);
  const int most = std::clamp(room / stage_bytes<Rows>(normed), kLeastStages, kStages);
  return all <= most ? all : most / kTeams * kTeams;
}

template <class X, int Rows, bool Gated, bool Normed>
Status launch_kernel(const LinearCall& p, StreamedCut cut, const core::DeviceLaunch& launch) {
  const int clusters = clusters_of(cut.slices(), launch.info->num_sms);
  const int each = (cut.tiles + clusters - 1) / clusters;
  const auto blocks = static_cast<unsigned>((cut.tiles + each - 1) / each * cut.slices());
  cut.buffers = each > 1 ? 2 : 1;
  cut.stages = stages_of<Rows>(cut, Normed, each * cut.slice_chunks);
  LinearMaps maps{};
  HYBRIDATTN_TRY(encode_linear_maps(p, outputs_of_tile(p), Normed ? 0 : Rows, &maps));
  auto* const kernel = streamed_kernel<X, Rows, Gated, Normed>;
  HYBRIDATTN_TRY(allow_shared_memory("linear", kernel, kMostShared));
  const int bytes = cut.stages * stage_bytes<Rows>(Normed) + fixed_bytes<Rows>(cut, Normed);
  return launch_early("linear", launch, kernel, EarlyLaunch{blocks, kThreads, bytes, cut.slices()},
                      p, cut, maps);
}

template <class X, int Rows, bool Normed>
Status launch_rows(const LinearCall& p, const StreamedCut& cut, const core::DeviceLaunch& launch) {
  return p.gate_weight.data != nullptr ? launch_kernel<X, Rows, true, Normed>(p, cut, launch)
                                       : launch_kernel<X, Rows, false, Normed>(p, cut, launch);
}

template <class X>
Status launch_type(const LinearCall& p, const StreamedCut& cut, const core::DeviceLaunch& launch) {
  if (p.m <= 8) return launch_rows<X, 8, false>(p, cut, launch);
  if (p.m <= 16) return launch_rows<X, 16, false>(p, cut, launch);
  return launch_rows<X, 32, false>(p, cut, launch);
}

Status launch_normed(const LinearCall& p, const StreamedCut& cut,
                     const core::DeviceLaunch& launch) {
  return p.m <= 8 ? launch_rows<__nv_bfloat16, 8, true>(p, cut, launch)
                  : launch_rows<__nv_bfloat16, kNormedRows, true>(p, cut, launch);
}

}  // namespace

const char* refusal_linear_streamed(const ops::LinearParams& p, const core::DeviceInfo& info) {
  if (info.compute_major != 9) return "the device must be of compute capability 9";
  if (p.x.dim(0) > kLinearStreamedRows) return "x must have at most 32 rows";
  return refusal_linear_rings(p);
}

bool faster_linear_streamed(const ops::LinearParams& p, const core::DeviceInfo&) {
  const bool many = p.weight.dim(0) >= kLinearManyWeights && p.x.dim(1) <= kLinearMulticastInner;
  return p.x.dim(0) <= 16 || !many || !p.next_norm.empty();
}

bool takes_norm_streamed(const ops::LinearParams& params, const core::DeviceInfo& info) {
  const LinearCall p(params);
  if (p.m > kNormedRows) return false;
  const StreamedCut cut = cut_of(p, info.num_sms);
  return (p.m <= 8 ? normed_bytes<8>(cut) : normed_bytes<kNormedRows>(cut)) <= kNormedBytes;
}

Status run_linear_streamed(const ops::LinearParams& params, const core::DeviceLaunch& launch) {
  const LinearCall p(params);
  StreamedCut cut = cut_of(p, launch.info->num_sms);
  // Gated pieces are stored, not added: no model adds them.
  const bool stored = params.gate_weight.empty() || !params.accumulate;
  cut.pieces = stored && in_packs(p.n, params.out, params.next_x, params.next_norm);
  if (p.norm_weight != nullptr) return launch_normed(p, cut, launch);
  return params.x.dtype == DType::kBF16 ? launch_type<__nv_bfloat16>(p, cut, launch)
                                        : launch_type<__half>(p, cut, launch);
}

}  // namespace hybridattn::cuda
