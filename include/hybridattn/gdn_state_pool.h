// GdnStatePool: recurrent and convolution states for all GDN layers, with their allocator.
#pragma once

#include <memory>

#include "hybridattn/context.h"
#include "hybridattn/gdn_attn_backend.h"
#include "hybridattn/handle_allocator.h"

namespace hybridattn {

/// The layout of recurrent states in our pools: [slot][HV][V][K], K contiguous.
inline constexpr char kGdnStateLayout[] = "slot,HV,V,K";
/// The layout of convolution states in our pools: [slot][C][W-1], oldest input first.
inline constexpr char kConvStateLayout[] = "slot,C,W-1";

struct GdnStateShape {
  std::int32_t num_layers = 0;      ///< GDN layers
  std::int32_t num_v_heads = 0;     ///< HV
  std::int32_t head_v_dim = 0;      ///< V
  std::int32_t head_k_dim = 0;      ///< K
  std::int32_t conv_channels = 0;   ///< C
  std::int32_t conv_width = 4;      ///< W
  DType state_dtype = DType::kF32;  ///< f32, or bf16 at rest (arithmetic is float32 either way)
  DType conv_dtype = DType::kBF16;  ///< f32, bf16 or f16

  /// Bytes of one slot over all layers, both states.
  HYBRIDATTN_API std::int64_t slot_bytes() const noexcept;
};

/// Owns the states of `num_slots` running sequences and of `num_track_slots` snapshots, which are
/// slots like the others but have an allocator of their own, so that snapshots never take the slot
/// of a request. A slot id is the same sequence in every layer. A fresh slot holds anything: a
/// state is zero because its count of computed tokens is.
class HYBRIDATTN_API GdnStatePool {
 public:
  /// Errors: invalid_argument, resource_exhausted, as PagedKvPool.
  static Result<std::unique_ptr<GdnStatePool>> create(Context& context, const GdnStateShape& shape,
                                                      std::int32_t num_slots,
                                                      std::int32_t num_track_slots = 0);
  ~GdnStatePool();
  GdnStatePool(const GdnStatePool&) = delete;
  GdnStatePool& operator=(const GdnStatePool&) = delete;

  /// Ids [0, num_slots).
  HandleAllocator& slots() noexcept { return slots_; }
  /// Ids [num_slots, num_slots + num_track_slots).
  HandleAllocator& track_slots() noexcept { return track_slots_; }
  const GdnStateShape& shape() const noexcept { return shape_; }
  const GdnStateView& view() const noexcept { return view_; }
  /// Bytes allocated: shape().slot_bytes() for each slot of either kind.
  std::int64_t bytes() const noexcept { return bytes_; }

  /// Zeroes both states of a live slot of either kind in all layers. Errors: failed_precondition.
  Status zero(const Handle& slot);
  /// Copies both states in all layers. Errors: failed_precondition unless both are live.
  Status copy(const Handle& source, const Handle& destination);
  Status check() const;

 private:
  GdnStatePool(Context& context, const GdnStateShape& shape, std::int32_t num_slots,
               std::int32_t num_track_slots, void* memory);
  Status check_live(const char* verb, const Handle& slot) const;
  Context& context_;
  GdnStateShape shape_;
  void* memory_;
  std::int64_t bytes_;
  GdnStateView view_;
  HandleAllocator slots_;
  HandleAllocator track_slots_;
};

}  // namespace hybridattn
