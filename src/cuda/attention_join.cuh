// The parts of a tile are added up by whichever of its blocks is done last: no kernel need follow.
#pragma once

#include "src/cuda/attention_weights.cuh"

namespace hybridattn::cuda {

/// Threads that work on a tile together.
inline constexpr int kTileThreads = 128;

/// Their barrier, by number: 0 where they are the block.
class TileBarrier {
 public:
  __device__ explicit TileBarrier(int id) : id_(id) {}
  __device__ void sync() const { asm volatile("bar.sync %0, 128;" ::"r"(id_) : "memory"); }
  /// Whether `mine` holds for one of the threads, who all meet.
  __device__ bool any(bool mine) const {
    int found;
    asm volatile(
        "{\n.reg .pred p, q;\nsetp.ne.u32 p, %1, 0;\n"
        "barrier.cta.red.or.pred q, %2, 128, p;\nselp.u32 %0, 1, 0, q;\n}"
        : "=r"(found)
        : "r"(static_cast<int>(mine)), "r"(id_)
        : "memory");
    return found != 0;
  }

 private:
  int id_;
};

/// Sums of a query row from some parts on: relative to `top`, the largest log2 logit.
struct JoinedRow {
  float top = -INFINITY, sum = 0.0f;
  float4 total{};

  __device__ void add(float2 edge, const float4& sums) {
    const float higher = fmaxf(top, edge.x), zero = higher == -INFINITY ? 0.0f : higher;
    const float mine = power_of_two(top - zero), its = power_of_two(edge.x - zero);
    // Which product is rounded is not left to the compiler: the same bits in every kernel.
    const auto both = [&](float a, float b) { return fmaf(a, mine, __fmul_rn(b, its)); };
    top = higher;
    sum = both(sum, edge.y);
    total = make_float4(both(total.x, sums.x), both(total.y, sums.y), both(total.z, sums.z),
                        both(total.w, sums.w));
  }
};

/// Adds up the parts of `Rows` query rows of one key head: of `work`, which begins with them.
template <class X, int D, int Rows>
class PartJoin {
  static constexpr int kFours = D / 4;
  static constexpr int kAtOnce = 8;  // loads of a thread that are on their way

 public:
  /// `tile`: query rows of a part.
  __device__ PartJoin(const AttentionTileParams& p, const ops::AttentionWork& work, int kv_head,
                      int tile, const TileBarrier& barrier)
      : p_(p), work_(work), kv_head_(kv_head), tile_(tile), barrier_(barrier) {}

  /// After the part of this piece is written. Sums add up in the order of the keys, whoever is
  /// last.
  __device__ void run() const {
    const int parts = work_.parts;
    if (parts == 0) return;
    const int group = ops::attention_join_group(parts);
    const int first = work_.part - work_.piece * tile_;  // place of the first part
    const int mine = work_.piece / group;
    const int count = min(group, parts - mine * group);
    if (!last_of(first + mine * group * tile_, count)) return;
    if (group == parts) {
      join<true>(first, parts, 0);
      return;
    }
    const int groups = (parts + group - 1) / group, sums = first + parts * tile_;
    join<false>(first + mine * group * tile_, count, sums + mine * tile_);
    if (last_of(sums, groups)) join<true>(sums, groups, 0);
  }

 private:
  /// Counts this block among `count` that have written; true for the last, which sees what all
  /// wrote and leaves the counter as it was found.
  __device__ bool last_of(int place, int count) const {
    __threadfence();
    barrier_.sync();
    bool last = false;
    if (thread() == 0) {
      const int at = place / ops::kAttentionFewRows * p_.call.kv_heads + kv_head_;
      std::int32_t* arrived = p_.call.tables.arrived + at;
      last = atomicAdd(arrived, 1) == count - 1;
      if (last) *arrived = 0;
    }
    last = barrier_.any(last);
    if (last) __threadfence();
    return last;
  }

  __device__ std::int64_t place_of(int part) const {
    return kv_head_ * p_.call.tables.part_rows + std::int64_t{part};
  }
  static __device__ int thread() { return static_cast<int>(threadIdx.x) % kTileThreads; }

  /// Parts from place `first` on into the output, or into the part at `to`.
  template <bool Out>
  __device__ void join(int first, int count, int to) const {
    const int query_rows = work_.q_length * p_.call.group.divisor();
    const int rows = min(Rows, query_rows - work_.first);
    const std::int64_t from = place_of(first);
    if (count <= 2) {
      for (int i = thread(); i < rows * kFours; i += kAtOnce / 2 * kTileThreads) {
        add_up<Out, kAtOnce / 2, 2>(i, rows * kFours, from, count, to);
      }
    } else {
      for (int i = thread(); i < rows * kFours; i += kTileThreads) {
        add_up<Out, 1, kAtOnce>(i, rows * kFours, from, count, to);
      }
    }
  }

  /// Elements i, i + kTileThreads, ... of `all`, each four sums of a row.
  template <bool Out, int Elements, int Parts>
  __device__ void add_up(int i, int all, std::int64_t from, int count, int to) const {
    JoinedRow rows[Elements];
    for (int part = 0; part < count; part += Parts) {
      float2 edge[Elements][Parts];
      float4 sums[Elements][Parts];
#pragma unroll
      for (int e = 0; e < Elements; ++e) {
        const int at = min(i + e * kTileThreads, all - 1);
#pragma unroll
        for (int j = 0; j < Parts; ++j) {
          const std::int64_t place =
              from + std::int64_t{min(part + j, count - 1)} * tile_ + at / kFours;
          edge[e][j] = __ldcg(p_.part_top + place);
          sums[e][j] =
              __ldcg(reinterpret_cast<const float4*>(p_.part_out + place * D + at % kFours * 4));
        }
      }
#pragma unroll
      for (int e = 0; e < Elements; ++e) {
#pragma unroll
        for (int j = 0; j < Parts; ++j) {
          if (part + j < count) rows[e].add(edge[e][j], sums[e][j]);
        }
      }
    }
#pragma unroll
    for (int e = 0; e < Elements; ++e) {
      const int at = i + e * kTileThreads;
      if (at < all) write<Out>(at / kFours, at % kFours * 4, rows[e], to);
    }
  }

  template <bool Out>
  __device__ void write(int row, int d, const JoinedRow& joined, int to) const {
    ops::AttentionWork work = work_;
    work.part = Out ? -1 : to;
    const RowWriter<X, D> writer(p_, work, kv_head_, row, joined.top, joined.sum);
    if (p_.call.gate.data != nullptr) {
      writer.write_gated(d, joined.total);
    } else {
      writer.write(d, joined.total);
    }
  }

  const AttentionTileParams& p_;
  const ops::AttentionWork& work_;
  int kv_head_, tile_;
  TileBarrier barrier_;
};

}  // namespace hybridattn::cuda
