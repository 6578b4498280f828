// A block: one head of one row, 64 or 128 of its V channels. A warpgroup loads, one or two others
// hold 64 rows of S each in registers for the whole row and never exchange anything: S is the left
// operand of every product, converted in place.
#include "src/cuda/grid.cuh"
#include "src/cuda/sm90/gdn_walk.cuh"
#include "src/cuda/sm90/wgmma.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kTileBytes = kChunk * 128;  // 64 rows of 64 elements
constexpr int kLoaders = 128;

template <int Walkers>
struct WalkStage {
  /// Halves of the channels, in each K above Q: one product of S with both.
  unsigned char kq[2][2][kTileBytes];
  ChunkRecord record;
  unsigned char v[Walkers * kTileBytes];  // then the output
};

template <int Walkers>
struct WalkShared {
  static constexpr int kStages = 3;
  alignas(1024) WalkStage<Walkers> stages[kStages];
  std::uint64_t full[kStages], empty[kStages];
};

/// A loader's piece of each eighth row of a tile [64][64]: it is the same one in all of them.
template <class X>
__device__ void load_half_rows(unsigned char* tile, const View& x, std::int64_t first, int count,
                               int head, int column) {
  const int tid = static_cast<int>(threadIdx.x) % kLoaders;
  const int row = tid / 8;
  const std::uint32_t to = shared_address(tile) + swizzled(row, tid % 8);
  const X* from = x.as<const X>() + x.at(first + row, head, column + tid % 8 * 8);
  const std::int64_t step = x.stride[0] * (kLoaders / 8);
#pragma unroll
  for (int i = 0; i < kChunk * 8 / kLoaders; ++i) {
    const bool valid = row + i * (kLoaders / 8) < count;
    copy_async(to + i * (kLoaders / 8) * 128, valid ? from : x.as<const X>(), valid);
    from += step;
  }
}

/// What the block walks over.
struct WalkTask {
  Row row;
  int head, first_v, first_chunk, chunks;
};

/// Says that this thread's pieces of a chunk are there for matrix instructions; `Later` groups of
/// copies were begun after it.
template <int Later>
__device__ void publish_chunk(std::uint64_t* full) {
  wait_copies<Later>();
  fence_async_proxy();
  arrive(full);
}

template <class X, int Walkers>
__device__ void load_chunks(const ChunkParams& p, const WalkTask& task,
                            WalkShared<Walkers>& shared) {
  constexpr int kStages = WalkShared<Walkers>::kStages;
  for (int c = 0; c < task.chunks; ++c) {
    const int s = c % kStages;
    WalkStage<Walkers>& stage = shared.stages[s];
    if (c >= kStages) wait_barrier(&shared.empty[s], (c / kStages + 1) % 2);
    const std::int64_t first = task.row.start + c * kChunk;
    const int count = min(kChunk, task.row.length - c * kChunk);
    if (threadIdx.x % kLoaders == 0) {
      const std::int64_t chunk = task.first_chunk + c;
      arrive_expecting(&shared.full[s], sizeof(ChunkRecord));
      copy_bulk(&stage.record, &p.records[chunk * p.v_heads + task.head], sizeof(ChunkRecord),
                &shared.full[s]);
    }
    const int k_head = task.head / p.group;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      load_half_rows<X>(stage.kq[half][0], p.k, first, count, k_head, 64 * half);
      load_half_rows<X>(stage.kq[half][1], p.q, first, count, k_head, 64 * half);
    }
#pragma unroll
    for (int w = 0; w < Walkers; ++w) {
      load_half_rows<X>(stage.v + w * kTileBytes, p.v, first, count, task.head,
                        task.first_v + 64 * w);
    }
    commit_copies();
    // One chunk behind: its pieces have come. The fence is the loaders': those who multiply have no
    // time to wait for it.
    if (c > 0) publish_chunk<1>(&shared.full[(c - 1) % kStages]);
  }
  publish_chunk<0>(&shared.full[(task.chunks - 1) % kStages]);
}

/// The state's rows of a thread: g and g + 8 of its warp's 16, all columns.
template <class Visit>
__device__ void for_state(const WalkTask& task, int first_v, const Visit& visit) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = first_v + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int n = 0; n < kChunkDim / 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      visit(4 * n + 2 * half, row + 8 * half, 8 * n + lane % 4 * 2);
    }
  }
}

__device__ float2 load_pair(const View& x, std::int64_t at) {
  if (x.dtype == DType::kF32) return *reinterpret_cast<const float2*>(x.as<const float>() + at);
  return unpack<__nv_bfloat16>(
      *reinterpret_cast<const std::uint32_t*>(x.as<const __nv_bfloat16>() + at));
}
__device__ void store_pair(const View& x, std::int64_t at, float a, float b) {
  if (x.dtype == DType::kF32) {
    *reinterpret_cast<float2*>(x.as<float>() + at) = make_float2(a, b);
  } else {
    *reinterpret_cast<std::uint32_t*>(x.as<__nv_bfloat16>() + at) = pack<__nv_bfloat16>(a, b);
  }
}

