// Errors as values: Status, Result<T> and the closed list of codes.
//
// A message is one line. It names the call or the file, the argument, the value found and the value
// wanted. Nothing in the library throws, prints or aborts; `exceptions.h` has the throwing wrapper.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "hybridattn/export.h"

namespace hybridattn {

/// Why a call failed. The list is closed; each new code is a change of the interface.
enum class StatusCode : std::int32_t {
  kOk = 0,
  kInvalidArgument,     ///< An argument is wrong by itself: null, negative, wrong dtype or shape.
  kOutOfRange,          ///< An index or a length lies outside of what it indexes.
  kUnsupported,         ///< A legal request that no implementation at hand can serve.
  kNotFound,            ///< A file, a layer, a tensor or a key that must be there is not.
  kDataLoss,            ///< Bytes from outside (a file) are damaged or contradict themselves.
  kResourceExhausted,   ///< No page, slot, memory or budget is left; nothing was changed.
  kFailedPrecondition,  ///< The object is in the wrong state for the call: stale handle, no plan.
  kCancelled,           ///< The caller asked to stop.
  kDeviceError,         ///< The device reported a fault, now or earlier; the message says which.
  kInternal,            ///< A broken invariant of the library: please report it.
};

/// The name of a code in lower case with underscores, e.g. "invalid_argument".
HYBRIDATTN_API std::string_view status_code_name(StatusCode code) noexcept;

/// Success, or a code with a message. Cheap to return on success: no allocation.
class [[nodiscard]] Status {
 public:
  Status() noexcept = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const noexcept { return code_ == StatusCode::kOk; }
  StatusCode code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

namespace detail {
inline void append(std::string& out, std::string_view part) { out += part; }
HYBRIDATTN_API void append(std::string& out, float part);
HYBRIDATTN_API void append(std::string& out, double part);
template <std::integral T>
void append(std::string& out, T part) {
  if constexpr (std::same_as<T, bool>) {
    out += part ? "true" : "false";
  } else {
    out += std::to_string(part);
  }
}
}  // namespace detail

/// Joins text, numbers and booleans into one string; floating point in the shortest exact form.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::string out;
  (detail::append(out, parts), ...);
  return out;
}

/// An error whose message is the parts joined by `concat`.
template <class... Parts>
Status error(StatusCode code, const Parts&... parts) {
  return Status(code, concat(parts...));
}
template <class... Parts>
Status invalid_argument(const Parts&... parts) {
  return error(StatusCode::kInvalidArgument, parts...);
}
template <class... Parts>
Status data_loss(const Parts&... parts) {
  return error(StatusCode::kDataLoss, parts...);
}

/// A value, or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT: implicit by design, as is the next.
  Result(Status status) : status_(std::move(status)) {
    if (status_.ok()) status_ = Status(StatusCode::kInternal, "Result made from an ok Status");
  }

  bool ok() const noexcept { return value_.has_value(); }
  const Status& status() const noexcept { return status_; }

  /// The value. Only when ok().
  T& value() & { return *value_; }
  const T& value() const& { return *value_; }
  T&& value() && { return *std::move(value_); }
  T& operator*() & { return *value_; }
  const T& operator*() const& { return *value_; }
  T&& operator*() && { return *std::move(value_); }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  Status status_;
  std::optional<T> value_;
};

}  // namespace hybridattn
