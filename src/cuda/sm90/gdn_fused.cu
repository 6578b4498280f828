// Both halves of the chunked delta rule in one kernel, for rows and heads that fill the card: what
// the halves exchange stays in shared memory. A block: one head of one row after another. Two
// warpgroups walk, each with 64 of the V channels; one finds the matrices of the chunks ahead; of
// the last, a warp loads and three find factors.
#include "src/cuda/grid.cuh"
#include "src/cuda/sm90/gdn_fused_solve.cuh"
#include "src/cuda/sm90/gdn_step.cuh"
#include "src/cuda/sm90/gdn_walk.cuh"
#include "src/cuda/sm90/tensor_map.h"

namespace hybridattn::cuda {
namespace {

/// A chunk as a warpgroup that walks sees it.
struct WalkView {
  static constexpr bool kOutputs = true;
  static constexpr int kStateSteps = 4;
  FusedStage& stage;
  unsigned char* v;
  const ChunkFactors& factors;

  __device__ WalkView(FusedStage& of, int part)
      : stage(of), v(of.v[part]), factors(of.factors) {}
  __device__ unsigned char* keys(int half) const { return stage.kq[half][0]; }
  __device__ unsigned char* solve(int column) const { return stage.matrices.columns[column][kSolve]; }
};

template <class X>
__device__ void walk(const ChunkParams& p, FusedShared& shared) {
  WalkTask task = fused_task(p);
  const int part = static_cast<int>(threadIdx.x) / 128;
  task.first_v = part * kChannels;
  StateRows rows;
  rows.load(p, task);
  StageRing ring;
  for (int c = 0; c < task.chunks; ++c, ring.next()) {
    WalkView view(shared.stages[ring.stage()], part);
    const int left = task.row.length - c * kChunk;
    walk_chunk<X>(
        rows, view, true, [&] { wait_barrier(&shared.full[ring.stage()], ring.parity()); },
        [&] {
          wait_barrier(&shared.factored[ring.stage()], ring.parity());
          wait_barrier(&shared.solved[ring.stage()], ring.parity());
        },
        [&](const float* out) {
          const std::uint32_t tile = shared_address(view.v);
          if (left >= kChunk) {  // a Carrier takes it away
            put_output<X, 4>(tile + OutputPlace<X>::in_tile(), out);
            fence_async_proxy();
          } else {
            WalkTask here = task;
            here.row.start += c * kChunk;
            OutputPlace<X> place(p, here);
            store_output<4>(place, tile, out, left);
          }
        });
    arrive_as_warp(&shared.empty[ring.stage()]);
  }
  rows.store(p, task);
}

__device__ void begin_block(FusedShared& shared) {
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      init_barrier(&shared.full[s], 1);
      init_barrier(&shared.factored[s], 128);
      init_barrier(&shared.scored[s], 128);
      init_barrier(&shared.solved[s], 128);
      init_barrier(&shared.empty[s], 8 * kArrivalsOfWarp);
    }
    init_barrier(&shared.tail, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  for (auto& stage : shared.stages) {  // above the diagonals the matrices stay zero
    for (auto at = static_cast<int>(threadIdx.x); at < static_cast<int>(sizeof(ChunkMatrices)) / 16;
         at += kFusedThreads) {
      reinterpret_cast<uint4*>(&stage.matrices)[at] = make_uint4(0, 0, 0, 0);
    }
  }
  fence_async_proxy();
  __syncthreads();
}

template <class X>
__global__ void __launch_bounds__(kFusedThreads, 1)
    fused_kernel(const __grid_constant__ ChunkParams p, const __grid_constant__ FusedMaps maps) {
  extern __shared__ unsigned char raw[];
  auto& shared = aligned_shared<FusedShared>(raw);
  {
    const WalkTask task = fused_task(p);
    if (task.chunks == 0) return;
    if (task.row.slot == kPadIndex) return zero_out<X>(p, task, kChunkDim);
  }
#ifdef GDN_STAMPS
  for (int i = threadIdx.x; i < 16 * 12; i += 512) (&g_sh.sum[0][0])[i] = 0;
#endif
  begin_block(shared);
#ifdef GDN_STAMPS
  if (threadIdx.x % 32 == 0) g_sh.last[threadIdx.x / 32] = clock();
  __syncthreads();
#endif
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  if (warpgroup < 2) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 176;");
    walk<X>(p, shared);
  } else if (warpgroup == 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 80;");
    solve_chunks<X>(fused_task(p).chunks, shared);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 80;");
    const WalkTask task = fused_task(p);
    help_chunks<X>(p, task, Carrier(maps, task.head / p.group, task.head, shared), shared);
  }
#ifdef GDN_STAMPS
  __syncwarp();
  if (blockIdx.x == 5 && threadIdx.x % 32 < 12) g_stamps[threadIdx.x / 32][threadIdx.x % 32] = g_sh.sum[threadIdx.x / 32][threadIdx.x % 32];
#endif
}

}  // namespace

template <class X>
Status run_chunks_fused(const ChunkParams& p, const core::DeviceLaunch& launch) {
  constexpr int kBytes = static_cast<int>(sizeof(FusedShared)) + 1024;
  static_assert(kBytes <= 232448);
  HYBRIDATTN_TRY(allow_shared_memory("gdn_prefill", fused_kernel<X>, kBytes));
  FusedMaps maps;
  HYBRIDATTN_TRY(encode_maps(p, &maps.inputs));
  HYBRIDATTN_TRY(encode_token_boxes(p.out, p.tokens, p.v_heads, kChunkDim, &maps.out));
  const auto blocks = static_cast<unsigned>(p.rows.count * p.v_heads);
  fused_kernel<X><<<blocks, kFusedThreads, kBytes, stream_of(launch)>>>(p, maps);
  return check_launch("gdn_prefill");
}

#ifdef GDN_STAMPS
extern "C" __attribute__((visibility("default"))) void gdn_stamps(unsigned* out) { cudaMemcpyFromSymbol(out, g_stamps, sizeof(g_stamps)); }
#endif
template Status run_chunks_fused<__nv_bfloat16>(const ChunkParams&, const core::DeviceLaunch&);
template Status run_chunks_fused<__half>(const ChunkParams&, const core::DeviceLaunch&);

}  // namespace hybridattn::cuda
