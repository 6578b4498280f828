#include "bench/cpu/ceilings.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "bench/cpu/memory.h"
#include "bench/cpu/tensors.h"
#include "bench/cpu/timing.h"

namespace hybridattn::bench {
namespace {

constexpr std::int64_t kPieces = 64;
constexpr int kRounds = 3;

/// Sums of the bytes, so that nothing is left out; eight chains.
template <bool kPrefetch>
std::uint64_t read_piece(const std::byte* data, std::int64_t bytes) {
  std::uint64_t sums[8] = {};
  for (std::int64_t i = 0; i < bytes; i += 64) {
    if (kPrefetch) __builtin_prefetch(data + i + 4096);
    std::uint64_t line[8];
    std::memcpy(line, data + i, sizeof line);
    for (int j = 0; j < 8; ++j) sums[j] += line[j];
  }
  std::uint64_t sum = 0;
  for (const std::uint64_t part : sums) sum += part;
  return sum;
}

/// The best of a few rounds of `body(piece)`, as work a second.
template <class Body>
double best_rate(Context& context, double work_of_piece, const Body& body) {
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const double begin = now();
    parallel_for(context.executor(), kPieces, [&](std::int64_t piece, int) { body(piece); });
    best = std::max(best, work_of_piece * kPieces / (now() - begin));
  }
  return best;
}

#if defined(__x86_64__)
constexpr long kLoops = 40'000, kTileLoops = 20'000;

// Sixteen chains in registers of their own, in assembly so that nothing is spilled or merged.
#define HYBRIDATTN_SIXTEEN(f) \
  f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)
#define HYBRIDATTN_ZERO(i) "vpxord %%zmm" #i ", %%zmm" #i ", %%zmm" #i "\n"
#define HYBRIDATTN_FMA(i) "vfmadd231ps %%zmm16, %%zmm17, %%zmm" #i "\n"
#define HYBRIDATTN_DOT(i) "vdpbf16ps %%zmm16, %%zmm17, %%zmm" #i "\n"
#define HYBRIDATTN_DOT8(i) "vpdpbusd %%zmm16, %%zmm17, %%zmm" #i "\n"
#define HYBRIDATTN_LOOP(body) "1:\n" body "dec %0\njnz 1b\n"

void run_fma512() {
  long loops = kLoops;
  asm volatile(HYBRIDATTN_SIXTEEN(HYBRIDATTN_ZERO) "vpxord %%zmm16, %%zmm16, %%zmm16\n"
               "vpxord %%zmm17, %%zmm17, %%zmm17\n" HYBRIDATTN_LOOP(HYBRIDATTN_SIXTEEN(HYBRIDATTN_FMA))
               : "+r"(loops) : : "cc", "memory");
}
void run_dot512() {
  long loops = kLoops;
  asm volatile(HYBRIDATTN_SIXTEEN(HYBRIDATTN_ZERO) "vpxord %%zmm16, %%zmm16, %%zmm16\n"
               "vpxord %%zmm17, %%zmm17, %%zmm17\n" HYBRIDATTN_LOOP(HYBRIDATTN_SIXTEEN(HYBRIDATTN_DOT))
               : "+r"(loops) : : "cc", "memory");
}
void run_int8_dot512() {
  long loops = kLoops;
  asm volatile(HYBRIDATTN_SIXTEEN(HYBRIDATTN_ZERO) "vpxord %%zmm16, %%zmm16, %%zmm16\n"
               "vpxord %%zmm17, %%zmm17, %%zmm17\n" HYBRIDATTN_LOOP(HYBRIDATTN_SIXTEEN(HYBRIDATTN_DOT8))
               : "+r"(loops) : : "cc", "memory");
}
/// Products of tiles of numbers that are not zero (zeros cost less power and so run faster): left
/// ones from the first-level cache, right ones from a quarter of the second-level one.
void run_tiles(const std::byte* block) {
  constexpr long kLeft = 16 << 10, kRight = 256 << 10;
  struct alignas(64) {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  asm volatile(
      "ldtilecfg %0\ntilezero %%tmm0\ntilezero %%tmm1\ntilezero %%tmm2\n"
      "tilezero %%tmm3\n"
      :
      : "m"(config));
  for (long i = 0; i < kTileLoops; ++i) {
    const std::byte* left = block + i * 2048 % kLeft;
    const std::byte* right = block + kLeft + i * 2048 % kRight;
    asm volatile(
        "tileloadd (%0,%2,1), %%tmm4\ntileloadd (%1,%2,1), %%tmm6\n"
        "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\ntileloadd 1024(%0,%2,1), %%tmm5\n"
        "tdpbf16ps %%tmm6, %%tmm5, %%tmm1\ntileloadd 1024(%1,%2,1), %%tmm7\n"
        "tdpbf16ps %%tmm7, %%tmm4, %%tmm2\ntdpbf16ps %%tmm7, %%tmm5, %%tmm3\n"
        :
        : "r"(left), "r"(right), "r"(64l)
        : "memory");
  }
  asm volatile("tilerelease");
}

void measure_arithmetic(Context& context, Ceilings& out) {
  const Isa isa = context.isa();
  if (isa >= Isa::kAvx512) {
    out.fma = best_rate(context, 16 * 16 * 2.0 * kLoops, [](std::int64_t) { run_fma512(); });
  }
  if (isa >= Isa::kAvx512Bf16) {
    out.bf16_dot = best_rate(context, 16 * 32 * 2.0 * kLoops, [](std::int64_t) { run_dot512(); });
  }
  // Both families with bf16 dot products have those of bytes.
  if (isa >= Isa::kAvx512Bf16) {
    out.int8_dot =
        best_rate(context, 16 * 64 * 2.0 * kLoops, [](std::int64_t) { run_int8_dot512(); });
  }
  if (isa >= Isa::kAmx) {
    const HostTensor numbers(DType::kBF16, {(272 << 10) / 2}, -1, 1);
    const auto* block = static_cast<const std::byte*>(numbers.view().data);
    out.tiles =
        best_rate(context, 4 * 16384.0 * kTileLoops, [&](std::int64_t) { run_tiles(block); });
  }
}
#else
void measure_arithmetic(Context&, Ceilings&) {}
#endif

/// The processor's name, as the system tells it.
std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

}  // namespace

