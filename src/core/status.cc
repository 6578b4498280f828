// Texts of the status codes.
#include "hybridattn/status.h"

#include <charconv>

namespace hybridattn {

std::string_view status_code_name(StatusCode code) noexcept {
  switch (code) {
    case StatusCode::kOk: return "ok";
    case StatusCode::kInvalidArgument: return "invalid_argument";
    case StatusCode::kOutOfRange: return "out_of_range";
    case StatusCode::kUnsupported: return "unsupported";
    case StatusCode::kNotFound: return "not_found";
    case StatusCode::kDataLoss: return "data_loss";
    case StatusCode::kResourceExhausted: return "resource_exhausted";
    case StatusCode::kFailedPrecondition: return "failed_precondition";
    case StatusCode::kCancelled: return "cancelled";
    case StatusCode::kDeviceError: return "device_error";
    case StatusCode::kInternal: return "internal";
  }
  return "unknown";
}

namespace {

// In the type's own shortest form: 0.1f is "0.1" and not the double beside it.
template <class T>
void append_number(std::string& out, T number) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), number);
  out.append(text, end.ptr);
}

}  // namespace

namespace detail {
void append(std::string& out, float part) { append_number(out, part); }
void append(std::string& out, double part) { append_number(out, part); }
}  // namespace detail

}  // namespace hybridattn
