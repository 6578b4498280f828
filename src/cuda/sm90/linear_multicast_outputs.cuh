// What becomes of the sums of products whose blocks share x: from the warps that make them to the
// blocks that store their outputs, and what those make of them.
#pragma once

#include "src/cuda/cluster.cuh"
#include "src/cuda/formulas.cuh"
#include "src/cuda/linear_call.cuh"
#include "src/cuda/reduce.cuh"
#include "src/cuda/row_elements.cuh"
#include "src/cuda/sm90/linear_multicast_cut.cuh"
#include "src/cuda/sm90/wgmma.cuh"

namespace hybridattn::cuda::multicast {

constexpr int kTeamRows = 64;  // as high as the wide products are
constexpr int kTeamWarps = 4;
constexpr int kTeamThreads = kTeamWarps * 32;

template <int Rows>
constexpr int kMultipliers = Rows / kTeamRows* kTeamThreads;

template <int Rows>
__device__ void wait_for_multipliers() {
  asm volatile("bar.sync 1, %0;" ::"n"(kMultipliers<Rows>) : "memory");
}

/// A thread has, of each group of eight outputs of a tile, columns 2 (lane % 4) and the next of
/// rows lane / 4 and 8 further on: four sums. Over slices they meet where their outputs are stored,
/// by the thread of the same number: [buffer][slice][sums, those of a gate][group][thread].
template <int Rows, int Width, bool Gated>
struct Outputs {
  static constexpr int kThreads = kMultipliers<Rows>;
  static constexpr int kParts = Gated ? 2 : 1;
  static constexpr int kGroups = Width / kParts / kGroup;  // of a tile
  static constexpr int kSums = Width / 2;                  // of a thread
  static_assert(ops::kLinearSquares == kGroup);

  const LinearCall& p;
  const MulticastCut& cut;
  const int slice, share;
  std::uint64_t (&arrived)[2];  // sums of all slices
  float4* const gathered;
  const float* const factors;  // of the sums of each row, or no data
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int first_row = thread / 32 * 16 + lane / 4;
  const int rows = static_cast<int>(p.m);
  // Groups of a block of the cluster.
  const int own_log2 = log2_of(kGroups) - cut.slices_log2, own = 1 << own_log2;

  static constexpr int log2_of(int x) { return x <= 1 ? 0 : 1 + log2_of(x / 2); }

  /// Of a block, of all its buffers.
  static int bytes(const MulticastCut& cut) {
    return cut.slices() == 1 ? 0 : cut.buffers * kParts * kGroups * kThreads * 16;
  }
  /// By one thread.
  __device__ void prepare() const {
    for (std::uint64_t& barrier : arrived) init_barrier(&barrier, 1);
  }

