// What one kernel for both halves of the chunked delta rule has of each chunk in shared memory, and
// the warps that bring it and find its factors.
#pragma once

#include "src/cuda/sm80/gdn_scale.cuh"
#include "src/cuda/sm80/gdn_state.cuh"
#include "src/cuda/sm90/gdn_stage.cuh"

namespace hybridattn::cuda {

/// A chunk of a whole head.
struct alignas(1024) FusedStage {
  static constexpr int kTiles = 6;
  unsigned char kq[2][2][kTileBytes];       // as in OutputStage
  unsigned char v[kWalkParts][kTileBytes];  // then the output
  ChunkMatrices matrices;
  ChunkFactors factors;
  HeadGates gates;
  RowNorms norms;
  ColumnFactors columns;
};

inline constexpr int kFusedThreads = 4 * 128;  // two warpgroups walk, one solves, one helps

struct FusedMaps {
  WalkMaps inputs;
  CUtensorMap out;
};

struct FusedShared {
  FusedStage stages[kStages];
  SolveShared solve;
  // Of a stage: its inputs are there; its factors; P; its matrices; what was made of it, or it may
  // be filled again.
  std::uint64_t full[kStages], factored[kStages], scored[kStages], solved[kStages], empty[kStages];
  std::uint64_t tail;
};

/// A place in the ring of stages, in one register: turns of even and odd parity after each other.
class StageRing {
 public:
  __device__ int stage() const { return at_ < kStages ? at_ : at_ - kStages; }
  __device__ int parity() const { return at_ < kStages ? 0 : 1; }
  __device__ void next() { at_ = at_ == 2 * kStages - 1 ? 0 : at_ + 1; }

 private:
  int at_ = 0;
};

/// What the block walks over: a whole head of a row.
__device__ inline WalkTask fused_task(const ChunkParams& p) {
  WalkTask task;
  auto block = static_cast<int>(blockIdx.x);
  asm volatile(""
               : "+r"(block));  // each warpgroup finds it again: nothing is kept before they part
  task.row = load_row(p.rows, block / p.v_heads);
  task.head = block % p.v_heads;
  task.first_v = 0;
  task.first_chunk = 0;
  task.chunks = (task.row.length + kChunk - 1) / kChunk;
  return task;
}

/// The warp that brings the inputs of chunks and takes away outputs, between other work.
class Carrier {
 public:
  __device__ Carrier(const ChunkParams& p, const FusedMaps& maps, const WalkTask& task,
                     FusedShared& shared)
      : maps_(maps), shared_(shared), head_(task.head), k_head_(task.head / p.group),
        first_(task.row.start), left_(task.row.length) {}

  /// The first chunks, of which there is room for as many as there are stages.
  __device__ void begin() {
    for (int i = 0; i < kStages; ++i) {
      const int left = left_ - i * kChunk, first = first_ + i * kChunk;
      if (left <= 0) break;
      if (is_first()) load_keys(shared_.stages[i], shared_.full[i], first, left);
      load_values(shared_.stages[i], shared_.full[i], first, left);
    }
  }
  /// Changes the oldest chunk of those before token `end`, if they are done with who walk: its
  /// output leaves, from the place of V, and the inputs of the next come to its stage.
  __device__ void try_change(int end) {
    if (!due(end)) return;
    const bool done = test_barrier(&shared_.empty[ring_.stage()], ring_.parity());
    if (__any_sync(kAllLanes, done)) change();
  }
  /// Waits for all of those before token `end`. Of a tail who walk store the output.
  __device__ void change_all(int end) {
    while (due(end)) change();
  }

