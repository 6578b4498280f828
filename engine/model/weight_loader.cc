#include "engine/model/weight_loader.h"

#include <cstring>

#include "engine/model/int8_rows.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

ConstTensorView view_of(const void* data, DType dtype, WeightLoader::Shape shape) {
  return ConstTensorView(data, dtype, shape);
}

void copy_floats(const StoredTensor& tensor, float* out) {
  const auto count = static_cast<std::size_t>(tensor.bytes) / dtype_size(tensor.dtype);
  for (std::size_t i = 0; i < count; ++i) {
    // Through memcpy: a file may place a tensor at any byte.
    const std::byte* at = tensor.data + i * dtype_size(tensor.dtype);
    if (tensor.dtype == DType::kF32) {
      std::memcpy(out + i, at, sizeof(float));
    } else {
      std::uint16_t bits;
      std::memcpy(&bits, at, sizeof(bits));
      out[i] = tensor.dtype == DType::kBF16 ? to_float(BF16{bits}) : to_float(F16{bits});
    }
  }
}

/// Tensors of parts that this engine does not run.
bool may_be_skipped(const std::string& name) {
  return name.rfind("mtp.", 0) == 0 || name.rfind("model.visual.", 0) == 0;
}

}  // namespace

WeightLoader::WeightLoader(ModelWeights& weights, const LoadProgress& progress, Executor* executor,
                           const ModelShard& shard)
    : weights_(weights), checkpoint_(*weights.checkpoint_), progress_(progress),
      executor_(executor), shard_(shard), total_(checkpoint_.total_bytes()) {}

Result<const StoredTensor*> WeightLoader::take(const std::string& name, Shape shape) {
  const StoredTensor* tensor = checkpoint_.find(name);
  if (tensor == nullptr) {
    return error(StatusCode::kNotFound, "checkpoint: tensor ", name,
                 " is missing, must have shape ", shape_text(shape));
  }
  if (!taken_.insert(name).second) {
    return error(StatusCode::kFailedPrecondition, "checkpoint: tensor ", name,
                 " is taken twice by the model");
  }
  if (tensor->shape != std::vector<std::int64_t>(shape)) {
    return data_loss("checkpoint: tensor ", name, " has shape ", shape_text(tensor->shape),
                     ", must be ", shape_text(shape));
  }
  if (!tensor->loadable || !is_model_float(tensor->dtype)) {
    return error(StatusCode::kUnsupported, "checkpoint: tensor ", name, " has dtype ",
                 tensor->dtype_text, ", must be F32, BF16 or F16");
  }
  weights_.num_parameters += tensor->bytes / static_cast<std::int64_t>(dtype_size(tensor->dtype));
  done_ += tensor->bytes;
  if (progress_) progress_(static_cast<double>(done_) / static_cast<double>(total_));
  return tensor;
}

std::byte* WeightLoader::make_copy(std::int64_t bytes) {
  weights_.copied_bytes += bytes;
  return weights_.copies_.take(bytes);
}

Result<ConstTensorView> WeightLoader::copy_part(const ConstTensorView& whole,
                                                const WeightCut& cut) {
  HYBRIDATTN_ASSIGN(const std::vector<ShardRange> ranges,
                    shard_ranges(cut.parts, shard_.rank, shard_.size));
  // Dense, of the same other dimensions.
  TensorView part(nullptr, whole.dtype, {});
  part.rank = whole.rank;
  part.shape = whole.shape;
  const auto dim = static_cast<std::size_t>(cut.dim);
  part.shape[dim] = 0;
  for (const ShardRange& range : ranges) part.shape[dim] += range.count;
  std::int64_t stride = 1;
  for (auto d = static_cast<std::size_t>(whole.rank); d-- > 0;) {
    part.strides[d] = stride;
    stride *= part.shape[d];
  }
  part.data = make_copy(stride * static_cast<std::int64_t>(dtype_size(whole.dtype)));
  HYBRIDATTN_TRY(cut_shard(whole, cut.dim, cut.parts, shard_.rank, shard_.size, part));
  return ConstTensorView(part);
}

Result<ConstTensorView> WeightLoader::part_of(const ConstTensorView& whole, const WeightCut& cut) {
  if (cut.dim != 0 || cut.parts.size() != 1) return copy_part(whole, cut);
  HYBRIDATTN_ASSIGN(const std::vector<ShardRange> ranges,
                    shard_ranges(cut.parts, shard_.rank, shard_.size));
  ConstTensorView part = whole;
  part.data =
      static_cast<const std::byte*>(whole.data) +
      ranges[0].whole * whole.stride(0) * static_cast<std::int64_t>(dtype_size(whole.dtype));
  part.shape[0] = ranges[0].count;
  weights_.mapped_bytes += part.num_elements() * static_cast<std::int64_t>(dtype_size(whole.dtype));
  return part;
}

