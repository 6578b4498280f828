// Memory of copied weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

namespace hybridattn::engine {

/// Takes room off large blocks, which lie in huge pages where the system gives them: what is read
/// from end to end at each step costs a walk of the page tables for every page. Owns the blocks.
class WeightBlocks {
 public:
  /// At least `bytes`, aligned to 64, not initialised. Throws std::bad_alloc.
  std::byte* take(std::int64_t bytes);

 private:
  struct Free {
    void operator()(std::byte* block) const { std::free(block); }
  };

  std::byte* add_block(std::int64_t bytes);

  std::vector<std::unique_ptr<std::byte, Free>> blocks_;
  std::byte* next_ = nullptr;  // of the last shared block
  std::int64_t left_ = 0;
};

}  // namespace hybridattn::engine
