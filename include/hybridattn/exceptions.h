// For callers who like exceptions: one class and two functions, over the same values.
#pragma once

#include <stdexcept>
#include <utility>

#include "hybridattn/status.h"

namespace hybridattn {

/// A Status as an exception; what() is its message.
class Error : public std::runtime_error {
 public:
  explicit Error(const Status& status)
      : std::runtime_error(status.message()), code_(status.code()) {}
  StatusCode code() const noexcept { return code_; }

 private:
  StatusCode code_;
};

/// Throws Error unless ok.
inline void or_throw(const Status& status) {
  if (!status.ok()) throw Error(status);
}
/// The value, or throws Error.
template <class T>
T or_throw(Result<T> result) {
  if (!result.ok()) throw Error(result.status());
  return std::move(result).value();
}

}  // namespace hybridattn
