// Moves keys and values within their caches on CUDA: a thread for one word of one head, which it
// moves for all pairs in their order. Threads need nothing of each other.
#include "src/cuda/grid.cuh"
#include "src/cuda/kernels.h"
#include "src/cuda/row_elements.cuh"

namespace hybridattn::cuda {
namespace {

constexpr int kThreads = 128;
/// Pairs whose sources are on their way at once.
constexpr int kAhead = 8;

struct CopyParams {
  View k_cache, v_cache;
  const std::int64_t* source;       // [count]
  const std::int64_t* destination;  // [count]
  std::int64_t count;
  std::int64_t heads, k_words, v_words, page_size;
};

template <class Word>
__device__ Word* word_of(const View& cache, std::int64_t place, std::int64_t page_size,
                         std::int64_t head, std::int64_t word) {
  const Split at = split(place, page_size);
  return row_of(cache, at.whole, at.rest, head).as<Word>() + word;
}

/// Four blocks a multiprocessor are enough; for more the compiler would spill.
template <class Word>
__global__ void __launch_bounds__(kThreads, 4)
    copy_kv_kernel(const __grid_constant__ CopyParams p) {
  let_next_begin();
  wait_for_writers();
  const std::int64_t words = p.k_words + p.v_words;  // of a head: k, then v
  for (std::int64_t i = flat_index(); i < p.heads * words; i += flat_step()) {
    const Split at = split(i, words);
    const bool key = at.rest < p.k_words;
    const View& cache = key ? p.k_cache : p.v_cache;
    const std::int64_t word = key ? at.rest : at.rest - p.k_words;
    const auto address = [&](std::int64_t place) {
      return word_of<Word>(cache, place, p.page_size, at.whole, word);
    };
    for (std::int64_t first = 0; first < p.count; first += kAhead) {
      std::int64_t source[kAhead], destination[kAhead];
      Word values[kAhead];
#pragma unroll
      for (int e = 0; e < kAhead; ++e) {
        source[e] = destination[e] = kPadIndex;
        values[e] = Word{};
        if (first + e >= p.count) continue;
        source[e] = p.source[first + e];
        destination[e] = p.destination[first + e];
        if (source[e] == kPadIndex) destination[e] = kPadIndex;
        if (destination[e] != kPadIndex) values[e] = *address(source[e]);
      }
      // What an earlier pair of these writes, a later one reads: not what was there before.
#pragma unroll
      for (int e = 1; e < kAhead; ++e) {
#pragma unroll
        for (int before = 0; before < e; ++before) {
          if (destination[before] == source[e]) values[e] = values[before];
        }
      }
#pragma unroll
      for (int e = 0; e < kAhead; ++e) {
        if (destination[e] != kPadIndex) *address(destination[e]) = values[e];
      }
    }
  }
}

std::int64_t row_bytes(const TensorView& cache) {
  return cache.dim(3) * static_cast<std::int64_t>(dtype_size(cache.dtype));
}

template <class Word>
Status launch_words(const ops::CopyKvParams& p, const core::DeviceLaunch& launch) {
  const auto bytes = static_cast<std::int64_t>(sizeof(Word));
  const CopyParams params{View(p.k_cache),
                          View(p.v_cache),
                          p.source,
                          p.destination,
                          p.count,
                          p.k_cache.dim(2),
                          row_bytes(p.k_cache) / bytes,
                          row_bytes(p.v_cache) / bytes,
                          p.k_cache.dim(1)};
  const std::int64_t words = params.heads * (params.k_words + params.v_words);
  if (words == 0) return {};
  return launch_early("copy_kv", launch, copy_kv_kernel<Word>,
                      grid_for(words, kThreads, *launch.info), kThreads, 0, params);
}

Status run(const ops::CopyKvParams& p, const core::DeviceLaunch& launch) {
  if (p.count == 0) return {};
  bool words = true;
  for (const TensorView* cache : {&p.k_cache, &p.v_cache}) {
    words = words && rows_aligned(*cache) && row_bytes(*cache) % 16 == 0;
  }
  return words ? launch_words<uint4>(p, launch) : launch_words<unsigned char>(p, launch);
}

}  // namespace

core::DeviceKernels<ops::CopyKvParams> copy_kv_kernels() {
  return {{{"smxx", nullptr, nullptr, run}}};
}

}  // namespace hybridattn::cuda