Result<ConstTensorView> WeightLoader::stored(const std::string& name, Shape shape,
                                             const WeightCut& cut) {
  HYBRIDATTN_ASSIGN(const StoredTensor* tensor, take(name, shape));
  const auto misaligned =
      reinterpret_cast<std::uintptr_t>(tensor->data) % dtype_size(tensor->dtype);
  if (!is_whole(cut)) {
    const ConstTensorView whole = view_of(tensor->data, tensor->dtype, shape);
    HYBRIDATTN_ASSIGN(const ConstTensorView part,
                      misaligned == 0 ? part_of(whole, cut) : copy_part(whole, cut));
    if (cut.dim != 0 || cut.parts.size() != 1 || misaligned != 0) checkpoint_.forget(name);
    return part;
  }
  if (misaligned == 0) {
    weights_.mapped_bytes += tensor->bytes;
    return view_of(tensor->data, tensor->dtype, shape);
  }
  std::byte* copy = make_copy(tensor->bytes);
  std::memcpy(copy, tensor->data, static_cast<std::size_t>(tensor->bytes));
  checkpoint_.forget(name);
  return view_of(copy, tensor->dtype, shape);
}

bool WeightLoader::rounds(const ConstTensorView& matrix, std::int64_t parts) const {
  constexpr std::int64_t kLeastRows = 64;
  return weights_.format == WeightFormat::kInt8 &&
         matrix.dim(matrix.rank - 2) >= parts * kLeastRows;
}

WeightMatrix WeightLoader::make_int8(const ConstTensorView& matrix) {
  const std::int64_t columns = matrix.dim(matrix.rank - 1);
  const std::int64_t rows = matrix.num_elements() / columns;
  auto* out = reinterpret_cast<std::int8_t*>(make_copy(rows * columns));
  auto* scale =
      reinterpret_cast<float*>(make_copy(rows * static_cast<std::int64_t>(sizeof(float))));
  to_int8_rows(matrix, rows, columns, executor_, out, scale);
  return {ConstTensorView(out, DType::kI8, {rows, columns}),
          ConstTensorView(scale, DType::kF32, {rows})};
}

Result<WeightMatrix> WeightLoader::make_int8_part(const ConstTensorView& matrix,
                                                  const WeightCut& cut) {
  const std::int64_t columns = matrix.dim(matrix.rank - 1);
  const std::int64_t rows = matrix.num_elements() / columns;
  std::vector<std::int8_t> rounded(static_cast<std::size_t>(rows * columns));
  std::vector<float> scales(static_cast<std::size_t>(rows));
  to_int8_rows(matrix, rows, columns, executor_, rounded.data(), scales.data());
  ConstTensorView elements = matrix, scale = matrix;  // in the shape of the matrix
  elements.data = rounded.data();
  elements.dtype = DType::kI8;
  scale.data = scales.data();
  scale.dtype = DType::kF32;
  --scale.rank;
  for (int d = 0; d < scale.rank; ++d) scale.strides[static_cast<std::size_t>(d)] /= columns;
  HYBRIDATTN_ASSIGN(const ConstTensorView part, copy_part(elements, cut));
  const std::int64_t own_columns = part.dim(part.rank - 1);
  const std::int64_t own_rows = part.num_elements() / own_columns;
  ConstTensorView own_scale;
  if (cut.dim < scale.rank) {
    HYBRIDATTN_ASSIGN(own_scale, copy_part(scale, cut));
  } else {
    std::byte* copy = make_copy(rows * static_cast<std::int64_t>(sizeof(float)));
    std::memcpy(copy, scales.data(), scales.size() * sizeof(float));
    own_scale.data = copy;
  }
  return WeightMatrix(ConstTensorView(part.data, DType::kI8, {own_rows, own_columns}),
                      ConstTensorView(own_scale.data, DType::kF32, {own_rows}));
}

Result<WeightMatrix> WeightLoader::matrix(const std::string& name, Shape shape,
                                          const WeightCut& cut, std::int64_t parts) {
  const StoredTensor* const file = checkpoint_.find(name);
  if (!is_whole(cut) &&
      (file == nullptr || !rounds(view_of(file->data, file->dtype, shape), parts))) {
    HYBRIDATTN_ASSIGN(const ConstTensorView part, stored(name, shape, cut));
    return WeightMatrix(part);
  }
  if (!is_whole(cut)) {
    HYBRIDATTN_ASSIGN(const StoredTensor* tensor, take(name, shape));
    HYBRIDATTN_ASSIGN(WeightMatrix part,
                      make_int8_part(view_of(tensor->data, tensor->dtype, shape), cut));
    checkpoint_.forget(name);
    return part;
  }
  HYBRIDATTN_ASSIGN(const ConstTensorView view, stored(name, shape));
  if (!rounds(view, parts)) return WeightMatrix(view);
  const StoredTensor* tensor = checkpoint_.find(name);
  const bool mapped = view.data == tensor->data;
  WeightMatrix out = make_int8(view);
  if (mapped) {
    weights_.mapped_bytes -= tensor->bytes;
    checkpoint_.forget(name);
  }
  return out;
}

