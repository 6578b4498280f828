#include "hybridattn/gdn_state_pool.h"

#include <limits>

#include "hybridattn/ops/copy_slots.h"
#include "hybridattn/status_macros.h"
#include "src/cache/pool_memory.h"
#include "src/core/arg_check.h"
#include "src/core/saturate.h"

namespace hybridattn {
namespace {

constexpr std::int64_t kMostSlots = std::numeric_limits<std::int32_t>::max();

std::int64_t recurrent_bytes(const GdnStateShape& shape) {
  return core::saturating_product({shape.num_v_heads, shape.head_v_dim, shape.head_k_dim,
                                   static_cast<std::int64_t>(dtype_size(shape.state_dtype))});
}
std::int64_t conv_bytes(const GdnStateShape& shape) {
  return core::saturating_product({shape.conv_channels, shape.conv_width - 1,
                                   static_cast<std::int64_t>(dtype_size(shape.conv_dtype))});
}

Status check_shape(const GdnStateShape& shape, std::int32_t num_slots,
                   std::int32_t num_track_slots) {
  core::ArgCheck check("GdnStatePool");
  check.require(shape.num_layers >= 1, "num_layers is ", shape.num_layers, ", must be at least 1");
  check.require(shape.num_v_heads >= 1, "num_v_heads is ", shape.num_v_heads,
                ", must be at least 1");
  check.require(shape.head_v_dim >= 1, "head_v_dim is ", shape.head_v_dim, ", must be at least 1");
  check.require(shape.head_k_dim >= 1, "head_k_dim is ", shape.head_k_dim, ", must be at least 1");
  check.require(shape.conv_channels >= 1, "conv_channels is ", shape.conv_channels,
                ", must be at least 1");
  check.require(shape.conv_width >= 2 && shape.conv_width <= 4, "conv_width is ", shape.conv_width,
                ", must be 2 to 4");
  check.require(num_slots >= 0, "num_slots is ", num_slots, ", must be at least 0");
  check.require(num_track_slots >= 0, "num_track_slots is ", num_track_slots,
                ", must be at least 0");
  check.require(std::int64_t{num_slots} + num_track_slots <= kMostSlots, "num_slots is ", num_slots,
                " and num_track_slots ", num_track_slots, ", must be under 2^31 together");
  check.require_supported(shape.state_dtype == DType::kF32 || shape.state_dtype == DType::kBF16,
                          "state_dtype is ", dtype_name(shape.state_dtype),
                          ", must be f32 or bf16");
  check.require_supported(is_model_float(shape.conv_dtype), "conv_dtype is ",
                          dtype_name(shape.conv_dtype), ", must be f32, bf16 or f16");
  return check.status();
}

}  // namespace

std::int64_t GdnStateShape::slot_bytes() const noexcept {
  return core::saturating_product(
      {num_layers, core::saturating_sum(recurrent_bytes(*this), conv_bytes(*this))});
}

GdnStatePool::GdnStatePool(Context& context, const GdnStateShape& shape, std::int32_t num_slots,
                           std::int32_t num_track_slots, void* memory)
    : context_(context), shape_(shape), memory_(memory),
      bytes_((std::int64_t{num_slots} + num_track_slots) * shape.slot_bytes()),
      slots_("state slot", num_slots), track_slots_("track slot", num_track_slots, num_slots) {
  cache::Cutter cutter(memory);
  const std::int64_t all_slots = std::int64_t{num_slots} + num_track_slots;
  for (std::int32_t layer = 0; layer < shape.num_layers; ++layer) {
    view_.recurrent.emplace_back(
        cutter.take(all_slots * recurrent_bytes(shape)), shape.state_dtype,
        std::initializer_list<std::int64_t>{all_slots, shape.num_v_heads, shape.head_v_dim,
                                            shape.head_k_dim});
  }
  for (std::int32_t layer = 0; layer < shape.num_layers; ++layer) {
    view_.conv.emplace_back(
        cutter.take(all_slots * conv_bytes(shape)), shape.conv_dtype,
        std::initializer_list<std::int64_t>{all_slots, shape.conv_channels, shape.conv_width - 1});
  }
}

GdnStatePool::~GdnStatePool() {
  context_.allocator().deallocate(memory_, static_cast<std::size_t>(bytes_ > 0 ? bytes_ : 1));
}

Result<std::unique_ptr<GdnStatePool>> GdnStatePool::create(Context& context,
                                                           const GdnStateShape& shape,
                                                           std::int32_t num_slots,
                                                           std::int32_t num_track_slots) {
  HYBRIDATTN_TRY(check_shape(shape, num_slots, num_track_slots));
  HYBRIDATTN_ASSIGN(void* memory, cache::allocate_pool(context, "GdnStatePool",
                                                       std::int64_t{num_slots} + num_track_slots,
                                                       shape.slot_bytes()));
  return std::unique_ptr<GdnStatePool>(
      new GdnStatePool(context, shape, num_slots, num_track_slots, memory));
}

Status GdnStatePool::check() const {
  HYBRIDATTN_TRY(slots_.check());
  return track_slots_.check();
}

Status GdnStatePool::check_live(const char* verb, const Handle& slot) const {
  if (slots_.live(slot) || track_slots_.live(slot)) return {};
  return error(StatusCode::kFailedPrecondition, "GdnStatePool::", verb, ": state slot ", slot.index,
               " of generation ", slot.generation, " is not live");
}

Status GdnStatePool::zero(const Handle& slot) {
  HYBRIDATTN_TRY(check_live("zero", slot));
  for (const auto* layers : {&view_.recurrent, &view_.conv}) {
    for (const TensorView& layer : *layers) {
      HYBRIDATTN_TRY(zero_slots(context_, {layer, &slot.index, 1}));
    }
  }
  return {};
}

Status GdnStatePool::copy(const Handle& source, const Handle& destination) {
  HYBRIDATTN_TRY(check_live("copy", source));
  HYBRIDATTN_TRY(check_live("copy", destination));
  if (source.index == destination.index) return {};
  std::vector<SlotPool> pools;
  for (const auto* layers : {&view_.recurrent, &view_.conv}) {
    for (const TensorView& layer : *layers) pools.push_back({layer, {}});
  }
  return copy_slots_of_pools(context_, {pools, &source.index, &destination.index, 1});
}

}  // namespace hybridattn
