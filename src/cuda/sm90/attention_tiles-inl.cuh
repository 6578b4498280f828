// The kernel over tiles of 128 query rows: a warpgroup fetches keys and values, two multiply 64
// rows each.
#pragma once

#include "src/cuda/attention_fetch.cuh"
#include "src/cuda/attention_weights.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/sm90/attention.cuh"
#include "src/cuda/sm90/wgmma.cuh"

namespace hybridattn::cuda {

/// Matrices in shared memory stand 8 rows after the other, those in groups of 64 columns: rows of
/// 128 bytes in the 128-byte swizzle.
template <int D>
struct WideLayout {
  static constexpr int kTeam = 4;  // warps that fetch
  static constexpr int kKeys = D >= 256 ? 64 : 128;
  static constexpr int kLoads = kKeys / kTeam;
  static constexpr int kRowBytes = D * 2;
  static constexpr int kGroupBytes = 1024;           // 64 columns of 8 rows
  static constexpr int kBlockBytes = 8 * kRowBytes;  // 8 rows
  static constexpr int kTileBytes = kKeys * kRowBytes;
  static constexpr int kSlots = 4;                    // keys and values of two tiles
  static constexpr int kQueryBytes = 64 * kRowBytes;  // of one warpgroup
  static constexpr int kQueries = kSlots * kTileBytes;
  static constexpr int kBarriers = kQueries + 2 * kQueryBytes;
  static constexpr int kNowhere = kBarriers + 2 * kSlots * 8;
  static constexpr int kBytes = kNowhere + 1024 + 1024;  // to align all

  static __device__ std::uint32_t place(int row, int piece) {
    return static_cast<std::uint32_t>(row / 8 * kBlockBytes + piece / 8 * kGroupBytes +
                                      row % 8 * 128 + (piece % 8 ^ row % 8) * 16);
  }
  static __device__ std::uint64_t operand(std::uint32_t address) {
    return matrix_descriptor(address, kGroupBytes, kBlockBytes);
  }
};

constexpr int kFetchers = 128, kWideThreads = kFetchers + 256;

/// Who multiplies needs registers that who fetches does not.
template <int D>
__device__ void take_registers(bool multiplies) {
  if constexpr (D >= 256) {
    if (multiplies) {
      asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    } else {
      asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    }
  } else {
    if (multiplies) {
      asm volatile("setmaxnreg.inc.sync.aligned.u32 216;");
    } else {
      asm volatile("setmaxnreg.dec.sync.aligned.u32 72;");
    }
  }
}

/// Slots of the ring pass in order: keys and values of one tile after the other, of all tiles of
/// all works of the block.
template <class L>
struct Ring {
  std::uint64_t *full, *empty;
  std::uint32_t slots;
  int at = 0, round = 0;

  __device__ std::uint32_t slot() const { return slots + at * L::kTileBytes; }
  /// What was copied there is there for matrix instructions too.
  __device__ void wait_full() const {
    wait_barrier(&full[at], round & 1);
    fence_async_proxy();
  }
  __device__ void wait_empty() const { wait_barrier(&empty[at], ~round & 1); }
  __device__ void next() {
    if (++at == L::kSlots) at = 0, ++round;
  }
};

/// The works of this block, as attention_tiles_kernel shares them out.
template <class Run>
__device__ void for_each_work(const AttentionCall& call, const Run& run) {
  const int heads = call.kv_heads, count = call.tables.counts[1] * heads;
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  for (int first = 0, back = 0; first < count; first += blocks, back ^= 1) {
    const int at = first + (back != 0 ? blocks - 1 - block : block);
    if (at < count) run(call.tables.many[at / heads], at % heads);
  }
}

/// The fetching warpgroup.
template <class X, int D>
__device__ void fetch_works(const AttentionTileParams& p, Ring<WideLayout<D>> ring) {
  using L = WideLayout<D>;
  const AttentionCall& call = p.call;
  for_each_work(call, [&](const ops::AttentionWork& work, int kv_head) {
    KeyFetcher<X, L> keys(call, work, kv_head, lowest_key(call, work), work.begin);
    for (int first = work.begin; first < work.end; first += L::kKeys) {
      keys.turn(first + L::kKeys);
      begin_tile<false>(p);  // the work and the pages were there before the kernel that came before
      ring.wait_empty();
      keys.fetch_keys(ring.slot());
      arrive_when_copied(&ring.full[ring.at]);
      ring.next();
      ring.wait_empty();
      keys.fetch_values(ring.slot());
      arrive_when_copied(&ring.full[ring.at]);
      ring.next();
    }
  });
  wait_copies<0>();
}

__device__ inline void sync_warpgroup(int index) {
  asm volatile("bar.sync %0, 128;" ::"r"(1 + index) : "memory");
}

/// The warpgroup's 64 query rows into shared memory.
template <class X, int D>
__device__ void load_wide_queries(const AttentionCall& call, const ops::AttentionWork& work,
                                  int first, int kv_head, std::uint32_t to) {
  using L = WideLayout<D>;
  constexpr int kPieces = D / 8;
  const int query_rows = work.q_length * call.group.divisor();
#pragma unroll 4
  for (int i = threadIdx.x % 128; i < 64 * kPieces; i += 128) {
    const int row = i / kPieces, piece = i % kPieces, query_row = work.first + first + row;
    const bool there = query_row < query_rows;
    const int token = there ? call.group.quotient(query_row) : 0;
    const int head =
        kv_head * call.group.divisor() + (there ? query_row - token * call.group.divisor() : 0);
    copy_async(to + L::place(row, piece),
               call.q.as<const X>() + call.q.at(work.q_start + token, head, 8 * piece), there);
  }
  commit_copies();
  wait_copies<0>();
  fence_async_proxy();
}

/// Sums of values of a lane: two rows of 128 dims each, of D / 128 halves.
template <int D>
struct WideSums {
  static constexpr int kHalves = D >= 128 ? D / 128 : 1;
  static constexpr int kFloats = D >= 128 ? 64 : 32;
  float half[kHalves][kFloats] = {};
};

/// One tile of 64 rows of one key head over its keys.
template <class X, int D>
class WideTile {
  using L = WideLayout<D>;
  static constexpr int kProducts = L::kKeys / 2;

