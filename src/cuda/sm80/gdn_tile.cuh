// Tiles of 64 tokens of one head in shared memory, brought by copies of the threads.
#pragma once

#include "src/cuda/mma.cuh"
#include "src/cuda/sm80/gdn_chunk.cuh"

namespace hybridattn::cuda {

/// `count` tokens of x from `first` on, Channels channels of a head from `channel` on, in rows
/// whose pieces are swizzled; zeros for the tokens after them and the channels that x has not,
/// which are not read. Threads: how many take part.
template <class X, int Channels, int Threads>
__device__ void load_tile(unsigned char* tile, const HeadView& x, std::int64_t first, int count,
                          int head, int channel = 0) {
  constexpr int kPieces = Channels / 8;
  constexpr int kRows = Threads / kPieces;  // at once
  const int row = static_cast<int>(threadIdx.x) / kPieces;
  const int piece = static_cast<int>(threadIdx.x) % kPieces;
  const std::uint32_t to = shared_address(tile) + swizzled<kPieces * 16>(row, piece);
  static_assert(kRows % 8 == 0, "the swizzle of all rows of a thread is one");
  const X* from = x.as<const X>() + x.at(first + row, head, channel + piece * 8);
  const std::int64_t step = kRows * x.stride[0];
  if (channel + piece * 8 >= x.channels) count = 0;
#pragma unroll
  for (int i = 0; i < kChunk / kRows; ++i) {
    copy_async(to + i * kRows * kPieces * 16, from, i * kRows + row < count);
    from += step;
  }
}

/// `bytes` as they are, a multiple of 16.
template <int Threads>
__device__ void copy_pieces(void* to, const void* from, int bytes) {
  for (int at = static_cast<int>(threadIdx.x) * 16; at < bytes; at += Threads * 16) {
    copy_async(shared_address(to) + at, static_cast<const unsigned char*>(from) + at, true);
  }
}

}  // namespace hybridattn::cuda
