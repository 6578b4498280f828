// Checks an op's arguments by symbolic shapes that are shared across its tensors.
//
//   ArgCheck check("rms_norm");
//   check.input("x", args.x, {"T", "D"}).input("weight", args.weight, {"D"});
//   check.output("out", args.out, {"T", "D"});
//   if (!check.ok()) return check.status();
//
// The first tensor to name a symbol binds it; a later one that differs is the error, and the
// message has both tensors and both sizes. The first error stays, later checks do nothing.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "hybridattn/status.h"
#include "hybridattn/tensor.h"

namespace hybridattn::core {

enum class Dtypes : std::uint8_t {
  kModelFloat,  ///< f32, bf16, f16
  kF32,         ///< f32 alone
  kStateFloat,  ///< f32, bf16: recurrent states at rest
  kCacheFloat,  ///< f32, bf16, f16, f8_e4m3: keys and values at rest
  kI8,          ///< i8 alone: quantised weights
};

class ArgCheck {
 public:
  using Symbols = std::initializer_list<const char*>;

  explicit ArgCheck(const char* op) : op_(op) {}

  /// A tensor that is read: data unless it has no element, rank and dims as the symbols say, the
  /// last dimension dense.
  ArgCheck& input(const char* name, const ConstTensorView& view, Symbols symbols,
                  Dtypes dtypes = Dtypes::kModelFloat);
  /// A tensor that is written: the same, and no two elements may share an address through a zero
  /// stride.
  ArgCheck& output(const char* name, const ConstTensorView& view, Symbols symbols,
                   Dtypes dtypes = Dtypes::kModelFloat);
  /// The same, but a view without data is fine and binds nothing.
  ArgCheck& optional_input(const char* name, const ConstTensorView& view, Symbols symbols,
                           Dtypes dtypes = Dtypes::kModelFloat);

  ArgCheck& optional_output(const char* name, const ConstTensorView& view, Symbols symbols,
                            Dtypes dtypes = Dtypes::kModelFloat);

  /// An output that does not start where an input does: the op cannot work in place.
  ArgCheck& distinct(const char* output, const ConstTensorView& out, const char* input,
                     const ConstTensorView& in);

  /// `condition` or an error whose message is the op's name and the parts.
  template <class... Parts>
  ArgCheck& require(bool condition, const Parts&... parts) {
    if (status_.ok() && !condition) fail(StatusCode::kInvalidArgument, concat(parts...));
    return *this;
  }
  template <class... Parts>
  ArgCheck& require_supported(bool condition, const Parts&... parts) {
    if (status_.ok() && !condition) fail(StatusCode::kUnsupported, concat(parts...));
    return *this;
  }
  /// An array of the caller's: not null unless it has no element.
  ArgCheck& array(const char* name, const void* data, std::int64_t count);

  bool ok() const noexcept { return status_.ok(); }
  const Status& status() const noexcept { return status_; }
  /// The size bound to a symbol, or -1.
  std::int64_t operator[](const char* symbol) const noexcept;
  const char* op() const noexcept { return op_; }

 private:
  struct Bound {
    const char* symbol;
    std::int64_t size;
    const char* tensor;
  };
  void fail(StatusCode code, std::string message);
  void check_tensor(const char* name, const ConstTensorView& view, Symbols symbols, Dtypes dtypes);
  void bind(const char* name, int d, const char* symbol, std::int64_t size);

  const char* op_;
  std::array<Bound, 16> bound_{};
  int num_bound_ = 0;
  Status status_;
};

}  // namespace hybridattn::core
