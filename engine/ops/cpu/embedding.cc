#include <cstring>

#include "engine/ops/cpu/kernels.h"

namespace hybridattn::engine::cpu {
namespace {

const std::byte* row_of(const ConstTensorView& view, std::int64_t row) {
  return static_cast<const std::byte*>(view.data) +
         row * view.stride(0) * static_cast<std::int64_t>(dtype_size(view.dtype));
}

void to_floats(const std::byte* src, DType dtype, std::int64_t n, float* dst) {
  switch (dtype) {
    case DType::kBF16:
      for (std::int64_t i = 0; i < n; ++i) dst[i] = to_float(reinterpret_cast<const BF16*>(src)[i]);
      return;
    case DType::kF16:
      for (std::int64_t i = 0; i < n; ++i) dst[i] = to_float(reinterpret_cast<const F16*>(src)[i]);
      return;
    default: std::memcpy(dst, src, static_cast<std::size_t>(n) * sizeof(float));
  }
}

}  // namespace

void embed(Context& context, const EmbedArgs& args) {
  const ConstTensorView& table = args.table;
  const auto tokens = static_cast<std::int64_t>(args.ids.size());
  parallel_for(context.executor(), tokens, [&](std::int64_t t, int) {
    std::int32_t id = args.ids[static_cast<std::size_t>(t)];
    if (id < 0) id = args.chosen[static_cast<std::size_t>(-1 - id)].id;
    to_floats(row_of(table, id), table.dtype, table.dim(1),
              static_cast<float*>(args.out.data) + t * args.out.stride(0));
  });
}

void gather_rows(Context& context, const ConstTensorView& x, std::span<const std::int32_t> rows,
                 const TensorView& out) {
  const auto bytes = static_cast<std::size_t>(x.dim(1)) * dtype_size(x.dtype);
  parallel_for(
      context.executor(), static_cast<std::int64_t>(rows.size()), [&](std::int64_t i, int) {
        std::memcpy(static_cast<std::byte*>(out.data) +
                        i * out.stride(0) * static_cast<std::int64_t>(dtype_size(out.dtype)),
                    row_of(x, rows[static_cast<std::size_t>(i)]), bytes);
      });
}

}  // namespace hybridattn::engine::cpu
