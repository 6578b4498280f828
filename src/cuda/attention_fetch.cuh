// Keys and values from their pages to shared memory, behind the threads' back.
#pragma once

#include "src/cuda/attention_rows.cuh"
#include "src/cuda/reduce.cuh"

namespace hybridattn::cuda {

/// Fetches keys and values of one team's tiles. L: the warps of a team (kTeam), keys that each
/// fetches, a multiple of 8 (kLoads), bytes of a row (kRowBytes), and where each 16-byte piece of a
/// row goes, alike in every 8 rows (place).
template <class KV, class L>
class KeyFetcher {
  static constexpr int kPieces = L::kRowBytes / 16;
  static constexpr int kAtOnce = 32 / kPieces;  // keys of one instruction
  static_assert(kPieces <= 32 && L::kLoads <= 32 && L::kLoads % 8 == 0);

 public:
  /// `first`: key of the first tile.
  __device__ KeyFetcher(const AttentionCall& call, const ops::AttentionWork& work, int head,
                        int lowest, int first)
      : call_(call), kv_start_(work.kv_start), begin_(lowest), end_(work.end),
        k_(base(call.k, head)), v_(base(call.v, head)) {
    ask(first);
  }

  /// Turns to the tile that was asked for, and asks for the one at `next`: where its keys lie is
  /// read from memory meanwhile.
  __device__ void turn(int next) {
    k_at_ = v_at_ = kNowhere;
    if (page_ >= 0) {
      k_at_ = pieces_before(call_.k);
      v_at_ = pieces_before(call_.v);
    }
    ask(next);
  }

  /// Starts the copies of the tile's keys, or values. Zeros for those that are not the row's.
  __device__ void fetch_keys(std::uint32_t slot) const { fetch(k_, k_at_, slot); }
  __device__ void fetch_values(std::uint32_t slot) const { fetch(v_, v_at_, slot); }

 private:
  static constexpr std::uint32_t kNowhere = 0xffffffff;

  __device__ static const std::byte* base(const View& view, int head) {
    const int piece = threadIdx.x % 32 % kPieces;
    return view.data + head * view.stride[2] * static_cast<int>(sizeof(KV)) + 16 * piece;
  }
  __device__ static int first_of_warp() {
    return static_cast<int>(threadIdx.x / 32) % L::kTeam * L::kLoads;
  }
  __device__ std::uint32_t pieces_before(const View& view) const {
    const std::int64_t elements = std::int64_t{page_} * view.stride[0] + place_ * view.stride[1];
    return static_cast<std::uint32_t>(elements * static_cast<int>(sizeof(KV)) >> 4);
  }
  __device__ void ask(int first) {
    const int lane = threadIdx.x % 32, key = first + first_of_warp() + lane;
    page_ = -1;
    if (lane >= L::kLoads || key < begin_ || key >= end_) return;
    page_ = static_cast<int>(page_of(call_, kv_start_, key));
    place_ = place_in_page(call_, key);
  }
  __device__ void fetch(const std::byte* from, std::uint32_t at, std::uint32_t slot) const {
    const int lane = threadIdx.x % 32, piece = lane % kPieces;
    const std::uint32_t to = slot + L::place(first_of_warp(), 0);
#pragma unroll
    for (int i = 0; i < L::kLoads; i += kAtOnce) {
      const int key = i + lane / kPieces;
      const std::uint32_t row = __shfl_sync(kAllLanes, at, key);
      const bool there = row != kNowhere;
      const std::byte* source = from + 16 * std::uint64_t{there ? row : 0};
      if constexpr (L::kOnce) {
        copy_async_once(to + L::place(key, piece), source, there);
      } else {
        copy_async(to + L::place(key, piece), source, there);
      }
    }
  }

  const AttentionCall& call_;
  std::int64_t kv_start_;
  int begin_, end_;
  const std::byte *k_, *v_;
  std::uint32_t k_at_ = kNowhere, v_at_ = kNowhere;  // of this lane's key, in pieces
  int page_ = -1, place_ = 0;                        // of its key of the tile asked for
};

/// The first key that a tile's rows may read: those before what its first query sees may lie in
/// pages that are gone.
__device__ inline int lowest_key(const AttentionCall& call, const ops::AttentionWork& work) {
  const RowSpan span{work.q_start, work.q_length, work.kv_length};
  const Sight first = sight_of(call, span, call.group.quotient(work.first));
  const bool tree = first.first_new != 0x7fffffff;
  // A token of a tree may follow nothing but the row's state.
  const int oldest =
      tree && call.window > 0 ? max(0, first.first_new + 1 - call.window) : first.begin;
  return max(work.begin, oldest);
}

/// What query row `row` of a tile sees of the work's keys, behind which another part may begin; a
/// row that is not there, the last.
__device__ inline Sight find_sight(const AttentionCall& call, const ops::AttentionWork& work,
                                   int row) {
  const RowSpan span{work.q_start, work.q_length, work.kv_length};
  const int last = work.q_length * call.group.divisor() - 1;
  Sight sight = sight_of(call, span, call.group.quotient(min(work.first + row, last)));
  sight.end = min(sight.end, work.end);
  return sight;
}

}  // namespace hybridattn::cuda
