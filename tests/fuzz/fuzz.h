// What all fuzz targets share: values decoded from the bytes of an input, and a check that ends the
// process, so that libFuzzer and the corpus driver both keep the input.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "hybridattn/status.h"

namespace hybridattn::fuzz {

[[noreturn]] inline void fail(const char* file, int line, const std::string& message) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, message.c_str());
  std::abort();
}

/// FUZZ_CHECK(condition, parts of a message...).
#define FUZZ_CHECK(condition, ...)                                                                 \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      ::hybridattn::fuzz::fail(__FILE__, __LINE__,                                                 \
                               ::hybridattn::concat(#condition, ": " __VA_OPT__(, ) __VA_ARGS__)); \
    }                                                                                              \
  } while (false)

/// Values from the bytes of an input, first to last. Zeros follow behind the end.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : bytes_(data, size) {}

  bool empty() const { return bytes_.empty(); }
  std::uint8_t byte() {
    if (bytes_.empty()) return 0;
    const std::uint8_t value = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return value;
  }
  bool flag() { return (byte() & 1) != 0; }
  /// In [low, high], of as many bytes as the range needs.
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    const std::uint64_t range = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
    std::uint64_t value = 0;
    for (std::uint64_t left = range; left > 0; left >>= 8) value = value << 8 | byte();
    return low + static_cast<std::int64_t>(range == UINT64_MAX ? value : value % (range + 1));
  }
  std::int32_t int32(std::int64_t low, std::int64_t high) {
    return static_cast<std::int32_t>(integer(low, high));
  }
  /// An index of something with `count` elements, at least one.
  std::size_t index(std::size_t count) {
    return static_cast<std::size_t>(integer(0, static_cast<std::int64_t>(count) - 1));
  }
  std::string text(std::size_t length) {
    const auto part = bytes_.first(length < bytes_.size() ? length : bytes_.size());
    bytes_ = bytes_.subspan(part.size());
    return std::string(part.begin(), part.end());
  }
  std::string rest() { return text(bytes_.size()); }

 private:
  std::span<const std::uint8_t> bytes_;
};

/// A refusal as all of them must be: one of the codes, one line that says something and ends.
inline void check_refusal(const Status& status, std::initializer_list<StatusCode> codes) {
  bool listed = false;
  for (const StatusCode code : codes) listed = listed || status.code() == code;
  FUZZ_CHECK(listed, status_code_name(status.code()), ": ", status.message());
  FUZZ_CHECK(!status.message().empty());
  FUZZ_CHECK(status.message().size() < 2000, status.message());
  for (const char c : status.message()) {
    FUZZ_CHECK(static_cast<unsigned char>(c) >= 0x20, "a control character in: ", status.message());
  }
}

}  // namespace hybridattn::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