/// Accumulators [64][16 Steps] as the left operand of a product.
template <class X, int Steps>
__device__ void to_operand(const float (&d)[64], std::uint32_t (&a)[Steps][4]) {
#pragma unroll
  for (int k = 0; k < Steps; ++k) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      a[k][r] = pack<X>(d[8 * k + 2 * r], d[8 * k + 2 * r + 1]);
    }
  }
}

/// The factors of this thread's columns 8 n + 2 t and the next.
__device__ float2 column_factors(const float* factors, int n) {
  return *reinterpret_cast<const float2*>(factors + 8 * n + threadIdx.x % 4 * 2);
}

/// Where a lane's output goes: 8 channels of each 16th token of a chunk.
template <class X>
struct OutputPlace {
  X* next;                 // of the lane's first token in this chunk
  std::int64_t each;       // elements between its tokens
  std::uint32_t to, from;  // addresses in the tile of V, which the output replaces

  __device__ OutputPlace(const ChunkParams& p, const WalkTask& task, int first_v) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) % 128 / 32;
    next = p.out.as<X>() +
           p.out.at(task.row.start + lane / 2, task.head, first_v + 16 * warp + lane % 2 * 8);
    each = 16 * p.out.stride[0];
    to = swizzled(lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2);
    from = swizzled(lane / 2, 2 * warp + lane % 2);
  }
};

/// The second half of xo to memory, by way of the tile: the warp's 16 channels of it are nobody
/// else's, and its V has been read.
template <class X>
__device__ void store_output(OutputPlace<X>& place, std::uint32_t tile, const float (&xo)[64],
                             int count) {
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const int at = 32 + 8 * pair;
    store_transposed(tile + place.to + pair * 2048, pack<X>(xo[at], xo[at + 1]),
                     pack<X>(xo[at + 2], xo[at + 3]), pack<X>(xo[at + 4], xo[at + 5]),
                     pack<X>(xo[at + 6], xo[at + 7]));
  }
  __syncwarp();
  const int token = static_cast<int>(threadIdx.x) % 32 / 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint4 piece = load_piece(tile + place.from + i * 2048);
    if (16 * i + token < count) *reinterpret_cast<uint4*>(place.next) = piece;
    place.next += place.each;
  }
}

template <class X, int Walkers>
__device__ void walk(const ChunkParams& p, const WalkTask& task, WalkShared<Walkers>& shared,
                     int walker) {
  constexpr int kStages = WalkShared<Walkers>::kStages;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) % 128 / 32;
  const int first_v = task.first_v + 64 * walker;
  float s[64];
  if (task.row.computed == 0) {
#pragma unroll
    for (int i = 0; i < 64; ++i) s[i] = 0.0f;
  } else {
    for_state(task, first_v, [&](int i, int v, int k) {
      const float2 pair = load_pair(p.state, p.state.at(task.row.slot, task.head, v, k));
      s[i] = pair.x;
      s[i + 1] = pair.y;
    });
  }
  OutputPlace<X> place(p, task, first_v);
  for (int c = 0; c < task.chunks; ++c) {
    WalkStage<Walkers>& stage = shared.stages[c % kStages];
    const ChunkRecord& record = stage.record;
    unsigned char* v_tile = stage.v + walker * kTileBytes;
    std::uint32_t state[8][4], operand[4][4], values[4][4];
    float xo[64];  // [64 channels][64 tokens] twice: S K^T, then U; S Q^T, then the output
    to_operand<X, 8>(s, state);
    wait_barrier(&shared.full[c % kStages], c / kStages % 2);
    begin_products();
#pragma unroll
    for (int step = 0; step < 8; ++step) {
      const std::uint32_t at = shared_address(stage.kq[step / 4]) + step % 4 * 32;
      multiply_rows<X>(xo, state[step], matrix_descriptor(at, 16), step > 0);
    }
    commit_products();
#pragma unroll
    for (int pair = 0; pair < 4; ++pair) {  // V^T of the warp's channels
      load_transposed(values[pair],
                      shared_address(v_tile) +
                          swizzled(16 * pair + lane / 16 * 8 + lane % 8, 2 * warp + lane / 8 % 2));
    }
    wait_products<0>();
    hold(xo);
    // V - exp(G) r S k, as the left operand.
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 key = column_factors(record.key_factor, n);
      const float2 query = column_factors(record.query_factor, n);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = 4 * n + 2 * half;
        const float2 v = unpack<X>(values[n / 2][n % 2 * 2 + half]);
        operand[n / 2][n % 2 * 2 + half] = pack<X>(v.x - key.x * xo[at], v.y - key.y * xo[at + 1]);
        xo[at] = xo[at + 1] = 0.0f;
        xo[32 + at] *= query.x;
        xo[32 + at + 1] *= query.y;
      }
    }
    begin_products();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      multiply_rows<X>(xo, operand[step],
                       matrix_descriptor(shared_address(record.solve) + step * 32, 16), 1);
    }
    commit_products();
    const float state_factor = record.state_factor;