  /// What of outputs is read before their sums are there.
  struct Early {
    float before[2][2];
    float weight[2];
  };
  /// The first column of group `group` of this block in a tile.
  __device__ std::int64_t column_of(int tile, int group) const {
    return std::int64_t{tile} * (kGroups * kGroup) + ((slice << own_log2) + group) * kGroup +
           lane % 4 * 2;
  }
  __device__ void read(std::int64_t column, Early& early) const {
    if (column >= p.n) return;
    if (p.accumulate) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + half * 8;
        if (row < rows) load_two(p.out, row, column, early.before[half]);
      }
    }
    if (p.next_norm != nullptr) {  // then columns come by the eight
      early.weight[0] = __ldg(p.next_norm + column);
      early.weight[1] = __ldg(p.next_norm + column + 1);
    }
  }
  /// Of the first group.
  __device__ void read_early(int tile, Early& early) const { read(column_of(tile, 0), early); }

  /// Sums of a tile to outputs. `batch`: the tile's number.
  __device__ void store(int tile, const float (&sums)[kSums], const Early& early, int batch) const {
    if (cut.slices() == 1) {
      if (stores_turned()) return store_turned(tile, sums);
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const float4 sum = four(sums, group), gate = Gated ? four(sums, kGroups + group) : sum;
        store_group(column_of(tile, group), sum, gate, early, group > 0);
      }
      return;
    }
    const int buffer = batch % 2;
    send(sums, buffer);
    gather(batch);
    for (int group = 0; group < own; ++group) {
      const float4 sum = total(buffer, 0, group), gate = Gated ? total(buffer, 1, group) : sum;
      store_group(column_of(tile, group), sum, gate, early, group > 0);
    }
    // What any thread sends next says of all of them that they are done with this tile.
    wait_for_multipliers<Rows>();
  }

 private:
  static __device__ float4 four(const float (&sums)[kSums], int group) {
    return make_float4(sums[4 * group], sums[4 * group + 1], sums[4 * group + 2],
                       sums[4 * group + 3]);
  }
  __device__ float factor(int row) const { return factors != nullptr ? factors[row] : 1.0f; }
  /// Whether groups are turned so that each lane stores 16 bytes of one.
  __device__ bool stores_turned() const {
    return kGroups % 4 == 0 && cut.packs && !p.accumulate && p.next_norm == nullptr;
  }
  __device__ void store_turned(int tile, const float (&sums)[kSums]) const {
    switch (p.out.dtype) {
      case DType::kBF16: return store_halves<__nv_bfloat16>(tile, sums);
      case DType::kF16: return store_halves<__half>(tile, sums);
      default: store_floats(tile, sums);
    }
  }
  /// What is stored of two neighbouring sums of a row that `by` divides.
  __device__ float2 outputs_of(const float (&sums)[kSums], int at, float by) const {
    float2 x = make_float2(by * sums[at], by * sums[at + 1]);
    if constexpr (Gated) {
      x.x *= silu(by * sums[4 * kGroups + at]);
      x.y *= silu(by * sums[4 * kGroups + at + 1]);
    }
    return x;
  }
  /// Two groups at a time: lanes 0 and 2 of four get the first, 1 and 3 the second.
  __device__ void store_floats(int tile, const float (&sums)[kSums]) const {
    const bool odd = lane % 2 != 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + 8 * half;
      const float by = factor(row);
      float* const to = row_of(p.out, row).template as<float>();
#pragma unroll
      for (int first = 0; first + 2 <= kGroups; first += 2) {
        const float2 x = outputs_of(sums, 4 * first + 2 * half, by);
        const float2 y = outputs_of(sums, 4 * first + 4 + 2 * half, by);
        const float2 sent = odd ? x : y, kept = odd ? y : x;
        const float2 got = make_float2(__shfl_xor_sync(kAllLanes, sent.x, 1),
                                       __shfl_xor_sync(kAllLanes, sent.y, 1));
        const std::int64_t column = std::int64_t{tile} * (kGroups * kGroup) +
                                    (first + lane % 2) * kGroup + lane % 4 / 2 * 4;
        if (row >= rows || column >= p.n) continue;
        *reinterpret_cast<float4*>(to + column) = odd ? make_float4(got.x, got.y, kept.x, kept.y)
                                                      : make_float4(kept.x, kept.y, got.x, got.y);
      }
    }
  }
  /// Four groups at a time: each lane of four gets one.
  template <class Half>
  __device__ void store_halves(int tile, const float (&sums)[kSums]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + 8 * half;
      const float by = factor(row);
      Half* const to = row_of(p.out, row).template as<Half>();
#pragma unroll
      for (int first = 0; first + 4 <= kGroups; first += 4) {
        std::uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 x = outputs_of(sums, 4 * (first + i) + 2 * half, by);
          pairs[i] = pack<Half>(x.x, x.y);
        }
        turn(pairs);
        const std::int64_t column =
            std::int64_t{tile} * (kGroups * kGroup) + (first + lane % 4) * kGroup;
        if (row >= rows || column >= p.n) continue;
        *reinterpret_cast<uint4*>(to + column) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      }
    }
  }
  /// Number i of lane j of four to number j of lane i.
  __device__ void turn(std::uint32_t (&x)[4]) const {
#pragma unroll
    for (int by = 1; by < 4; by *= 2) {
      const bool upper = (lane & by) != 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if ((i & by) != 0) continue;
        const std::uint32_t sent = upper ? x[i] : x[i + by];
        const std::uint32_t got = __shfl_xor_sync(kAllLanes, sent, by);
        (upper ? x[i] : x[i + by]) = got;
      }
    }
  }
  __device__ float4* place(int buffer, int of_slice, int part, int group) const {
    const int row = ((buffer << cut.slices_log2) + of_slice) * kParts + part;
    return gathered + ((row << own_log2) + group) * kThreads + thread;
  }
  __device__ void send(const float (&sums)[kSums], int buffer) const {
    const std::uint32_t barrier = shared_address(&arrived[buffer]);
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const auto to = static_cast<unsigned>((group >> own_log2 << cut.shares_log2) + share);
        const float4* const at = place(buffer, slice, part, group & (own - 1));
        send_in_cluster(address_in_cluster(shared_address(at), to),
                        four(sums, part * kGroups + group), address_in_cluster(barrier, to));
      }
    }
  }
  /// Waits until all of them are here.
  __device__ void gather(int batch) const {
    const Barrier barrier(&arrived[batch % 2]);
    if (thread == 0) arrive_expecting(barrier, kParts * kGroups * kThreads * 16);
    wait_barrier(barrier, batch / 2 % 2);
  }
  /// Sums of all slices, in their order.
  __device__ float4 total(int buffer, int part, int group) const {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int s = 0; s < cut.slices(); ++s) {
      const float4 x = *place(buffer, s, part, group);
      sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
    }
    return sum;
  }

  __device__ void store_group(std::int64_t column, const float4& sum, const float4& gate,
                              const Early& early, bool late) const {
    if (column >= p.n) return;
    Early now = early;
    if (late) read(column, now);
    store_row(first_row, column, {sum.x, sum.y}, {gate.x, gate.y}, now.before[0], now.weight);
    store_row(first_row + 8, column, {sum.z, sum.w}, {gate.z, gate.w}, now.before[1], now.weight);
  }
  __device__ void store_row(int row, std::int64_t column, float2 sum, float2 gate,
                            const float (&before)[2], const float (&weight)[2]) const {
    if (row >= rows) return;
    const float by = factor(row);
    float x[2] = {by * sum.x, by * sum.y};
    if constexpr (Gated) {
      x[0] *= silu(by * gate.x);
      x[1] *= silu(by * gate.y);
    }
    if (p.accumulate) {
      x[0] += before[0];
      x[1] += before[1];
    }
    store_two(p.out, row, column, x);
    if constexpr (!Gated) {
      if (p.next_norm != nullptr) hand_on(row, column, x, weight);
    }
  }
  /// The half of the next norm that comes before its product. Four lanes have a row of a group.
  __device__ void hand_on(int row, std::int64_t column, const float (&x)[2],
                          const float (&weight)[2]) const {
    const float next[2] = {fmaf(x[0], weight[0], x[0]), fmaf(x[1], weight[1], x[1])};
    store_two(p.next_x, row, column, next);
    const unsigned four = 0xFu << (lane & 28);
    float squares = x[0] * x[0] + x[1] * x[1];
#pragma unroll
    for (int by = 1; by < 4; by *= 2) squares += __shfl_xor_sync(four, squares, by);
    if (lane % 4 == 0) {
      cuda::store(p.next_squares, p.next_squares.at(row, column / kGroup), squares);
    }
  }

  /// Two neighbours of a row, the second of which need not be there.
  __device__ void load_two(const View& of, int row, std::int64_t column, float (&x)[2]) const {
    const std::int64_t at = of.at(row, column);
    if (!cut.packs) {
      x[0] = load(of, at);
      x[1] = column + 1 < p.n ? load(of, at + 1) : 0;
      return;
    }
    const float2 two = of.dtype == DType::kF32
                           ? *reinterpret_cast<const float2*>(of.as<const float>() + at)
                       : of.dtype == DType::kBF16 ? unpack<__nv_bfloat16>(pair_at(of, at))
                                                  : unpack<__half>(pair_at(of, at));
    x[0] = two.x;
    x[1] = two.y;
  }
  __device__ void store_two(const View& to, int row, std::int64_t column,
                            const float (&x)[2]) const {
    const std::int64_t at = to.at(row, column);
    if (!cut.packs) {
      cuda::store(to, at, x[0]);
      if (column + 1 < p.n) cuda::store(to, at + 1, x[1]);
      return;
    }
    switch (to.dtype) {
      case DType::kBF16: pair_at(to, at) = pack<__nv_bfloat16>(x[0], x[1]); return;
      case DType::kF16: pair_at(to, at) = pack<__half>(x[0], x[1]); return;
      default: *reinterpret_cast<float2*>(to.as<float>() + at) = make_float2(x[0], x[1]);
    }
  }
  static __device__ std::uint32_t& pair_at(const View& x, std::int64_t at) {
    return *reinterpret_cast<std::uint32_t*>(x.as<std::uint16_t>() + at);
  }
};

}  // namespace hybridattn::cuda::multicast