 public:
  __device__ WideTile(const AttentionCall& call, std::uint32_t q, std::uint32_t nowhere,
                      const Sight (&sight)[2])
      : weights(sight), call_(call), q_(L::operand(q)), nowhere_(nowhere) {}

  __device__ void run(const ops::AttentionWork& work, Ring<L>& ring) {
    const int tiles = (work.end - work.begin + L::kKeys - 1) / L::kKeys;
    if (tiles == 0) return;
    float s[kProducts];
    std::uint32_t p[L::kKeys / 16][4];
    float fade[2];
    const float unit[2] = {1.0f, 1.0f};
    ring.wait_full();
    multiply_keys(ring.slot(), s);
    wait_products<0>();
    hold(s);
    release(ring);
    weights.weigh(call_, work.begin, unit, s, fade);
    pack_weights(s, p);
    for (int i = 1; i < tiles; ++i) {
      Ring<L> values = ring;
      ring.next();  // past the values
      ring.wait_full();
      multiply_keys(ring.slot(), s);
      values.wait_full();
      add_values(values.slot(), p);
      wait_products<1>();
      hold(s);
      release(ring);
      weights.weigh(call_, work.begin + i * L::kKeys, unit, s, fade);
      finish_before(nowhere_, weights.sum[0] + weights.sum[1]);  // while values are multiplied
      wait_products<0>();
      hold_sums();
      arrive_as_warp(&values.empty[values.at]);
#pragma unroll
      for (auto& half : sums.half) fade_sums(half, fade);
      pack_weights(s, p);
    }
    ring.wait_full();
    add_values(ring.slot(), p);
    wait_products<0>();
    hold_sums();
    release(ring);
  }

  RowWeights weights;
  WideSums<D> sums;

 private:
  __device__ static void release(Ring<L>& ring) {
    arrive_as_warp(&ring.empty[ring.at]);
    ring.next();
  }
  __device__ void hold_sums() {
#pragma unroll
    for (auto& half : sums.half) hold(half);
  }
  __device__ void multiply_keys(std::uint32_t keys, float (&s)[kProducts]) const {
    const std::uint64_t k = L::operand(keys);
    std::uint64_t q = q_;
    asm volatile("" : "+l"(q));  // or the places of all its columns would stay in registers
    begin_products();
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      const int at = step / 4 * L::kGroupBytes + step % 4 * 32;
      multiply_shared<X>(s, advance(q, at), advance(k, at), step > 0);
    }
    commit_products();
  }
  __device__ void add_values(std::uint32_t values, const std::uint32_t (&p)[L::kKeys / 16][4]) {
    const std::uint64_t v = L::operand(values);
    begin_products();
#pragma unroll
    for (int step = 0; step < L::kKeys / 16; ++step) {
#pragma unroll
      for (int half = 0; half < WideSums<D>::kHalves; ++half) {
        multiply_columns<X>(sums.half[half], p[step],
                            advance(v, 2 * half * L::kGroupBytes + 2 * step * L::kBlockBytes));
      }
    }
    commit_products();
  }
  __device__ static void pack_weights(const float (&s)[kProducts],
                                      std::uint32_t (&p)[L::kKeys / 16][4]) {
#pragma unroll
    for (int step = 0; step < L::kKeys / 16; ++step) as_operand<X>(s, 8 * step, p[step]);
  }

  const AttentionCall& call_;
  std::uint64_t q_;
  std::uint32_t nowhere_;
};

