#include "engine/text/pcre_splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cstdint>
#include <string>

#include "engine/text/utf8.h"

namespace hybridattn::engine {
namespace {

constexpr std::size_t kMaxPatternBytes = 16384;
// Per match. Patterns of tokenizers need a few steps a character; more means runaway back-tracking.
constexpr std::uint32_t kMatchLimit = 10'000'000;
constexpr std::uint32_t kHeapLimitKiB = 64 * 1024;
constexpr std::size_t kJitStackStart = 32 * 1024;
constexpr std::size_t kJitStackMax = 4 * 1024 * 1024;

struct MatchDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  void operator()(pcre2_jit_stack* stack) const { pcre2_jit_stack_free(stack); }
};

/// What one thread needs to match. Made per call of `split`, which keeps the splitter stateless.
struct MatchState {
  std::unique_ptr<pcre2_match_data, MatchDeleter> data;
  std::unique_ptr<pcre2_match_context, MatchDeleter> context;
  std::unique_ptr<pcre2_jit_stack, MatchDeleter> stack;

  explicit MatchState(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)),
        context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr)) {
    if (!context) return;
    pcre2_set_match_limit(context.get(), kMatchLimit);
    pcre2_set_heap_limit(context.get(), kHeapLimitKiB);
    if (stack) pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};

std::string pcre_message(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return std::string(reinterpret_cast<const char*>(text.data()));
}

void append_piece(std::string_view text, std::size_t begin, std::size_t end,
                  std::vector<std::string_view>& pieces) {
  if (begin < end) pieces.push_back(text.substr(begin, end - begin));
}

}  // namespace

Result<PcreSplitter> PcreSplitter::create(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return data_loss("split pattern: found ", pattern.size(), " bytes; wanted at most ",
                     kMaxPatternBytes);
  }
  if (const auto invalid = find_invalid_utf8(pattern)) {
    return data_loss("split pattern: invalid UTF-8 at byte ", *invalid);
  }
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* compiled =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &offset, nullptr);
  if (compiled == nullptr) {
    return data_loss("split pattern: PCRE2 refuses it at byte ", offset, ": ", pcre_message(code));
  }
  std::shared_ptr<const void> owner(compiled, [](pcre2_code* freed) { pcre2_code_free(freed); });
  // Without JIT (not every platform has it) pcre2_match interprets: slower, same result.
  pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
  return PcreSplitter(std::move(owner));
}

Status PcreSplitter::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  MatchState state(code);
  if (!state.data || !state.context) {
    return error(StatusCode::kResourceExhausted, "split pattern: no memory for PCRE2's match data");
  }
  std::size_t done = 0;   // end of the last piece
  std::size_t start = 0;  // where the search goes on; past `done` only after an empty match
  while (start <= text.size()) {
    const int found = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                  start, PCRE2_NO_UTF_CHECK, state.data.get(), state.context.get());
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      return error(StatusCode::kResourceExhausted, "split pattern: PCRE2 gave up after byte ",
                   start, " of ", text.size(), ": ", pcre_message(found));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(state.data.get());
    const std::size_t begin = bounds[0];
    const std::size_t end = bounds[1];
    // \K in a look-around can put the start after the end or before what was already cut.
    if (begin > end || begin < done) {
      return error(StatusCode::kUnsupported, "split pattern: a match from byte ", begin, " to ",
                   end, " after one that ended at ", done, "; wanted matches in order");
    }
    append_piece(text, done, begin, pieces);
    append_piece(text, begin, end, pieces);
    done = end;
    start = end;
    if (begin == end) {
      if (end == text.size()) break;
      next_code_point(text, start);
    }
  }
  append_piece(text, done, text.size(), pieces);
  return {};
}

}  // namespace hybridattn::engine
