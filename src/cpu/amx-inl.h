// Tiles of AMX: eight registers of 16 rows of 64 bytes, and a unit that multiplies two of them.
//
// In assembly of our own: the intrinsics of GCC 12 do not say which memory they read, so that
// stores before them may be moved past or dropped. The compiler itself never touches a tile,
// nothing has to be declared clobbered but memory.
#include <cstdint>

#include "src/cpu/simd-inl.h"

#if defined(HYBRIDATTN_CPU_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_AMX_INL_H_
#undef HYBRIDATTN_CPU_AMX_INL_H_
#else
#define HYBRIDATTN_CPU_AMX_INL_H_
#endif

// Code around tiles uses the other instructions of Isa::kAmx, which are those of this target.
#undef HYBRIDATTN_TARGET_HAS_TILES
#define HYBRIDATTN_TARGET_HAS_TILES (HWY_TARGET == HWY_AVX3_ZEN4)

#if HYBRIDATTN_TARGET_HAS_TILES
HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// What a kernel that used tiles reports as its target.
inline constexpr const char* kTilesName = "AMX";

inline constexpr std::int64_t kTileSide = 16;  // rows, and 4-byte columns
inline constexpr std::int64_t kTileLine = 64;  // bytes of a row
inline constexpr std::int64_t kTileBytes = kTileSide * kTileLine;
inline constexpr std::int64_t kTilePairs = 2;  // bf16 values in 4 bytes
/// Inner elements of a product of two tiles of bf16.
inline constexpr std::int64_t kTileInner = kTileSide * kTilePairs;

/// The use of a thread's tiles from here to the end of the scope. Tiles 0 to 3 are sums, 4 and 5
/// left operands, all of 16 full rows but for the columns of sums; 6 and 7 right operands, which
/// have as many columns of 4 bytes as the sums.
class Tiles {
 public:
  explicit Tiles(std::int64_t columns = kTileSide) {
    struct alignas(64) {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t bytes[16] = {};
      std::uint8_t rows[16] = {};
    } config;
    for (int tile = 0; tile < 8; ++tile) {
      const bool left = tile == 4 || tile == 5;
      config.rows[tile] = kTileSide;
      config.bytes[tile] = static_cast<std::uint16_t>(left ? kTileLine : 4 * columns);
    }
    asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
  }
  ~Tiles() { asm volatile("tilerelease" : : : "memory"); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

template <int kTile>
HWY_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
/// Rows lie `stride` bytes apart.
template <int kTile>
HWY_INLINE void tile_load(const void* rows, std::int64_t stride = kTileLine) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(stride), "i"(kTile) : "memory");
}
/// The same of what is not soon needed again: it goes past the first-level cache, where it would
/// drive out what is.
template <int kTile>
HWY_INLINE void tile_load_once(const void* rows, std::int64_t stride = kTileLine) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
HWY_INLINE void tile_store(void* rows, std::int64_t stride = kTileLine) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(rows), "r"(stride), "i"(kTile) : "memory");
}
/// sum[r, c] += left[r, 2 i] right[i, 2 c] + left[r, 2 i + 1] right[i, 2 c + 1] over i, in bf16
/// with float32 sums, one i after the other.
template <int kSum, int kLeft, int kRight>
HWY_INLINE void tile_dot() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}

/// The same of four signed bytes at a time, with 32-bit integer sums.
template <int kSum, int kLeft, int kRight>
HWY_INLINE void tile_dot_bytes() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kLeft), "i"(kRight));
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // HYBRIDATTN_TARGET_HAS_TILES

#endif  // HYBRIDATTN_CPU_AMX_INL_H_
