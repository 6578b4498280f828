#include "engine/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "engine/text/bpe.h"
#include "engine/text/quote.h"
#include "engine/text/unicode.h"
#include "engine/text/utf8.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

/// The start of the character that ends at `pos`, which is above 0.
std::size_t previous(std::string_view text, std::size_t pos) {
  do --pos;
  while (pos > 0 && (static_cast<std::uint8_t>(text[pos]) & 0xC0) == 0x80);
  return pos;
}

bool word_before(std::string_view text, std::size_t pos) {
  if (pos == 0) return false;
  std::size_t start = previous(text, pos);
  return is_word(next_code_point(text, start));
}

bool word_after(std::string_view text, std::size_t pos) {
  return pos < text.size() && is_word(next_code_point(text, pos));
}

/// Goes back from `pos` over white space, not below `floor`.
std::size_t skip_space_back(std::string_view text, std::size_t pos, std::size_t floor) {
  while (pos > floor) {
    const std::size_t start = previous(text, pos);
    std::size_t after = start;
    if (!is_white_space(next_code_point(text, after))) break;
    pos = start;
  }
  return pos;
}

std::size_t skip_space(std::string_view text, std::size_t pos) {
  while (pos < text.size()) {
    std::size_t after = pos;
    if (!is_white_space(next_code_point(text, after))) break;
    pos = after;
  }
  return pos;
}

}  // namespace

std::int32_t TokenMatcher::child(std::int32_t node, char byte) const noexcept {
  for (const auto& [key, next] : nodes_[static_cast<std::size_t>(node)].children) {
    if (key == byte) return next;
  }
  return -1;
}

bool TokenMatcher::add(std::string_view pattern, const Rules& rules) {
  const auto make_node = [this] {
    nodes_.emplace_back();
    return static_cast<std::int32_t>(nodes_.size() - 1);
  };
  std::int32_t& first = root_[static_cast<std::uint8_t>(pattern[0])];
  if (first < 0) first = make_node();
  std::int32_t node = first;
  for (const char byte : pattern.substr(1)) {
    std::int32_t next = child(node, byte);
    if (next < 0) {
      next = make_node();
      nodes_[static_cast<std::size_t>(node)].children.emplace_back(byte, next);
    }
    node = next;
  }
  std::int32_t& slot = nodes_[static_cast<std::size_t>(node)].rules;
  if (slot >= 0) return false;
  slot = static_cast<std::int32_t>(rules_.size());
  rules_.push_back(rules);
  return true;
}

TokenMatcher::Match TokenMatcher::longest_at(std::string_view text,
                                             std::size_t pos) const noexcept {
  Match best;
  std::int32_t node = root_[static_cast<std::uint8_t>(text[pos])];
  while (node >= 0) {
    ++pos;
    const std::int32_t rules = nodes_[static_cast<std::size_t>(node)].rules;
    if (rules >= 0) best = {pos, rules};
    node = pos < text.size() ? child(node, text[pos]) : -1;
  }
  return best;
}

void TokenMatcher::split(std::string_view text, std::vector<Segment>& segments) const {
  std::size_t done = 0;         // up to here the text has been given out
  std::size_t space_begin = 0;  // the last run of white space that an rstrip token took:
  std::size_t space_end = 0;    // remembered, so that tokens inside of it don't walk it again
  std::size_t pos = empty() ? text.size() : 0;
  while (pos < text.size()) {
    const Match match = longest_at(text, pos);
    if (match.rules < 0) {
      ++pos;
      continue;
    }
    const Rules& rules = rules_[static_cast<std::size_t>(match.rules)];
    std::size_t begin = pos;
    std::size_t end = match.end;
    // The search goes on behind the match, whether it counts or not and however much is stripped.
    pos = match.end;
    if (rules.single_word && (word_before(text, begin) || word_after(text, end))) continue;
    if (rules.lstrip) begin = std::max(done, skip_space_back(text, begin, done));
    if (rules.rstrip) {
      if (end < space_begin || end >= space_end) {
        space_begin = end;
        space_end = skip_space(text, end);
      }
      end = space_end;
    }
    // Another token has taken all of its text as white space: it counts for nothing.
    if (begin >= end) continue;
    if (done < begin) segments.push_back({text.substr(done, begin - done), -1});
    segments.push_back({text.substr(begin, end - begin), rules.id});
    done = end;
  }
  if (done < text.size()) segments.push_back({text.substr(done), -1});
}

Result<AddedVocabulary> AddedVocabulary::create(std::vector<AddedToken> tokens, bool nfc) {
  if (tokens.size() > kMaxTokens) {
    return data_loss("added_tokens: found ", tokens.size(), " tokens; wanted at most ", kMaxTokens);
  }
  AddedVocabulary made;
  made.tokens_ = std::move(tokens);
  made.decoded_.reserve(made.tokens_.size());
  for (std::size_t i = 0; i < made.tokens_.size(); ++i) HYBRIDATTN_TRY(made.add(i, nfc));
  return made;
}

Status AddedVocabulary::add(std::size_t index, bool nfc) {
  const AddedToken& token = tokens_[index];
  const std::string where = concat("added_tokens[", index, "] ", in_quotes(token.content));
  if (token.content.empty() || token.content.size() > kMaxContentBytes) {
    return data_loss(where, ": found a content of ", token.content.size(), " bytes; wanted 1 to ",
                     kMaxContentBytes);
  }
  if (token.id < 0 || token.id > Bpe::kMaxId) {
    return data_loss(where, ": found id ", token.id, "; wanted 0 to ", Bpe::kMaxId);
  }
  if (!by_id_.emplace(token.id, index).second) {
    return data_loss(where, ": id ", token.id, " is also that of ",
                     in_quotes(tokens_[by_id_[token.id]].content));
  }
  if (!by_content_.emplace(token.content, index).second) {
    return data_loss(where, ": content found twice; wanted once");
  }
  decoded_.push_back(token.normalized && nfc ? to_nfc(token.content) : token.content);
  TokenMatcher& matcher = token.normalized ? normalized_ : raw_;
  const auto id = static_cast<std::int32_t>(token.id);
  if (!matcher.add(decoded_.back(), {id, token.single_word, token.lstrip, token.rstrip})) {
    return data_loss(where, ": its normalised form is that of another added token");
  }
  return {};
}

const AddedToken* AddedVocabulary::find(std::int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedVocabulary::find(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

const std::string& AddedVocabulary::decoded(const AddedToken& token) const {
  return decoded_[static_cast<std::size_t>(&token - tokens_.data())];
}

bool AddedVocabulary::skipped(const AddedToken& token) const {
  const AddedToken* named = find(std::string_view(decoded(token)));
  return named != nullptr && named->special;
}

}  // namespace hybridattn::engine
