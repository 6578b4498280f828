// Keys and values on their way to shared memory, through a ring between who fetches and who
// multiplies.
#pragma once

#include "src/cuda/attention_fetch.cuh"
#include "src/cuda/sm90/cache_maps.cuh"
#include "src/cuda/sm90/wgmma.cuh"

namespace hybridattn::cuda {

/// Matrices in shared memory stand 8 rows after the other, those in groups of 64 columns: rows of
/// 128 bytes in the 128-byte swizzle. Boxes: 8 keys at once by the copy engine, else 16 bytes at
/// once by threads. A product of 64 queries reads these again for every tile of keys: at 64 keys
/// that takes shared memory all of the product's time.
template <int D, bool Boxes>
struct WideLayout {
  static constexpr bool kBoxes = Boxes;
  static constexpr int kRows = 128;  // query rows
  static constexpr int kTeam = 4;    // warps that fetch
  static constexpr int kKeys = D >= 256 ? (Boxes ? 80 : 64) : 128;
  static constexpr int kLoads = kKeys / kTeam;
  static constexpr bool kOnce = false;
  static constexpr int kRowBytes = D * 2;
  static constexpr int kGroupBytes = 1024;           // 64 columns of 8 rows
  static constexpr int kBlockBytes = 8 * kRowBytes;  // 8 rows
  static constexpr int kTileBytes = kKeys * kRowBytes;
  static constexpr unsigned kSlots = 4;               // keys and values of two tiles
  static constexpr int kQueryBytes = 64 * kRowBytes;  // of one warpgroup
  static constexpr int kQueries = kSlots * kTileBytes;
  static constexpr int kBarriers = kQueries + 2 * kQueryBytes;
  static constexpr int kBytes = kBarriers + (2 * kSlots + 1) * 8 + 1024;  // to align all

  static __device__ std::uint32_t place(int row, int piece) {
    return static_cast<std::uint32_t>(row / 8 * kBlockBytes + piece / 8 * kGroupBytes +
                                      row % 8 * 128 + (piece % 8 ^ row % 8) * 16);
  }
  static __device__ std::uint64_t operand(std::uint32_t address) {
    return matrix_descriptor(address, kGroupBytes, kBlockBytes);
  }
};

constexpr int kFetchers = 128;

/// Slots of the ring pass in order: keys and values of one tile after the other, of all tiles of
/// all works of the block.
template <class L>
struct Ring {
  std::uint32_t slots;  // then queries and barriers
  unsigned passed = 0;

  __device__ unsigned at() const { return passed % L::kSlots; }
  __device__ std::uint32_t slot() const { return slots + at() * L::kTileBytes; }
  __device__ Barrier full() const { return Barrier(slots + L::kBarriers + 8 * at()); }
  __device__ Barrier empty() const {
    return Barrier(slots + L::kBarriers + 8 * L::kSlots + 8 * at());
  }
  /// Of the block that a row ends in.
  __device__ Barrier tail() const { return Barrier(slots + L::kBarriers + 16 * L::kSlots); }
  /// What threads copied there is there for matrix instructions too.
  __device__ void wait_full() const {
    wait_barrier(full(), passed / L::kSlots & 1);
    if (!L::kBoxes) fence_async_proxy();
  }
  __device__ void wait_empty() const { wait_barrier(empty(), ~(passed / L::kSlots) & 1); }
  __device__ void next() { ++passed; }
};

/// One key head of one work. What it is, is found anew each time: of all that a thread knows of it,
/// only the number stays in a register.
class Piece {
 public:
  __device__ explicit Piece(int at) : at_(at) {}
  __device__ const ops::AttentionWork& work(const AttentionCall& call) const {
    return call.tables.many[at() / call.kv_heads];
  }
  __device__ int kv_head(const AttentionCall& call) const { return at() % call.kv_heads; }

 private:
  __device__ int at() const {
    int at = at_;
    asm volatile("" : "+r"(at));
    return at;
  }
  int at_;
};

/// The pieces of this block, as attention_tiles_kernel shares them out.
template <class Run>
__device__ void for_each_piece(const AttentionCall& call, const Run& run) {
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  int at = block;
  while (true) {
    if (at < call.tables.counts[1] * call.kv_heads) run(Piece(at));
    asm volatile("" : "+r"(at));
    const int round = at / blocks + 1;
    if (round * blocks >= call.tables.counts[1] * call.kv_heads) return;
    at = round * blocks + (round % 2 != 0 ? blocks - 1 - block : block);
  }
}

/// The fetching warpgroup where threads copy.
template <class X, int D>
__device__ void fetch_rows(const AttentionTileParams& p, Ring<WideLayout<D, false>> ring) {
  using L = WideLayout<D, false>;
  const AttentionCall& call = p.call;
  for_each_piece(call, [&](const Piece& piece) {
    const ops::AttentionWork& work = piece.work(call);
    KeyFetcher<X, L> keys(call, work, piece.kv_head(call), lowest_key(call, work), work.begin);
    begin_tile<false>(p);  // the work and the pages were there before the kernel that came before
    for (int first = work.begin, end = work.end; first < end;) {
      first += L::kKeys;
      keys.turn(first);
      ring.wait_empty();
      keys.fetch_keys(ring.slot());
      arrive_when_copied(ring.full());
      ring.next();
      ring.wait_empty();
      keys.fetch_values(ring.slot());
      arrive_when_copied(ring.full());
      ring.next();
    }
  });
  wait_copies<0>();
}

/// Fetches tiles by the copy engine: each lane of one warp sees to a block of 8 keys, which lie in
/// one page.
template <class L>
class BoxFetcher {
  static constexpr int kBlocks = L::kKeys / 8;
  static_assert(kBlocks <= 32);

