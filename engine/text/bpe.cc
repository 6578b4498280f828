#include "engine/text/bpe.h"

#include <algorithm>
#include <array>
#include <limits>
#include <queue>

#include "engine/text/byte_alphabet.h"
#include "engine/text/quote.h"
#include "engine/text/utf8.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

// Up to here a linear scan for the lowest rank beats a heap, and everything fits on the stack.
constexpr std::size_t kShortPiece = 64;
constexpr std::uint32_t kNoRank = std::numeric_limits<std::uint32_t>::max();

/// A pair that may be merged, if its two ids are still the ones at `position`.
struct Candidate {
  std::uint32_t rank;
  std::int32_t position;
  std::int32_t left;
  std::int32_t right;
  std::int32_t merged;
};

/// Turns std::priority_queue into a queue of the lowest rank, then the lowest position.
struct Later {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  }
};

/// The symbols of a long piece as a linked list in place: removal costs O(1).
class SymbolList {
 public:
  SymbolList(std::vector<std::int32_t>& ids, const PairMap& merges) : ids_(ids), merges_(merges) {
    const auto count = static_cast<std::int32_t>(ids.size());
    links_.reserve(ids.size());
    for (std::int32_t i = 0; i < count; ++i) links_.push_back({i - 1, i + 1 < count ? i + 1 : -1});
    for (std::int32_t i = 0; i + 1 < count; ++i) push(i);
  }

  void merge_all() {
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      queue_.pop();
      const std::int32_t next = links_[index(top.position)].next;
      // A stale entry: one of its symbols was merged into another pair since.
      if (id(top.position) != top.left || next < 0 || id(next) != top.right) continue;
      merge(top.position, next, top.merged);
    }
    std::erase(ids_, kRemoved);
  }

 private:
  static constexpr std::int32_t kRemoved = -1;
  struct Link {
    std::int32_t prev;
    std::int32_t next;
  };

  static std::size_t index(std::int32_t position) { return static_cast<std::size_t>(position); }
  std::int32_t id(std::int32_t position) const { return ids_[index(position)]; }

  void push(std::int32_t position) {
    const std::int32_t next = links_[index(position)].next;
    if (next < 0) return;
    const Merge* found = merges_.find(id(position), id(next));
    if (found != nullptr) queue_.push({found->rank, position, id(position), id(next), found->id});
  }

  void merge(std::int32_t position, std::int32_t next, std::int32_t merged) {
    Link& link = links_[index(position)];
    ids_[index(position)] = merged;
    ids_[index(next)] = kRemoved;
    link.next = links_[index(next)].next;
    if (link.next >= 0) links_[index(link.next)].prev = position;
    if (link.prev >= 0) push(link.prev);
    push(position);
  }

  std::vector<std::int32_t>& ids_;
  const PairMap& merges_;
  std::vector<Link> links_;
  std::priority_queue<Candidate, std::vector<Candidate>, Later> queue_;
};

}  // namespace

Result<Bpe> Bpe::create(BpeSpec spec) {
  Bpe bpe;
  bpe.ignore_merges_ = spec.ignore_merges;
  HYBRIDATTN_TRY(bpe.add_tokens(spec.vocabulary));
  HYBRIDATTN_TRY(bpe.add_merges(spec.merges));
  bpe.find_byte_ids();
  bpe.whole_ = std::make_unique<std::atomic<std::uint8_t>[]>(bpe.tokens_.size());
  return bpe;
}

Status Bpe::add_tokens(std::vector<std::pair<std::string, std::int64_t>>& vocabulary) {
  std::int64_t last = -1;
  for (const auto& [token, id] : vocabulary) {
    if (id < 0 || id > kMaxId) {
      return data_loss("model.vocab: token ", in_quotes(token), ": found id ", id, "; wanted 0 to ",
                       kMaxId);
    }
    if (token.empty()) return data_loss("model.vocab: id ", id, ": found an empty token");
    last = std::max(last, id);
    max_token_bytes_ = std::max(max_token_bytes_, token.size());
  }
  tokens_.resize(static_cast<std::size_t>(last + 1));
  ids_.reset(vocabulary.size());
  for (auto& [token, id] : vocabulary) {
    std::string& slot = tokens_[static_cast<std::size_t>(id)];
    if (!slot.empty()) {
      return data_loss("model.vocab: id ", id, ": found two tokens, ", in_quotes(slot), " and ",
                       in_quotes(token), "; wanted one");
    }
    slot = std::move(token);
    if (!ids_.add(tokens_, static_cast<std::int32_t>(id))) {
      return data_loss("model.vocab: token ", in_quotes(slot), ": found twice; wanted once");
    }
  }
  return {};
}

