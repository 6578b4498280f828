// Which calls the chunked delta rule serves, and what it asks for.
#include "src/cuda/sm80/gdn_chunk.cuh"

#include <algorithm>

namespace hybridattn::cuda {
namespace {

constexpr std::size_t kCutBytes =
    sizeof(TransferMatrix) + kStateFloats * sizeof(float) + sizeof(std::int32_t);

std::size_t boundary_bytes(const ops::GdnPrefillParams& p) {
  return static_cast<std::size_t>(p.checkpoints.host.count) * static_cast<std::size_t>(p.v.dim(1)) *
         kStateFloats * sizeof(float);
}

/// As many as fill the card with one block each on a multiprocessor.
int most_segments(const ops::GdnPrefillParams& p, const core::DeviceInfo& info) {
  if (p.whole_rows) return 1;
  const std::int64_t blocks = p.v.dim(1) * (p.v.dim(2) * kWalkParts / kChunkDim);
  return static_cast<int>(std::clamp<std::int64_t>(info.num_sms / blocks, 1, kGdnMaxSegments));
}

bool has_chunk_dim(const ConstTensorView& heads) {
  return heads.dim(2) == 64 || heads.dim(2) == kChunkDim;
}

}  // namespace

const char* chunk_refusal(const ops::GdnParams& p) {
  if (!has_chunk_dim(p.k) || !has_chunk_dim(p.v)) {
    return "the chunked kernels have K and V of 64 and 128 only";
  }
  if (p.channel_decay()) return "the chunked kernels have one decay a head";
  if (p.q.dtype == DType::kF32) return "the chunked kernels take bf16 and f16, not f32";
  if (p.k.dtype != p.q.dtype || p.v.dtype != p.q.dtype || p.out.dtype != p.q.dtype) {
    return "the chunked kernels take q, k, v and out of one dtype";
  }
  for (const ConstTensorView& view : {p.q, p.k, p.v, ConstTensorView(p.out)}) {
    if (!rows_aligned(view)) return "the chunked kernels need heads aligned to 16 bytes";
    for (int d = 0; d < 2; ++d) {
      if (view.dim(d) > 1 && view.stride(d) <= 0) {
        return "the chunked kernels need strides over 0: the copy engine knows no others";
      }
    }
  }
  for (int d = 0; d < 3; ++d) {
    if (p.state.stride(d) % 2 != 0) return "the chunked kernels need rows of the state aligned";
  }
  return reinterpret_cast<std::uintptr_t>(p.state.data) % 8 == 0
             ? nullptr
             : "the chunked kernels need the state aligned to 8 bytes";
}

core::DeviceNeeds chunk_needs(const ops::GdnPrefillParams& p, const core::DeviceInfo& info) {
  const auto heads = static_cast<std::size_t>(p.v.dim(1));
  const auto records = static_cast<std::size_t>(p.rows.device->chunks) * heads;
  const auto cuts = static_cast<std::size_t>(most_segments(p, info) - 1) * heads;
  return {records * sizeof(ChunkRecord) + cuts * kCutBytes + boundary_bytes(p), 0};
}

ChunkParams chunk_params(const ops::GdnPrefillParams& p, const core::DeviceLaunch& launch) {
  ChunkParams out{};
  out.rows = *p.rows.device;
  out.q = HeadView(p.q);
  out.k = HeadView(p.k);
  out.v = HeadView(p.v);
  out.out = HeadView(p.out);
  out.log_decay = View(p.log_decay);
  out.beta = View(p.beta);
  out.state = View(p.state);
  out.records = reinterpret_cast<ChunkRecord*>(launch.scratch);
  out.segments = most_segments(p, *launch.info);
  const std::int64_t heads = p.v.dim(1), cuts = (out.segments - 1) * heads;
  out.checkpoints = p.checkpoints;
  out.boundary = reinterpret_cast<float*>(out.records + out.rows.chunks * heads);
  out.states.transfer = reinterpret_cast<TransferMatrix*>(out.boundary + p.checkpoints.host.count *
                                                                             heads * kStateFloats);
  out.states.local = reinterpret_cast<float*>(out.states.transfer + cuts);
  out.states.forgets = reinterpret_cast<std::int32_t*>(out.states.local + cuts * kStateFloats);
  out.tokens = p.q.dim(0);
  out.k_heads = static_cast<int>(p.k.dim(1));
  out.v_heads = static_cast<int>(p.v.dim(1));
  out.group = static_cast<int>(p.group);
  out.scale = p.scale;
  out.qk_l2norm = p.qk_l2norm;
  return out;
}

}  // namespace hybridattn::cuda