Result<WeightMatrix> WeightLoader::product_form(const std::string& name,
                                                const ConstTensorView& matrix,
                                                const WeightCut& cut) {
  if (!rounds(matrix)) {
    if (is_whole(cut)) return WeightMatrix(matrix);
    const std::int64_t counted = weights_.mapped_bytes;
    HYBRIDATTN_ASSIGN(const ConstTensorView part, part_of(matrix, cut));
    weights_.mapped_bytes = counted;  // it is part of what was counted
    return WeightMatrix(part);
  }
  WeightMatrix out;
  if (is_whole(cut)) {
    out = make_int8(matrix);
  } else {
    HYBRIDATTN_ASSIGN(out, make_int8_part(matrix, cut));
  }
  // The rows that are looked up come back one by one.
  checkpoint_.forget(name);
  return out;
}

Result<ConstTensorView> WeightLoader::floats(const std::string& name, Shape shape,
                                             const WeightCut& cut) {
  HYBRIDATTN_ASSIGN(const StoredTensor* tensor, take(name, shape));
  const auto count = tensor->bytes / static_cast<std::int64_t>(dtype_size(tensor->dtype));
  if (!is_whole(cut)) {
    std::vector<float> whole(static_cast<std::size_t>(count));
    copy_floats(*tensor, whole.data());
    return copy_part(view_of(whole.data(), DType::kF32, shape), cut);
  }
  auto* copy =
      reinterpret_cast<float*>(make_copy(count * static_cast<std::int64_t>(sizeof(float))));
  copy_floats(*tensor, copy);
  return view_of(copy, DType::kF32, shape);
}

Result<std::vector<std::int64_t>> WeightLoader::part_of_order(
    const std::vector<std::int64_t>& order, const WeightCut& cut) const {
  if (is_whole(cut)) return order;
  HYBRIDATTN_ASSIGN(const std::vector<ShardRange> ranges,
                    shard_ranges(cut.parts, shard_.rank, shard_.size));
  std::vector<std::int64_t> part;
  for (const ShardRange& range : ranges) {
    const auto first = order.begin() + static_cast<std::ptrdiff_t>(range.whole);
    part.insert(part.end(), first, first + static_cast<std::ptrdiff_t>(range.count));
  }
  return part;
}

Result<WeightMatrix> WeightLoader::reordered(const std::string& name,
                                             const std::vector<std::int64_t>& whole_order,
                                             std::int64_t columns, bool of_products,
                                             const WeightCut& cut) {
  const auto whole_rows = static_cast<std::int64_t>(whole_order.size());
  HYBRIDATTN_ASSIGN(const StoredTensor* tensor, take(name, {whole_rows, columns}));
  HYBRIDATTN_ASSIGN(const std::vector<std::int64_t> order, part_of_order(whole_order, cut));
  const auto rows = static_cast<std::int64_t>(order.size());
  const auto row_bytes = static_cast<std::size_t>(columns) * dtype_size(tensor->dtype);
  const bool round =
      of_products && rounds(view_of(tensor->data, tensor->dtype, {whole_rows, columns}));
  const std::size_t bytes = order.size() * row_bytes;
  std::vector<std::byte> rounded_away(round ? bytes : 0);
  std::byte* copy = round ? rounded_away.data() : make_copy(static_cast<std::int64_t>(bytes));
  for (std::size_t i = 0; i < order.size(); ++i) {
    std::memcpy(copy + i * row_bytes, tensor->data + static_cast<std::size_t>(order[i]) * row_bytes,
                row_bytes);
  }
  checkpoint_.forget(name);
  const ConstTensorView view = view_of(copy, tensor->dtype, {rows, columns});
  return round ? make_int8(view) : WeightMatrix(view);
}

Status WeightLoader::check_leftovers() const {
  for (const std::string& name : checkpoint_.names()) {
    if (taken_.count(name) == 0 && !may_be_skipped(name)) {
      return data_loss(
          "checkpoint: tensor ", name,
          " belongs to no parameter of the model; only mtp.* and model.visual.* may be "
          "left over");
    }
  }
  return {};
}

}  // namespace hybridattn::engine