#pragma unroll
    for (int i = 0; i < 64; ++i) s[i] *= state_factor;
    wait_products<0>();
    hold(xo);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 factor = column_factors(record.update_factor, n);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = 4 * n + 2 * half;
        operand[n / 2][n % 2 * 2 + half] = pack<X>(factor.x * xo[at], factor.y * xo[at + 1]);
      }
    }
    begin_products();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      const std::uint32_t at = shared_address(stage.kq) + step * 2048;
      multiply_columns<X>(s, operand[step], matrix_descriptor(at, 2 * kTileBytes));
    }
    commit_products();
    store_output<X>(place, shared_address(v_tile), xo, task.row.length - c * kChunk);
    wait_products<0>();
    hold(s);
    arrive_as_warp(&shared.empty[c % kStages]);
  }
  for_state(task, first_v, [&](int i, int v, int k) {
    store_pair(p.state, p.state.at(task.row.slot, task.head, v, k), s[i], s[i + 1]);
  });
}

/// Zeros for a padded row.
template <class X>
__device__ void zero_out(const ChunkParams& p, const WalkTask& task, int channels) {
  const int pieces = channels / 8;
  for (int at = static_cast<int>(threadIdx.x); at < task.row.length * pieces;
       at += static_cast<int>(blockDim.x)) {
    *reinterpret_cast<uint4*>(p.out.as<X>() + p.out.at(task.row.start + at / pieces, task.head,
                                                       task.first_v + at % pieces * 8)) =
        make_uint4(0, 0, 0, 0);
  }
}

template <class X, int Walkers>
__global__ void __launch_bounds__(kLoaders + 128 * Walkers, 1)
    walk_kernel(const __grid_constant__ ChunkParams p) {
  constexpr int kParts = 2 / Walkers;  // blocks of a head
  constexpr int kStages = WalkShared<Walkers>::kStages;
  extern __shared__ unsigned char raw[];
  auto& shared =
      *reinterpret_cast<WalkShared<Walkers>*>(raw + (1024 - (shared_address(raw) & 1023)) % 1024);
  const auto heads = static_cast<unsigned>(p.v_heads);
  const auto index = static_cast<int>(blockIdx.x / (heads * kParts));
  WalkTask task;
  task.row = load_row(p.rows, index);
  task.head = static_cast<int>(blockIdx.x / kParts % heads);
  task.first_v = static_cast<int>(blockIdx.x % kParts) * 64;
  task.first_chunk = p.rows.first_chunk[index];
  task.chunks = (task.row.length + kChunk - 1) / kChunk;
  if (task.chunks == 0) return;
  if (task.row.slot == kPadIndex) return zero_out<X>(p, task, 64 * Walkers);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      init_barrier(&shared.full[s], kLoaders + 1);
      init_barrier(&shared.empty[s], 4 * Walkers * kArrivalsOfWarp);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  if (threadIdx.x < kLoaders) {
    if constexpr (Walkers == 2) lower_registers<56>();
    load_chunks<X, Walkers>(p, task, shared);
  } else {
    if constexpr (Walkers == 2) raise_registers<224>();
    walk<X, Walkers>(p, task, shared, static_cast<int>(threadIdx.x) / 128 - 1);
  }
}

template <class X, int Walkers>
Status launch_walk(const ChunkParams& p, const core::DeviceLaunch& launch) {
  constexpr int kBytes = static_cast<int>(sizeof(WalkShared<Walkers>)) + 1024;
  HYBRIDATTN_TRY(allow_shared_memory("gdn_prefill", walk_kernel<X, Walkers>, kBytes));
  const auto blocks = static_cast<unsigned>(std::int64_t{p.rows.count} * p.v_heads * (2 / Walkers));
  walk_kernel<X, Walkers><<<blocks, kLoaders + 128 * Walkers, kBytes, stream_of(launch)>>>(p);
  return check_launch("gdn_prefill");
}

}  // namespace

template <class X>
Status walk_chunks_sm90(const ChunkParams& p, const core::DeviceLaunch& launch) {
  // Half a head to a block where whole heads would leave multiprocessors idle.
  if (std::int64_t{p.rows.count} * p.v_heads * 2 <= launch.info->num_sms) {
    return launch_walk<X, 1>(p, launch);
  }
  return launch_walk<X, 2>(p, launch);
}

template Status walk_chunks_sm90<__nv_bfloat16>(const ChunkParams&, const core::DeviceLaunch&);
template Status walk_chunks_sm90<__half>(const ChunkParams&, const core::DeviceLaunch&);

}  // namespace hybridattn::cuda
