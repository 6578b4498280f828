// Both halves of the chunked delta rule in one kernel, for rows and heads that fill the card: what
// the halves exchange stays in shared memory. A block: one head of one row, in four warpgroups. Two
// walk, each with 64 of the V channels; one finds T and P T of the chunks ahead; the last finds
// factors and P, and its first warp moves what comes and goes.
#include <algorithm>

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

  __device__ WalkView(FusedStage& of, int part) : stage(of), v(of.v[part]), factors(of.factors) {}
  __device__ unsigned char* keys(int half) const { return stage.kq[half][0]; }
  __device__ unsigned char* solve(int column) const {
    return stage.matrices.columns[column][kSolve];
  }
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
      init_barrier(&shared.full[s], kArrivalsOfWarp);
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
  let_next_begin();
  wait_for_writers();
  auto& shared = aligned_shared<FusedShared>(raw);
  {
    const WalkTask task = fused_task(p);
    if (task.chunks == 0) return;
    if (task.row.slot == kPadIndex) return zero_out<X>(p, task, kChunkDim);
  }
  begin_block(shared);
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
    help_chunks<X>(p, task, Carrier(p, maps, task, shared), shared);
  }
}

/// Microseconds of a chunk and a multiprocessor: a key head's half that does not depend on the
/// state; the walk over half of a head; both over a head. Measured on an H100.
constexpr double kPrepare = 2.6, kWalk = 1.76, kFused = 3.5;

/// Rows for which that is done; where there are more they even out.
constexpr std::int32_t kMostRows = 64;

/// When multiprocessors end that are given walks in order, each to the first that is free.
class Schedule {
 public:
  explicit Schedule(std::int64_t processors) : groups_{{processors, 0}} {}

  void add(std::int64_t walks, std::int64_t chunks) {
    while (walks > 0) {
      Group* first = std::min_element(groups_, groups_ + size_, ends_before);
      const Group taken{std::min(walks, first->count), first->end + chunks};
      walks -= taken.count;
      first->count -= taken.count;
      if (first->count == 0) *first = groups_[--size_];
      Group* same = std::find_if(groups_, groups_ + size_,
                                 [&](const Group& other) { return other.end == taken.end; });
      if (same == groups_ + kMost) {  // too many to know apart
        std::max_element(groups_, groups_ + size_, ends_before)->count += taken.count;
      } else if (same == groups_ + size_) {
        groups_[size_++] = taken;
      } else {
        same->count += taken.count;
      }
    }
  }
  double end() const {
    return static_cast<double>(std::max_element(groups_, groups_ + size_, ends_before)->end);
  }

 private:
  static constexpr int kMost = 16;
  struct Group {
    std::int64_t count, end;
  };
  static bool ends_before(const Group& a, const Group& b) { return a.end < b.end; }

  Group groups_[kMost];
  int size_ = 1;
};

}  // namespace

bool fused_is_faster(const ops::GdnPrefillParams& p, const core::DeviceInfo& info) {
  const std::int64_t heads = p.v.dim(1), processors = info.num_sms;
  if (p.rows.count * heads < processors / 2) return false;
  std::int64_t chunks = 0, longest = 0;
  for (std::int32_t r = 0; r < p.rows.count; ++r) {
    const std::int64_t of_row = (p.rows.length[r] + kChunk - 1) / kChunk;
    chunks += of_row;
    longest = std::max(longest, of_row);
  }
  const auto end = [&](std::int64_t walks) {  // of each row
    const double even = static_cast<double>(chunks * walks) / static_cast<double>(processors);
    if (p.rows.count > kMostRows) return std::max(even, static_cast<double>(longest));
    Schedule schedule(processors);
    for (std::int32_t r = 0; r < p.rows.count; ++r) {
      if (p.rows.length[r] > 0) schedule.add(walks, (p.rows.length[r] + kChunk - 1) / kChunk);
    }
    return schedule.end();
  };
  const auto prepared = static_cast<double>(chunks * p.k.dim(1)) / static_cast<double>(processors);
  return kFused * end(heads) < kPrepare * prepared + kWalk * end(kWalkParts * heads);
}

template <class X>
Status run_chunks_fused(const ChunkParams& p, const core::DeviceLaunch& launch) {
  constexpr int kBytes = static_cast<int>(sizeof(FusedShared)) + 1024;
  static_assert(kBytes <= 232448);
  HYBRIDATTN_TRY(allow_shared_memory("gdn_prefill", fused_kernel<X>, kBytes));
  FusedMaps maps;
  HYBRIDATTN_TRY(encode_maps(p, &maps.inputs));
  HYBRIDATTN_TRY(encode_token_boxes(p.out, p.tokens, p.v_heads, kChunkDim, &maps.out));
  const auto blocks = static_cast<unsigned>(p.rows.count * p.v_heads);
  return launch_early("gdn_prefill", launch, fused_kernel<X>, blocks, kFusedThreads, kBytes, p,
                      maps);
}

template Status run_chunks_fused<__nv_bfloat16>(const ChunkParams&, const core::DeviceLaunch&);
template Status run_chunks_fused<__half>(const ChunkParams&, const core::DeviceLaunch&);

}  // namespace hybridattn::cuda
