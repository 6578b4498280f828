// The walk over chunks whose records lie in memory. A block: one head of one row, 64 of its V
// channels; a warpgroup walks, the last warp loads by the copy engine: copies by threads would take
// half of shared memory's time from the products. Blocks of whole heads, two warpgroups that share
// q and k, take as long as two of these one after the other, and longer where rows differ in
// length.
#include "src/cuda/grid.cuh"
#include "src/cuda/sm90/gdn_state.cuh"
#include "src/cuda/sm90/gdn_walk.cuh"
#include "src/cuda/sm90/tensor_map.h"

namespace hybridattn::cuda {
namespace {

constexpr int kWalkers = 128;            // a warpgroup
constexpr int kThreads = kWalkers + 32;  // and the loader
constexpr int kStages = 3;
constexpr int kChannels = 64;  // V channels of a block
constexpr int kParts = kChunkDim / kChannels;

struct alignas(1024) WalkStage {
  ChunkInputs inputs;
  ChunkMatrices matrices;
  ChunkFactors factors;
};

struct WalkShared {
  WalkStage stages[kStages];
  std::uint64_t full[kStages], empty[kStages], tail;
};

/// The inputs as the copy engine takes them.
struct WalkMaps {
  CUtensorMap q, k, v;
};

/// Begins a chunk's copies, which `barrier` counts. By one thread.
__device__ void begin_copies(const ChunkParams& p, const WalkMaps& maps, const WalkTask& task,
                             int c, WalkStage& stage, std::uint64_t* barrier) {
  const ChunkRecord& record = p.records[std::int64_t{task.first_chunk + c} * p.v_heads + task.head];
  const int first = task.row.start + c * kChunk;
  const int k_head = task.head / p.group;
  arrive_expecting(barrier, sizeof(stage.inputs) + sizeof(ChunkRecord));
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    copy_box(stage.inputs.kq[half][0], maps.k, 64 * half, k_head, first, barrier);
    copy_box(stage.inputs.kq[half][1], maps.q, 64 * half, k_head, first, barrier);
  }
  copy_box(stage.inputs.v, maps.v, task.first_v, task.head, first, barrier);
  auto* matrices = reinterpret_cast<unsigned char*>(&stage.matrices);
  int block = 0;
#pragma unroll
  for (int column = 0; column < 4; ++column) {
#pragma unroll
    for (int matrix = 0; matrix < 2; ++matrix) {
      copy_bulk(matrices + matrix_byte(block), record.matrices[block], (4 - column) * kBlockBytes,
                barrier);
      block += 4 - column;
    }
  }
  copy_bulk(&stage.factors, &record.factors, sizeof(ChunkFactors), barrier);
}

/// Zeros in the place of the tokens behind the row: they are another row's, and whatever they are,
/// its products with zero must be zero. By one warp.
__device__ void clear_tail(ChunkInputs& inputs, int count) {
  constexpr int kTiles = sizeof(inputs) / kTileBytes;
  auto* tile = reinterpret_cast<unsigned char*>(&inputs);
  for (int t = 0; t < kTiles; ++t, tile += kTileBytes) {
    for (int at = count * 128 + static_cast<int>(threadIdx.x) % 32 * 16; at < kTileBytes;
         at += 32 * 16) {
      *reinterpret_cast<uint4*>(tile + at) = make_uint4(0, 0, 0, 0);
    }
  }
}

/// The loads of all chunks, by one warp: its first lane arrives with the copies where these need
/// nothing more.
__device__ void load_chunks(const ChunkParams& p, const WalkMaps& maps, const WalkTask& task,
                            WalkShared& shared) {
  const bool first_lane = threadIdx.x % 32 == 0;
  for (int c = 0; c < task.chunks; ++c) {
    const int s = c % kStages;
    WalkStage& stage = shared.stages[s];
    if (c >= kStages) wait_barrier(&shared.empty[s], (c / kStages + 1) % 2);
    const int count = task.row.length - c * kChunk;
    const bool whole = count >= kChunk;
    if (first_lane) {
      begin_copies(p, maps, task, c, stage, whole ? &shared.full[s] : &shared.tail);
      if (whole) continue;
    }
    if (!whole) {
      wait_barrier(&shared.tail, 0);
      clear_tail(stage.inputs, count);
      fence_async_proxy();
    }
    arrive(&shared.full[s]);
  }
}

template <class X>
__device__ void walk(const ChunkParams& p, const WalkTask& task, WalkShared& shared) {
  StateRows rows;
  rows.load(p, task);
  OutputPlace<X> place(p, task);
  for (int c = 0; c < task.chunks; ++c) {
    const int s = c % kStages;
    WalkStage& stage = shared.stages[s];
    walk_chunk<X>(rows, place, stage.inputs, stage.matrices, stage.factors,
                  task.row.length - c * kChunk,
                  [&] { wait_barrier(&shared.full[s], c / kStages % 2); });
    arrive_as_warp(&shared.empty[s]);
  }
  rows.store(p, task);
}

__device__ void init_shared(WalkShared& shared) {
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      init_barrier(&shared.full[s], 32);
      init_barrier(&shared.empty[s], kWalkers / 32 * kArrivalsOfWarp);
    }
    init_barrier(&shared.tail, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  for (auto& stage : shared.stages) {  // what records leave out stays zero
    for (auto at = static_cast<int>(threadIdx.x); at < static_cast<int>(sizeof(ChunkMatrices)) / 16;
         at += static_cast<int>(blockDim.x)) {
      reinterpret_cast<uint4*>(&stage.matrices)[at] = make_uint4(0, 0, 0, 0);
    }
  }
  fence_async_proxy();
  __syncthreads();
}

template <class X>
__global__ void __launch_bounds__(kThreads, 1)
    walk_kernel(const __grid_constant__ ChunkParams p, const __grid_constant__ WalkMaps maps) {
  extern __shared__ unsigned char raw[];
  auto& shared = *reinterpret_cast<WalkShared*>(raw + (1024 - (shared_address(raw) & 1023)) % 1024);
  const auto heads = static_cast<unsigned>(p.v_heads);
  const auto index = static_cast<int>(blockIdx.x / (heads * kParts));
  WalkTask task;
  task.row = load_row(p.rows, index);
  task.head = static_cast<int>(blockIdx.x / kParts % heads);
  task.first_v = static_cast<int>(blockIdx.x % kParts) * kChannels;
  task.first_chunk = p.rows.first_chunk[index];
  task.chunks = (task.row.length + kChunk - 1) / kChunk;
  if (task.chunks == 0) return;
  if (task.row.slot == kPadIndex) return zero_out<X>(p, task, kChannels);
  init_shared(shared);
  if (threadIdx.x < kWalkers) {
    walk<X>(p, task, shared);
  } else {
    load_chunks(p, maps, task, shared);
  }
}

}  // namespace