/// A lane's sums of two rows, two dims here and there, as four neighbours: lanes swap in pairs.
template <class X, int D>
__device__ void write_wide(const AttentionTileParams& p, const ops::AttentionWork& work,
                           int kv_head, int row, const RowWeights& weights,
                           const WideSums<D>& sums) {
  const int t = threadIdx.x % 4;
  const bool odd = t % 2 != 0;
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const RowWriter<X, D> writer(p, work, kv_head, row + 8 * e, weights.top[e], weights.sum[e]);
#pragma unroll
    for (int half = 0; half < WideSums<D>::kHalves; ++half) {
#pragma unroll
      for (int j = 0; j < WideSums<D>::kFloats / 4; j += 2) {
        const float* near = &sums.half[half][4 * j + 2 * e];
        const float* far = near + 4;
        const float2 mine = odd ? make_float2(far[0], far[1]) : make_float2(near[0], near[1]);
        const float2 other = odd ? make_float2(near[0], near[1]) : make_float2(far[0], far[1]);
        const float x = __shfl_xor_sync(kAllLanes, other.x, 1);
        const float y = __shfl_xor_sync(kAllLanes, other.y, 1);
        const int d = 128 * half + 8 * (j + (odd ? 1 : 0)) + 4 * (t / 2);
        writer.write(d,
                     odd ? make_float4(x, y, mine.x, mine.y) : make_float4(mine.x, mine.y, x, y));
      }
    }
  }
}

/// A multiplying warpgroup.
template <class X, int D>
__device__ void multiply_works(const AttentionTileParams& p, int index, std::uint32_t queries,
                               Ring<WideLayout<D>> ring) {
  using L = WideLayout<D>;
  const AttentionCall& call = p.call;
  const std::uint32_t nowhere = ring.slots + L::kNowhere + 4 * threadIdx.x;
  const int warp = static_cast<int>(threadIdx.x / 32) % 4, lane = threadIdx.x % 32;
  const int row = 64 * index + 16 * warp + lane / 4;
  for_each_work(call, [&](const ops::AttentionWork& work, int kv_head) {
    if (work.first + 64 * index >= work.q_length * call.group.divisor()) {  // nothing of it is mine
      for (int first = work.begin; first < work.end; first += L::kKeys) {
        for (int slot = 0; slot < 2; ++slot) {
          ring.wait_full();
          arrive_as_warp(&ring.empty[ring.at]);
          ring.next();
        }
      }
      return;
    }
    begin_tile<false>(p);
    sync_warpgroup(index);  // the last queries are read
    load_wide_queries<X, D>(call, work, 64 * index, kv_head, queries);
    sync_warpgroup(index);
    Sight sight[2];
    find_sights(call, work, row, sight);
    WideTile<X, D> tile(call, queries, nowhere, sight);
    tile.run(work, ring);
    tile.weights.finish();
    write_wide<X, D>(p, work, kv_head, row, tile.weights, tile.sums);
  });
}

template <class X, int D>
__global__ void __launch_bounds__(kWideThreads, 1)
    attention_wide_kernel(const __grid_constant__ AttentionTileParams p) {
  using L = WideLayout<D>;
  extern __shared__ std::byte raw[];
  std::byte* shared = raw + (-shared_address(raw) & 1023);
  auto* full = reinterpret_cast<std::uint64_t*>(shared + L::kBarriers);
  Ring<L> ring{full, full + L::kSlots, shared_address(shared)};
  if (threadIdx.x == 0) {
    for (int i = 0; i < L::kSlots; ++i) {
      init_barrier(&ring.full[i], kFetchers);
      init_barrier(&ring.empty[i], 8 * kArrivalsOfWarp);
    }
    fence_async_proxy();
  }
  __syncthreads();
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  if (warpgroup == 2) {
    take_registers<D>(false);
    fetch_works<X, D>(p, ring);
  } else {
    take_registers<D>(true);
    const std::uint32_t queries = shared_address(shared) + L::kQueries + warpgroup * L::kQueryBytes;
    multiply_works<X, D>(p, warpgroup, queries, ring);
  }
  end_tiles();
}

template <class X, int D>
Status run_attention_sm90(const AttentionTileParams& p, const core::DeviceLaunch& launch) {
  const int works = p.call.tables.num_many;
  if (works == 0) return {};
  constexpr int kBytes = WideLayout<D>::kBytes;
  const auto kernel = attention_wide_kernel<X, D>;
  HYBRIDATTN_TRY(allow_shared_memory("attention", kernel, kBytes));
  const auto blocks = std::min<std::int64_t>(std::int64_t{works} * p.call.kv_heads,
                                             std::int64_t{launch.info->num_sms});
  return launch_early("attention", launch, kernel, dim3(static_cast<unsigned>(blocks)),
                      kWideThreads, kBytes, p);
}

}  // namespace hybridattn::cuda
