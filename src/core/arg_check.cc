#include "src/core/arg_check.h"

#include <string_view>

namespace hybridattn::core {
namespace {

bool allows(Dtypes dtypes, DType dtype) noexcept {
  switch (dtypes) {
    case Dtypes::kModelFloat: return is_model_float(dtype);
    case Dtypes::kF32: return dtype == DType::kF32;
    case Dtypes::kStateFloat: return dtype == DType::kF32 || dtype == DType::kBF16;
    case Dtypes::kCacheFloat: return is_cache_float(dtype);
    case Dtypes::kI8: return dtype == DType::kI8;
  }
  return false;
}

const char* allowed_text(Dtypes dtypes) noexcept {
  switch (dtypes) {
    case Dtypes::kModelFloat: return "f32, bf16 or f16";
    case Dtypes::kF32: return "f32";
    case Dtypes::kStateFloat: return "f32 or bf16";
    case Dtypes::kCacheFloat: return "f32, bf16, f16 or f8_e4m3";
    case Dtypes::kI8: return "i8";
  }
  return "";
}

}  // namespace

void ArgCheck::fail(StatusCode code, std::string message) {
  status_ = error(code, op_, ": ", message);
}

std::int64_t ArgCheck::operator[](const char* symbol) const noexcept {
  for (int i = 0; i < num_bound_; ++i) {
    const Bound& bound = bound_[static_cast<std::size_t>(i)];
    if (std::string_view(bound.symbol) == symbol) return bound.size;
  }
  return -1;
}

void ArgCheck::bind(const char* name, int d, const char* symbol, std::int64_t size) {
  if (size < 0) {
    fail(StatusCode::kInvalidArgument,
         concat(name, " has ", symbol, " = ", size, " (dim ", d, "), must be at least 0"));
    return;
  }
  for (int i = 0; i < num_bound_; ++i) {
    const Bound& bound = bound_[static_cast<std::size_t>(i)];
    if (std::string_view(bound.symbol) != symbol) continue;
    if (bound.size != size) {
      fail(StatusCode::kInvalidArgument, concat(name, " has ", symbol, " = ", size, " (dim ", d,
                                                "), but ", bound.tensor, " has ", bound.size));
    }
    return;
  }
  bound_[static_cast<std::size_t>(num_bound_++)] = Bound{symbol, size, name};
}

void ArgCheck::check_tensor(const char* name, const ConstTensorView& view, Symbols symbols,
                            Dtypes dtypes) {
  if (!status_.ok()) return;
  if (view.rank != static_cast<int>(symbols.size())) {
    fail(StatusCode::kInvalidArgument,
         concat(name, " has rank ", view.rank, ", must be ", symbols.size()));
    return;
  }
  int d = 0;
  for (const char* symbol : symbols) {
    bind(name, d, symbol, view.dim(d));
    if (!status_.ok()) return;
    ++d;
  }
  if (!allows(dtypes, view.dtype)) {
    fail(StatusCode::kUnsupported,
         concat(name, " has dtype ", dtype_name(view.dtype), ", must be ", allowed_text(dtypes)));
    return;
  }
  if (view.num_elements() == 0) return;
  if (view.data == nullptr) {
    fail(StatusCode::kInvalidArgument, concat(name, " has no data (a null pointer)"));
    return;
  }
  const int last = view.rank - 1;
  if (last >= 0 && view.dim(last) > 1 && view.stride(last) != 1) {
    fail(StatusCode::kUnsupported,
         concat(name, " has stride ", view.stride(last), " in its last dimension, must be 1"));
  }
}

ArgCheck& ArgCheck::input(const char* name, const ConstTensorView& view, Symbols symbols,
                          Dtypes dtypes) {
  check_tensor(name, view, symbols, dtypes);
  return *this;
}

ArgCheck& ArgCheck::output(const char* name, const ConstTensorView& view, Symbols symbols,
                           Dtypes dtypes) {
  check_tensor(name, view, symbols, dtypes);
  if (!status_.ok() || view.num_elements() == 0) return *this;
  for (int d = 0; d < view.rank; ++d) {
    if (view.dim(d) > 1 && view.stride(d) == 0) {
      fail(StatusCode::kInvalidArgument,
           concat(name, " is written and has stride 0 in dimension ", d));
      break;
    }
  }
  return *this;
}

ArgCheck& ArgCheck::optional_input(const char* name, const ConstTensorView& view, Symbols symbols,
                                   Dtypes dtypes) {
  if (!view.empty()) check_tensor(name, view, symbols, dtypes);
  return *this;
}

ArgCheck& ArgCheck::optional_output(const char* name, const ConstTensorView& view, Symbols symbols,
                                    Dtypes dtypes) {
  return view.empty() ? *this : output(name, view, symbols, dtypes);
}

ArgCheck& ArgCheck::distinct(const char* output, const ConstTensorView& out, const char* input,
                             const ConstTensorView& in) {
  const bool same = out.data == in.data && out.data != nullptr && out.num_elements() > 0;
  return require(!same, output, " is ", input, ", must be memory of its own");
}

ArgCheck& ArgCheck::array(const char* name, const void* data, std::int64_t count) {
  return require(data != nullptr || count <= 0, name, " is null, must hold ", count, " elements");
}

}  // namespace hybridattn::core
