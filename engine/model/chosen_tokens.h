// ChosenTokens: what steps chose, where the next step reads it, and on its way to the host.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/ops/greedy.h"
#include "hybridattn/context.h"
#include "hybridattn/fence.h"

namespace hybridattn::engine {

/// Next tokens that a step chose, not yet read.
struct Choices {
  std::uint64_t step = 0;            ///< which sending
  std::vector<std::int32_t> places;  ///< of each in the array: what chosen_id takes
};

/// Each step overwrites the array; what it held is copied to the host first, so that a step may be
/// ordered before the last one's tokens are read. Owns all of it; `context` is borrowed.
class ChosenTokens {
 public:
  explicit ChosenTokens(Context& context) : context_(context) {}
  ~ChosenTokens() { release(); }
  ChosenTokens(const ChosenTokens&) = delete;
  ChosenTokens& operator=(const ChosenTokens&) = delete;

  /// Room for `count`. What was there is gone where it grows. Errors: resource_exhausted,
  /// device_error.
  Status reserve(std::size_t count);
  /// The array, where kernels read and write it.
  std::span<NextToken> device() const { return {device_, size_}; }

  /// Orders a copy of the first `count` behind what was ordered so far. Returns its number. The
  /// last kSent can be received.
  Result<std::uint64_t> send(std::size_t count);
  /// Waits for a copy and for nothing behind it. It stays until kSent more are sent. Errors:
  /// failed_precondition for one that was overwritten; device_error.
  Result<std::span<const NextToken>> receive(std::uint64_t sending);

  static constexpr std::size_t kSent = 2;

 private:
  struct Copy {
    NextToken* host = nullptr;
    std::size_t count = 0;
    std::unique_ptr<Fence> arrived;
  };
  Copy& copy_of(std::uint64_t sending) { return copies_[sending % kSent]; }
  void release();

  Context& context_;
  NextToken* device_ = nullptr;
  std::size_t size_ = 0;
  std::array<Copy, kSent> copies_;
  std::uint64_t sent_ = 0;
};

}  // namespace hybridattn::engine