void report_ceilings(Context& context, const Ceilings& ceilings, Report& report) {
  report.row({{"processor", processor_name()},
              {"isa", std::string(isa_name(context.isa()))},
              {"threads", std::int64_t{context.executor().concurrency()}},
              {"read_gb_per_s", ceilings.read / 1e9, 1},
              {"copy_gb_per_s", ceilings.copy / 1e9, 1},
              {"fma_gflop_per_s", ceilings.fma / 1e9, 0},
              {"bf16_dot_gflop_per_s", ceilings.bf16_dot / 1e9, 0},
              {"int8_dot_gop_per_s", ceilings.int8_dot / 1e9, 0},
              {"tiles_gflop_per_s", ceilings.tiles / 1e9, 0}});
}

double update_in_place(Context& context, std::int64_t bytes) {
  const std::int64_t piece = (bytes / kPieces + 63) / 64 * 64;
  const BigBlock block(piece * kPieces);
  const auto update = [&](std::int64_t i, int) {
    std::byte line[4096];  // out and back: copies are the fastest loads and stores there are
    for (std::int64_t at = 0; at < piece; at += 4096) {
      const auto size = static_cast<std::size_t>(std::min<std::int64_t>(piece - at, 4096));
      std::memcpy(line, block.data() + i * piece + at, size);
      line[0] = std::byte{1};
      std::memcpy(block.data() + i * piece + at, line, size);
    }
  };
  const Times t =
      time_calls(0.2, [&](std::int64_t) { parallel_for(context.executor(), kPieces, update); });
  return 2.0 * static_cast<double>(piece * kPieces) / t.median;
}

double CeilingProbe::read() {
  constexpr std::int64_t piece = kBytes / kPieces;
  std::vector<std::uint64_t> sums(kPieces);
  // Some machines are faster with prefetches, some without.
  const double ahead = best_rate(context_, static_cast<double>(piece), [&](std::int64_t i) {
    sums[static_cast<std::size_t>(i)] = read_piece<true>(from_.data() + i * piece, piece);
  });
  const double plain = best_rate(context_, static_cast<double>(piece), [&](std::int64_t i) {
    sums[static_cast<std::size_t>(i)] = read_piece<false>(from_.data() + i * piece, piece);
  });
  const bool right = sums == std::vector<std::uint64_t>(kPieces, sums[0]);
  return right ? std::max(ahead, plain) : 0;
}

Ceilings CeilingProbe::measure() {
  constexpr std::int64_t piece = kBytes / kPieces;
  Ceilings out;
  out.read = read();
  out.copy = best_rate(context_, 2.0 * piece, [&](std::int64_t i) {
    std::memcpy(to_.data() + i * piece, from_.data() + i * piece, piece);
  });
  measure_arithmetic(context_, out);
  return out;
}

}  // namespace hybridattn::bench