 private:
  __device__ static bool is_first() { return threadIdx.x % 32 == 0; }
  __device__ bool due(int end) const { return left_ >= kChunk && first_ < end; }
  __device__ void change() {
    wait_barrier(&shared_.empty[ring_.stage()], ring_.parity());
    FusedStage& stage = shared_.stages[ring_.stage()];
    std::uint64_t& full = shared_.full[ring_.stage()];
    const int next = first_ + kStages * kChunk, next_left = left_ - kStages * kChunk;
    if (is_first()) {
#pragma unroll
      for (int part = 0; part < kWalkParts; ++part) {
        store_box(maps_.out, kChannels * part, head_, first_, stage.v[part]);
      }
      if (next_left > 0) load_keys(stage, full, next, next_left);
      wait_stored();
    }
    if (next_left > 0) load_values(stage, full, next, next_left);
    ring_.next();
    first_ += kChunk;
    left_ -= kChunk;
  }
  __device__ std::uint64_t* barrier(std::uint64_t& full, int count) {
    return count >= kChunk ? &full : &shared_.tail;
  }
  __device__ void load_keys(FusedStage& stage, std::uint64_t& full, int first, int count) {
    std::uint64_t* to = barrier(full, count);
    arrive_expecting(to, FusedStage::kTiles * kTileBytes);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      copy_box(stage.kq[half][0], maps_.inputs.k, 64 * half, k_head_, first, to);
      copy_box(stage.kq[half][1], maps_.inputs.q, 64 * half, k_head_, first, to);
    }
  }
  __device__ void load_values(FusedStage& stage, std::uint64_t& full, int first, int count) {
    if (is_first()) {
      std::uint64_t* to = barrier(full, count);
#pragma unroll
      for (int part = 0; part < kWalkParts; ++part) {
        copy_box(stage.v[part], maps_.inputs.v, kChannels * part, head_, first, to);
      }
    }
    if (count >= kChunk) {  // the first lane has arrived with the copies
      if (kArrivalsOfWarp > 1 && !is_first()) arrive(&full);
      return;
    }
    wait_barrier(&shared_.tail, 0);
    clear_tail(stage, count);
    fence_async_proxy();
    arrive_as_warp(&full);
  }

  const FusedMaps& maps_;
  FusedShared& shared_;
  int head_, k_head_;
  StageRing ring_;    // the oldest chunk whose output is here
  int first_, left_;  // its first token, tokens from there on
};

/// Factors of the rows of K and Q, by 128 threads: two lanes a row.
template <class X>
__device__ void find_norms(const ChunkParams& p, FusedStage& stage) {
  int thread = static_cast<int>(threadIdx.x) % 128;
  asm volatile("" : "+r"(thread));  // what follows from it would stay in registers
  const int row = thread / 2, half = thread % 2;
#pragma unroll
  for (int which = 0; which < 2; ++which) {  // Q stands behind K in each half
    const unsigned char* tile = stage.kq[half][which];
    const float squares = row_squares<X, 4>([&](int i) {
      return *reinterpret_cast<const uint4*>(tile + swizzled(row, i ^ (4 * half)));
    });
    const float factor = row_factor(squares, p.qk_l2norm, which == 0 ? 1.0f : p.scale);
    if (half == 0) (which == 0 ? stage.norms.key : stage.norms.query)[row] = factor;
  }
}

/// What a chunk is scaled with, once its gates and norms are there, by 128 threads.
__device__ inline void write_factors(FusedStage& stage) {
  int thread = static_cast<int>(threadIdx.x) % 128;
  asm volatile("" : "+r"(thread));
  if (thread < kChunk) {
    write_state_factors(stage.gates, stage.norms, thread, stage.factors);
  } else {
    write_update_factor(stage.gates, stage.norms, thread - kChunk, stage.factors);
  }
  if (thread < 96) {  // columns of the rows of the last three blocks: 16, 32 and 48 of them
    const int block = thread < 16 ? 1 : thread < 48 ? 2 : 3;
    const int j = thread - (block == 1 ? 0 : block == 2 ? 16 : 48);
    stage.columns[block][j] = column_factor(stage.gates, stage.norms, block, j);
  }
}

}  // namespace hybridattn::cuda
