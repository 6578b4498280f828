// Canary: what a call does not name must be byte-identical after it.
#pragma once

#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/tensor.h"

namespace hybridattn::testing {

/// Remembers a buffer, gaps included. Parts that the call may write are allowed one by one.
class Canary {
 public:
  explicit Canary(const Buffer& buffer)
      : buffer_(buffer), before_(buffer.memory()), may_change_(before_.size(), false) {}

  Canary& allow(const Index& prefix) {
    buffer_.for_each(prefix, [&](std::size_t offset) {
      for (std::size_t b = 0; b < buffer_.element_size(); ++b) may_change_[offset + b] = true;
    });
    return *this;
  }
  Canary& allow_each(const std::vector<std::int64_t>& first) {
    for (const std::int64_t i : first) allow({i});
    return *this;
  }

  ::testing::AssertionResult intact() const {
    for (std::size_t i = 0; i < before_.size(); ++i) {
      if (may_change_[i] || buffer_.memory()[i] == before_[i]) continue;
      return ::testing::AssertionFailure()
             << "byte " << i << " of " << before_.size() << " was not named and has changed";
    }
    return ::testing::AssertionSuccess();
  }

 private:
  const Buffer& buffer_;
  Bytes before_;
  std::vector<bool> may_change_;
};

/// A pattern that differs from byte to byte, so that moved bytes are seen too.
inline void fill_pattern(Buffer& buffer) {
  for (std::size_t i = 0; i < buffer.memory().size(); ++i) {
    buffer.memory()[i] = static_cast<Byte>((i * 37 + i / 251) & 0x7f);
  }
}

}  // namespace hybridattn::testing
