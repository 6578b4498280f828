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
  unsigned char kq[2][2][kTileBytes];         // as in OutputStage
  unsigned char v[kWalkParts][kTileBytes];    // then the output
  ChunkMatrices matrices;
  ChunkFactors factors;
  HeadGates gates;
  RowNorms norms;
  ColumnFactors columns;
};

inline constexpr int kFusedThreads = 4 * 128;  // two warpgroups walk, one solves, one helps
inline constexpr int kHelpers = 96;            // threads that find factors

struct FusedShared {
  FusedStage stages[kStages];
  SolveShared solve;
  // Of a stage: its inputs are there; its factors; its matrices; it may be filled again.
  std::uint64_t full[kStages], factored[kStages], solved[kStages], empty[kStages];
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
  task.row = load_row(p.rows, static_cast<int>(blockIdx.x) / p.v_heads);
  task.head = static_cast<int>(blockIdx.x) % p.v_heads;
  task.first_v = 0;
  task.first_chunk = 0;
  task.chunks = (task.row.length + kChunk - 1) / kChunk;
  return task;
}

/// The inputs of all chunks, by one warp: see load_chunks.
__device__ inline void load_inputs(const ChunkParams& p, const WalkMaps& maps, const WalkTask& task,
                                   FusedShared& shared) {
  const bool first_lane = threadIdx.x % 32 == 0;
  const int k_head = task.head / p.group;
  StageRing ring;
  int first = task.row.start;
  for (int count = task.row.length; count > 0; count -= kChunk, first += kChunk, ring.next()) {
    FusedStage& stage = shared.stages[ring.stage()];
    if (first >= task.row.start + kStages * kChunk) wait_barrier(&shared.empty[ring.stage()], ring.parity() ^ 1);
    const bool whole = count >= kChunk;
    std::uint64_t* full = &shared.full[ring.stage()];
    if (first_lane) {
      std::uint64_t* barrier = whole ? full : &shared.tail;
      arrive_expecting(barrier, FusedStage::kTiles * kTileBytes);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        copy_box(stage.kq[half][0], maps.k, 64 * half, k_head, first, barrier);
        copy_box(stage.kq[half][1], maps.q, 64 * half, k_head, first, barrier);
      }
#pragma unroll
      for (int part = 0; part < kWalkParts; ++part) {
        copy_box(stage.v[part], maps.v, kChannels * part, task.head, first, barrier);
      }
      if (whole) continue;
    }
    if (!whole) {
      wait_barrier(&shared.tail, 0);
      clear_tail(stage, count);
      fence_async_proxy();
    }
    arrive(full);
  }
}

/// Norms of the rows of K or Q, by one warp; Q stands behind K in each half.
template <class X>
__device__ void find_norms(const FusedStage& stage, int which, bool normalize, float scale,
                           float* out) {
  int lane = static_cast<int>(threadIdx.x) % 32;
  asm volatile("" : "+r"(lane));  // what follows from it would stay in registers
  const unsigned char* tile = stage.kq[lane % 2][which];
#pragma unroll 1
  for (int row = lane / 2; row < kChunk; row += 16) {
    const float squares = row_squares<X, 2>([&](int i) {
      return *reinterpret_cast<const uint4*>(tile + swizzled(row, i ^ (4 * (lane % 2))));
    });
    if (lane % 2 == 0) out[row] = row_factor(squares, normalize, scale);
  }
}

/// The factors of all chunks of a head, by the three warps behind the one that loads.
template <class X>
__device__ void find_factors(const ChunkParams& p, const WalkTask& task, FusedShared& shared) {
  StageRing ring;
  int first = task.row.start;
  for (int count = task.row.length; count > 0; count -= kChunk, first += kChunk, ring.next()) {
    FusedStage& stage = shared.stages[ring.stage()];
    int thread = static_cast<int>(threadIdx.x) % 128 - 32, head = task.head;
    asm volatile("" : "+r"(thread), "+r"(head));  // what follows from them would stay in registers
    const int lane = thread % 32;
    if (thread < 32) {
      wait_barrier(&shared.full[ring.stage()], ring.parity());
      const LaneGates gates(p, first, count, head);
      sum_decays(gates, stage.gates.sum_high, stage.gates.sum_low);
      *reinterpret_cast<float2*>(&stage.gates.beta[2 * lane]) =
          make_float2(gates.beta[0], gates.beta[1]);
    } else {
      wait_barrier(&shared.full[ring.stage()], ring.parity());
      const bool keys = thread < 64;
      find_norms<X>(stage, keys ? 0 : 1, p.qk_l2norm, keys ? 1.0f : p.scale,
                    keys ? stage.norms.key : stage.norms.query);
    }
    asm volatile("bar.sync 2, %0;" ::"n"(kHelpers) : "memory");
    if (thread < 64) {
      write_state_factors(stage.gates, stage.norms, thread, stage.factors);
    } else {
      write_update_factor(stage.gates, stage.norms, lane, stage.factors);
      write_update_factor(stage.gates, stage.norms, lane + 32, stage.factors);
    }
    // Columns of the rows of the last three blocks: 16, 32 and 48 of them.
    const int block = thread < 16 ? 1 : thread < 48 ? 2 : 3;
    const int j = thread - (block == 1 ? 0 : block == 2 ? 16 : 48);
    stage.columns[block][j] = column_factor(stage.gates, stage.norms, block, j);
    arrive(&shared.factored[ring.stage()]);
  }
}

}  // namespace hybridattn::cuda
