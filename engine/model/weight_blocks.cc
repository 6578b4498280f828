#include "engine/model/weight_blocks.h"

#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace hybridattn::engine {
namespace {

constexpr std::int64_t kHugePage = std::int64_t{2} << 20;
constexpr std::int64_t kBlock = std::int64_t{64} << 20;
constexpr std::int64_t kAlignment = 64;

std::int64_t round_up(std::int64_t bytes, std::int64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

std::byte* WeightBlocks::add_block(std::int64_t bytes) {
  const auto size = static_cast<std::size_t>(round_up(bytes, kHugePage));
  auto* block = static_cast<std::byte*>(std::aligned_alloc(kHugePage, size));
  if (block == nullptr) throw std::bad_alloc();
  blocks_.emplace_back(block);
#if defined(__linux__)
  (void)madvise(block, size, MADV_HUGEPAGE);  // without them it is slower and right
#endif
  return block;
}

std::byte* WeightBlocks::take(std::int64_t bytes) {
  const std::int64_t size = round_up(bytes, kAlignment);
  if (size >= kBlock / 4) return add_block(size);
  if (size > left_) {
    next_ = add_block(kBlock);
    left_ = kBlock;
  }
  std::byte* out = next_;
  next_ += size;
  left_ -= size;
  return out;
}

}  // namespace hybridattn::engine
