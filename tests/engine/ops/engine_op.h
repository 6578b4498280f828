// What tests of the engine's ops share: a context of the test device, and arrays that both read.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::engine {

using hybridattn::testing::Buffer;
using hybridattn::testing::Layout;

class EngineOp : public ::testing::Test {
 protected:
  EngineOp() : context_(hybridattn::testing::make_test_context()) {}
  Context& context() { return *context_; }

 private:
  std::unique_ptr<Context> context_;
};

/// 32-bit integers in memory of the test device.
class Ints {
 public:
  explicit Ints(const std::vector<std::int32_t>& values)
      : bytes_(values.size() * sizeof(std::int32_t), 0), count_(values.size()) {
    if (count_ > 0) std::memcpy(bytes_.data(), values.data(), bytes_.size());
  }
  const std::int32_t* data() const { return reinterpret_cast<const std::int32_t*>(bytes_.data()); }
  std::span<const std::int32_t> span() const { return {data(), count_}; }

 private:
  hybridattn::testing::Bytes bytes_;
  std::size_t count_;
};

}  // namespace hybridattn::engine