 public:
  __device__ BoxFetcher(const AttentionCall& call, const CacheMaps& maps,
                        const ops::AttentionWork& work, int head, int lowest)
      : call_(call), maps_(maps), work_(work), head_(head), lowest_(lowest), first_(work.begin),
        once_(work.q_length * call.group.divisor() <= L::kRows) {
    ask();
  }

  /// Turns to the tile that was asked for, and asks for the next: where its keys lie is read from
  /// memory meanwhile. False: there are no more keys.
  __device__ bool turn() {
    if (first_ >= work_.end) return false;
    page_ = next_page_;
    place_ = next_place_;
    first_ += L::kKeys;
    ask();
    return true;
  }

  /// Starts the copies of the tile's keys. Zeros where there are none.
  __device__ void fetch_keys(const Ring<L>& ring) const {
    if (lane() == 0) arrive_expecting(ring.full(), L::kTileBytes);
    __syncwarp();
    if (lane() < kBlocks) copy(maps_.k, ring.slot(), ring.full());
  }

  /// The same of values. Those behind the row's last key, whatever they are, would be multiplied
  /// with weights of zero: they are made zeros. `tails`: rows whose ends this warp has seen.
  __device__ void fetch_values(const Ring<L>& ring, int& tails) const {
    const int keys = work_.kv_length;
    const int last = kBlocks - 1 - (first_ - keys) / 8;  // the block that the row ends in
    const bool cut = first_ >= keys && last >= 0 && keys % 8 != 0 && keys / 8 * 8 < work_.end;
    const bool mine = cut && lane() == last;
    if (cut) {
      if (mine) {
        arrive_expecting(ring.tail(), L::kBlockBytes);
        copy(maps_.v, ring.slot(), ring.tail());
      }
      __syncwarp();
      wait_barrier(ring.tail(), tails++ & 1);
      clear_rows(ring.slot() + last * L::kBlockBytes, keys % 8);
      fence_async_proxy();
      __syncwarp();
    }
    if (lane() == 0) {
      arrive_expecting(ring.full(), L::kTileBytes - (cut ? L::kBlockBytes : 0));
    }
    __syncwarp();
    if (lane() < kBlocks && !mine) copy(maps_.v, ring.slot(), ring.full());
  }

 private:
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % 32; }

  __device__ void ask() {
    const int key = first_ + 8 * lane();
    const bool paged = call_.tables.pages != nullptr;
    next_page_ = paged ? static_cast<int>(call_.cache_pages) : 1;  // there is none
    next_place_ = 0;
    if (lane() >= kBlocks || key + 8 <= lowest_ || key >= work_.end) return;
    next_page_ = paged ? static_cast<int>(page_of(call_, work_.kv_start, key)) : 0;
    next_place_ = paged ? place_in_page(call_, key) : static_cast<int>(work_.kv_start) + key;
  }
  __device__ void copy(const CUtensorMap& map, std::uint32_t slot, Barrier barrier) const {
    const std::uint32_t to = slot + lane() * L::kBlockBytes;
    if (once_) {
      copy_box_once(to, map, {0, place_, 0, head_, page_}, barrier);
    } else {
      copy_box(to, map, {0, place_, 0, head_, page_}, barrier);
    }
  }
  /// Zeros in rows from `first` on of a block.
  static __device__ void clear_rows(std::uint32_t block, int first) {
    for (int at = first * 128 + lane() * 16; at < L::kGroupBytes; at += 32 * 16) {
#pragma unroll
      for (int group = 0; group < L::kBlockBytes; group += L::kGroupBytes) {
        store_piece(block + group + at, make_uint4(0, 0, 0, 0));
      }
    }
  }

  const AttentionCall& call_;
  const CacheMaps& maps_;
  const ops::AttentionWork& work_;  // read again from memory: this warp has few registers
  int head_, lowest_;
  int first_;  // key of the tile asked for
  int page_ = 0, place_ = 0, next_page_ = 0, next_place_ = 0;
  bool once_;  // a row's only tile is the only one that reads its keys
};

/// The fetching warp where the copy engine copies.
template <class X, int D>
__device__ void fetch_boxes(const AttentionTileParams& p, const CacheMaps& maps,
                            Ring<WideLayout<D, true>> ring) {
  using L = WideLayout<D, true>;
  const AttentionCall& call = p.call;
  int tails = 0;
  for_each_piece(call, [&](const Piece& piece) {
    const ops::AttentionWork& work = piece.work(call);
    BoxFetcher<L> keys(call, maps, work, piece.kv_head(call), lowest_key(call, work));
    begin_tile<false>(p);  // the work and the pages were there before the kernel that came before
    while (keys.turn()) {
      ring.wait_empty();
      keys.fetch_keys(ring);
      ring.next();
      ring.wait_empty();
      keys.fetch_values(ring, tails);
      ring.next();
    }
  });
}

}  // namespace hybridattn::cuda