Status Bpe::add_merges(const std::vector<std::pair<std::string, std::string>>& merges) {
  merges_.reset(merges.size());
  std::string joined;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    joined.assign(left).append(right);
    std::int32_t ids[3];
    const std::string_view parts[3] = {left, right, joined};
    for (std::size_t i = 0; i < 3; ++i) {
      ids[i] = ids_.find(tokens_, parts[i]);
      if (ids[i] < 0) {
        return data_loss("model.merges[", rank, "]: token ", in_quotes(parts[i]),
                         " is not in model.vocab");
      }
    }
    // Of a pair given twice the last rank holds, as in `tokenizers`.
    merges_.set(ids[0], ids[1], {static_cast<std::uint32_t>(rank), ids[2]});
  }
  return {};
}

void Bpe::find_byte_ids() {
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    append_utf8(byte_to_alphabet(static_cast<std::uint8_t>(byte)), token);
    byte_ids_[byte] = ids_.find(tokens_, token);
  }
}

std::optional<int> Bpe::first_missing_byte() const noexcept {
  const auto* found = std::find(std::begin(byte_ids_), std::end(byte_ids_), -1);
  if (found == std::end(byte_ids_)) return std::nullopt;
  return static_cast<int>(found - std::begin(byte_ids_));
}

std::optional<std::int32_t> Bpe::token_to_id(std::string_view token) const {
  const std::int32_t id = ids_.find(tokens_, token);
  return id < 0 ? std::nullopt : std::optional(id);
}

const std::string* Bpe::id_to_token(std::int32_t id) const noexcept {
  if (id < 0 || id >= size()) return nullptr;
  const std::string& token = tokens_[static_cast<std::size_t>(id)];
  return token.empty() ? nullptr : &token;
}

/// The token that is the whole piece, or -1.
std::int32_t Bpe::whole_piece(std::string_view piece) const {
  if (piece.size() > max_token_bytes_) return -1;
  std::string token;
  append_alphabet(piece, token);
  return ids_.find(tokens_, token);
}

Status Bpe::byte_ids(std::string_view piece, std::int32_t* out) const {
  for (const char c : piece) {
    const auto byte = static_cast<std::uint8_t>(c);
    if (byte_ids_[byte] < 0) {
      std::string token;
      append_utf8(byte_to_alphabet(byte), token);
      return error(StatusCode::kNotFound, "encode: byte ", static_cast<int>(byte), " in piece ",
                   in_quotes(piece), " has no token; wanted ", in_quotes(token), " in model.vocab");
    }
    *out++ = byte_ids_[byte];
  }
  return {};
}

Status Bpe::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (piece.size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    return error(StatusCode::kOutOfRange, "encode: found a piece of ", piece.size(),
                 " bytes; wanted less than 2^31");
  }
  const std::int32_t whole = whole_piece(piece);
  std::uint8_t known = kUnknown;
  if (whole >= 0) {
    known = whole_[static_cast<std::size_t>(whole)].load(std::memory_order_relaxed);
    if (ignore_merges_ || known == kItself) {
      ids.push_back(whole);
      return {};
    }
  }
  if (piece.size() > kShortPiece) {
    std::vector<std::int32_t> symbols(piece.size());
    HYBRIDATTN_TRY(byte_ids(piece, symbols.data()));
    merge_long(symbols);
    ids.insert(ids.end(), symbols.begin(), symbols.end());
    return {};
  }
  std::array<std::int32_t, kShortPiece> symbols;
  HYBRIDATTN_TRY(byte_ids(piece, symbols.data()));
  const std::size_t count = merge_short(symbols.data(), piece.size());
  ids.insert(ids.end(), symbols.data(), symbols.data() + count);
  if (whole >= 0 && known == kUnknown) {
    const Whole found = count == 1 && symbols[0] == whole ? kItself : kTakenApart;
    whole_[static_cast<std::size_t>(whole)].store(found, std::memory_order_relaxed);
  }
  return {};
}

/// Merges in place; returns how many ids are left.
std::size_t Bpe::merge_short(std::int32_t* ids, std::size_t count) const {
  std::array<Merge, kShortPiece> pairs;  // pairs[i] is the merge of ids[i] and ids[i + 1]
  const auto look_up = [&](std::size_t i) {
    const Merge* found = merges_.find(ids[i], ids[i + 1]);
    pairs[i] = found != nullptr ? *found : Merge{kNoRank, -1};
  };
  for (std::size_t i = 0; i + 1 < count; ++i) look_up(i);
  while (count > 1) {
    const auto end = pairs.begin() + static_cast<std::ptrdiff_t>(count - 1);
    const auto best = std::min_element(
        pairs.begin(), end, [](const Merge& a, const Merge& b) { return a.rank < b.rank; });
    if (best->rank == kNoRank) break;
    const auto at = static_cast<std::size_t>(best - pairs.begin());
    ids[at] = best->id;
    std::copy(ids + at + 2, ids + count, ids + at + 1);
    std::copy(best + 1, end, best);
    --count;
    if (at > 0) look_up(at - 1);
    if (at + 1 < count) look_up(at);
  }
  return count;
}

void Bpe::merge_long(std::vector<std::int32_t>& ids) const { SymbolList(ids, merges_).merge_all(); }

}  // namespace hybridattn::engine
