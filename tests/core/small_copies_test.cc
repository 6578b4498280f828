// Copies that go to a device together, in no order.
#include <array>

#include <gtest/gtest.h>

#include "src/cuda/upload.h"

namespace hybridattn::testing {
namespace {

using cuda::SmallCopies;

void add(SmallCopies& copies, std::byte* to, std::uint32_t bytes) {
  copies.all[copies.count++] = {to, nullptr, bytes};
}

TEST(SmallCopies, NoTwoWriteToOnePlace) {
  std::array<std::byte, 100> memory{};
  std::byte* const at = memory.data();
  SmallCopies copies;
  EXPECT_TRUE(copies.can_take(at + 20, 20));
  add(copies, at + 20, 20);
  EXPECT_TRUE(copies.can_take(at, 20)) << "what ends where it begins";
  EXPECT_TRUE(copies.can_take(at + 40, 20)) << "what begins where it ends";
  for (const auto& [first, bytes] : {std::pair{20, 20}, {0, 21}, {39, 1}, {25, 5}, {0, 100}}) {
    EXPECT_FALSE(copies.can_take(at + first, static_cast<std::size_t>(bytes))) << first;
  }
}

TEST(SmallCopies, NoMoreThanThereIsRoomFor) {
  std::array<std::byte, 100> memory{};
  SmallCopies copies;
  for (std::size_t i = 0; i < SmallCopies::kMost; ++i) {
    EXPECT_TRUE(copies.can_take(memory.data() + i, 1)) << i;
    add(copies, memory.data() + i, 1);
  }
  EXPECT_FALSE(copies.can_take(memory.data() + 50, 1));
}

}  // namespace
}  // namespace hybridattn::testing