template <class X>
Status walk_chunks_sm90(const ChunkParams& p, const core::DeviceLaunch& launch) {
  constexpr int kBytes = static_cast<int>(sizeof(WalkShared)) + 1024;
  HYBRIDATTN_TRY(allow_shared_memory("gdn_prefill", walk_kernel<X>, kBytes));
  WalkMaps maps;
  HYBRIDATTN_TRY(encode_token_boxes(p.q, p.tokens, p.k_heads, kChunkDim, &maps.q));
  HYBRIDATTN_TRY(encode_token_boxes(p.k, p.tokens, p.k_heads, kChunkDim, &maps.k));
  HYBRIDATTN_TRY(encode_token_boxes(p.v, p.tokens, p.v_heads, kChunkDim, &maps.v));
  const auto blocks = static_cast<unsigned>(std::int64_t{p.rows.count} * p.v_heads * kParts);
  walk_kernel<X><<<blocks, kThreads, kBytes, stream_of(launch)>>>(p, maps);
  return check_launch("gdn_prefill");
}

template Status walk_chunks_sm90<__nv_bfloat16>(const ChunkParams&, const core::DeviceLaunch&);
template Status walk_chunks_sm90<__half>(const ChunkParams&, const core::DeviceLaunch&);

}  // namespace hybridattn::cuda
