// What a walk over chunks has of each chunk in shared memory, and the warp that brings it by the
// copy engine: copies by threads would take half of shared memory's time from the products.
#pragma once

#include "src/cuda/sm80/gdn_state.cuh"
#include "src/cuda/sm90/wgmma.cuh"

namespace hybridattn::cuda {

inline constexpr int kTileBytes = kChunk * 128;  // 64 rows of 64 elements
inline constexpr int kWalkThreads = kWalkers + 32;
inline constexpr int kStages = 3;
/// The inputs as the copy engine takes them.
struct WalkMaps {
  CUtensorMap q, k, v;
};

/// A chunk for a walk that gives outputs.
struct alignas(1024) OutputStage {
  static constexpr bool kOutputs = true;
  static constexpr int kStateSteps = 8;
  static constexpr int kTiles = 5;
  /// Halves of the channels, in each K above Q: one product of S with both.
  unsigned char kq[2][2][kTileBytes];
  unsigned char v[kTileBytes];  // then the output
  ChunkMatrices matrices;
  ChunkFactors factors;

  __device__ unsigned char* keys(int half) { return kq[half][0]; }
  __device__ unsigned char* solve(int column) { return matrices.columns[column][kSolve]; }
};

/// A chunk for a walk that gives states alone, without Q and P T.
struct alignas(1024) StateStage {
  static constexpr bool kOutputs = false;
  static constexpr int kStateSteps = 8;
  static constexpr int kTiles = 3;
  unsigned char k[2][kTileBytes];
  unsigned char v[kTileBytes];
  unsigned char columns[4][kMatrixColumnBytes];
  ChunkFactors factors;

  __device__ unsigned char* keys(int half) { return k[half]; }
  __device__ unsigned char* solve(int column) { return columns[column]; }
};

template <class Stage>
struct WalkShared {
  Stage stages[kStages];
  std::uint64_t full[kStages], empty[kStages], tail;
  std::uint64_t transfer[2];  // of the matrices that come before the chunks
};

/// Shared memory of a block, aligned for the swizzles.
template <class Shared>
__device__ Shared& aligned_shared(unsigned char* raw) {
  return *reinterpret_cast<Shared*>(raw + (1024 - (shared_address(raw) & 1023)) % 1024);
}

/// Begins a chunk's copies, which `barrier` counts; `with_v`: those of V, too. By one thread.
template <class Stage>
__device__ void begin_copies(const ChunkParams& p, const WalkMaps& maps, const WalkTask& task,
                             int c, bool with_v, Stage& stage, std::uint64_t* barrier) {
  const ChunkRecord& record = p.records[std::int64_t{task.first_chunk + c} * p.v_heads + task.head];
  const int first = task.row.start + c * kChunk;
  const int k_head = task.head / p.group;
  constexpr int kMatrices = Stage::kOutputs ? 2 : 1;
  constexpr int kBytes = Stage::kTiles * kTileBytes + kLowerBlocks / 2 * kMatrices * kBlockBytes +
                         static_cast<int>(sizeof(ChunkFactors));
  arrive_expecting(barrier, kBytes - (with_v ? 0 : kTileBytes));
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    copy_box(stage.keys(half), maps.k, 64 * half, k_head, first, barrier);
    if constexpr (Stage::kOutputs) {
      copy_box(stage.kq[half][1], maps.q, 64 * half, k_head, first, barrier);
    }
  }
  if (with_v) copy_box(stage.v, maps.v, task.first_v, task.head, first, barrier);
#pragma unroll
  for (int column = 0; column < 4; ++column) {
#pragma unroll
    for (int matrix = 0; matrix < kMatrices; ++matrix) {
      copy_bulk(stage.solve(column) + matrix * kMatrixColumnBytes + column * kBlockBytes,
                record.matrices[record_block(matrix, column, column)], (4 - column) * kBlockBytes,
                barrier);
    }
  }
  copy_bulk(&stage.factors, &record.factors, sizeof(ChunkFactors), barrier);
}

/// Zeros in the place of the tokens behind the row: they are another row's, and whatever they are,
/// its products with zero must be zero. By one warp.
template <class Stage>
__device__ void clear_tail(Stage& stage, int count) {
  auto* tile = reinterpret_cast<unsigned char*>(&stage);
  for (int t = 0; t < Stage::kTiles; ++t, tile += kTileBytes) {
    for (int at = count * 128 + static_cast<int>(threadIdx.x) % 32 * 16; at < kTileBytes;
         at += 32 * 16) {
      *reinterpret_cast<uint4*>(tile + at) = make_uint4(0, 0, 0, 0);
    }
  }
}

/// The loads of all chunks, by one warp: its first lane arrives with the copies where these need
/// nothing more.
template <class Stage>
__device__ void load_chunks(const ChunkParams& p, const WalkMaps& maps, const WalkTask& task,
                            bool with_v, WalkShared<Stage>& shared) {
  const bool first_lane = threadIdx.x % 32 == 0;
  for (int c = 0; c < task.chunks; ++c) {
    const int s = c % kStages;
    Stage& stage = shared.stages[s];
    if (c >= kStages) wait_barrier(&shared.empty[s], (c / kStages + 1) % 2);
    const int count = task.row.length - c * kChunk;
    const bool whole = count >= kChunk;
    if (first_lane) {
      begin_copies(p, maps, task, c, with_v, stage, whole ? &shared.full[s] : &shared.tail);
      if (whole) continue;
    }
    if (!whole) {
      wait_barrier(&shared.tail, 0);
      clear_tail(stage, count);
      fence_async_proxy();
    }
    arrive(&shared.full[s]);
  }
}

/// By all threads of the block, who meet after it.
template <class Stage>
__device__ void init_barriers(WalkShared<Stage>& shared) {
  if (threadIdx.x != 0) return;
  for (int s = 0; s < kStages; ++s) {
    init_barrier(&shared.full[s], 32);
    init_barrier(&shared.empty[s], kWalkers / 32 * kArrivalsOfWarp);
  }
  init_barrier(&shared.tail, 1);
  for (auto& barrier : shared.transfer) init_barrier(&barrier, 1);
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// Zeros where the records leave out zeros. By all threads, who meet after it.
template <class Stage>
__device__ void clear_matrices(WalkShared<Stage>& shared) {
  constexpr int kColumns = Stage::kOutputs ? 8 : 4;
  for (auto& stage : shared.stages) {
    for (auto at = static_cast<int>(threadIdx.x); at < kColumns * kMatrixColumnBytes / 16;
         at += kWalkThreads) {
      reinterpret_cast<uint4*>(stage.solve(0))[at] = make_uint4(0, 0, 0, 0);
    }
  }
  fence_async_proxy();
}

}  // namespace hybridattn::cuda
