// The kernel over tiles of 128 query rows: a warpgroup fetches keys and values, two multiply 64
// rows each.
#pragma once

#include "src/cuda/attention_join.cuh"
#include "src/cuda/grid.cuh"
#include "src/cuda/sm90/attention.cuh"
#include "src/cuda/sm90/attention_fetch.cuh"

namespace hybridattn::cuda {

constexpr int kWideThreads = kFetchers + 256;

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

/// The warpgroup's 64 query rows into shared memory.
template <class X, int D, class L>
__device__ void load_wide_queries(const AttentionCall& call, const ops::AttentionWork& work,
                                  int first, int kv_head, std::uint32_t to) {
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
template <class X, int D, class L>
class WideTile {
  static constexpr int kProducts = L::kKeys / 2;

 public:
  __device__ WideTile(const AttentionCall& call, const Piece& piece, int row, std::uint32_t q)
      : weights(
            {find_sight(call, piece.work(call), row), find_sight(call, piece.work(call), row + 8)}),
        call_(call), piece_(piece), row_(row), q_(q) {}

  __device__ void run(Ring<L>& ring) {
    const int begin = piece_.work(call_).begin, end = piece_.work(call_).end;
    if (begin >= end) return;
    float s[kProducts];
    std::uint32_t p[L::kKeys / 16][4];
    float fade[2];
    ring.wait_full();
    multiply_keys(ring.slot(), s);
    wait_products<0>();
    hold(s);
    release(ring);
    weigh(begin, s, fade);
    pack_weights(s, p);
    for (int first = begin + L::kKeys; first < end; first += L::kKeys) {
      Ring<L> values = ring;
      ring.next();  // past the values
      ring.wait_full();
      multiply_keys(ring.slot(), s);
      values.wait_full();
      add_values(values.slot(), p);
      wait_products<1>();
      hold(s);
      release(ring);
      weigh(first, s, fade);  // while values are multiplied
      wait_products<0>();
      hold_sums();
      arrive_as_warp(values.empty());
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
  /// What rows see is found again in each tile that is not seen whole: it would take registers.
  __device__ void weigh(int first, float (&s)[kProducts], float (&fade)[2]) {
    const float unit[2] = {1.0f, 1.0f};
    const auto sight = [&](int half) {
      return find_sight(call_, piece_.work(call_), row_ + 8 * half);
    };
    weights.weigh(call_, sight, first, unit, s, fade);
  }
  __device__ static void release(Ring<L>& ring) {
    arrive_as_warp(ring.empty());
    ring.next();
  }
  __device__ void hold_sums() {
#pragma unroll
    for (auto& half : sums.half) hold(half);
  }
  __device__ void multiply_keys(std::uint32_t keys, float (&s)[kProducts]) const {
    const std::uint64_t k = L::operand(keys);
    std::uint32_t place = q_;
    asm volatile("" : "+r"(place));  // or the places of all its columns would stay in registers
    const std::uint64_t q = L::operand(place);
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
  Piece piece_;
  int row_;
  std::uint32_t q_;
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
template <class X, int D, class L>
__device__ void multiply_works(const AttentionTileParams& p, int index, std::uint32_t queries,
                               Ring<L> ring) {
  const AttentionCall& call = p.call;
  const TileBarrier warpgroup(1 + index);
  const int warp = static_cast<int>(threadIdx.x / 32) % 4, lane = threadIdx.x % 32;
  const int row = 64 * index + 16 * warp + lane / 4;
  for_each_piece(call, [&](const Piece& piece) {
    const ops::AttentionWork& work = piece.work(call);
    if (work.first + 64 * index >= work.q_length * call.group.divisor()) {  // nothing of it is mine
      for (int first = work.begin; first < work.end; first += L::kKeys) {
        for (int slot = 0; slot < 2; ++slot) {
          ring.wait_full();
          arrive_as_warp(ring.empty());
          ring.next();
        }
      }
      return;
    }
    begin_tile<false>(p);
    warpgroup.sync();  // the last queries are read
    load_wide_queries<X, D, L>(call, work, 64 * index, piece.kv_head(call), queries);
    warpgroup.sync();
    WideTile<X, D, L> tile(call, piece, row, queries);
    tile.run(ring);
    tile.weights.finish();
    write_wide<X, D>(p, piece.work(call), piece.kv_head(call), row, tile.weights, tile.sums);
    if (piece.work(call).parts == 0) return;
    ops::AttentionWork mine = piece.work(call);
    mine.first += 64 * index;
    mine.part += 64 * index;
    PartJoin<X, D, 64>(p, mine, piece.kv_head(call), call.tables.many_rows, warpgroup).run();
  });
}

template <class X, int D, bool Boxes>
__global__ void __launch_bounds__(kWideThreads, 1)
    attention_wide_kernel(const __grid_constant__ AttentionTileParams p,
                          const __grid_constant__ CacheMaps maps) {
  using L = WideLayout<D, Boxes>;
  extern __shared__ std::byte raw[];
  std::uint32_t shared = (shared_address(raw) + 1023) & ~1023u;
  asm volatile("" : "+r"(shared));  // or all that follows would begin by aligning it
  Ring<L> ring{shared};
  if (threadIdx.x == 0) {
    for (; ring.passed < L::kSlots; ring.next()) {
      init_barrier(ring.full(), Boxes ? 1 : kFetchers);
      init_barrier(ring.empty(), 8 * kArrivalsOfWarp);
    }
    ring.passed = 0;
    init_barrier(ring.tail(), 1);
    fence_async_proxy();
  }
  __syncthreads();
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  if (warpgroup == 2) {
    take_registers<D>(false);
    if constexpr (Boxes) {
      if (threadIdx.x / 32 == 8) fetch_boxes<X, D>(p, maps, ring);
    } else {
      fetch_rows<X, D>(p, ring);
    }
  } else {
    take_registers<D>(true);
    const std::uint32_t queries = shared + L::kQueries + warpgroup * L::kQueryBytes;
    multiply_works<X, D>(p, warpgroup, queries, ring);
  }
  end_tiles();
}

template <class X, int D, bool Boxes>
Status run_wide(const AttentionTileParams& p, const CacheMaps& maps,
                const core::DeviceLaunch& launch) {
  constexpr int kBytes = WideLayout<D, Boxes>::kBytes;
  const auto kernel = attention_wide_kernel<X, D, Boxes>;
  HYBRIDATTN_TRY(allow_shared_memory("attention", kernel, kBytes));
  const auto blocks = std::min<std::int64_t>(std::int64_t{p.call.tables.num_many} * p.call.kv_heads,
                                             std::int64_t{launch.info->num_sms});
  return launch_early("attention", launch, kernel, dim3(static_cast<unsigned>(blocks)),
                      kWideThreads, kBytes, p, maps);
}

template <class X, int D>
Status run_attention_sm90(const AttentionTileParams& p, const core::DeviceLaunch& launch) {
  if (p.call.tables.num_many == 0) return {};
  CacheMaps maps{};
  if (!in_boxes(p.call)) return run_wide<X, D, false>(p, maps, launch);
  HYBRIDATTN_TRY(map_cache(p.call, D, &maps));
  return run_wide<X, D, true>(p, maps, launch);
}

}  // namespace hybridattn::cuda
