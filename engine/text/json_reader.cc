#include "engine/text/json_reader.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/quote.h"

namespace hybridattn::engine {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxDepth = 32;
constexpr std::size_t kMaxTreeValues = 1'000'000;
constexpr std::size_t kMaxVocabulary = std::size_t{1} << 22;

/// The events of nlohmann's parser. A handler that returns false ends the parse; `status` says why.
class Handler : public nlohmann::json_sax<json> {
 public:
  Status status;
  TokenizerTree tree;

  bool null() override { return scalar(nullptr); }
  bool boolean(bool value) override { return scalar(value); }
  bool number_integer(number_integer_t value) override { return integer(value); }
  bool number_unsigned(number_unsigned_t value) override {
    // A number that doesn't fit is out of range as an id in any case.
    return integer(value > INT64_MAX ? INT64_MAX : static_cast<std::int64_t>(value));
  }
  bool number_float(number_float_t value, const string_t&) override { return scalar(value); }
  bool binary(binary_t&) override { return fail("found binary data"); }

  bool string(string_t& value) override {
    if (mode_ == Mode::kMerges) return merge_line(value);
    if (mode_ == Mode::kMergePair) return merge_part(value);
    return scalar(std::move(value));
  }

  bool start_object(std::size_t) override {
    if (!enter()) return false;
    if (at_model("vocab")) {
      tree.has_vocab = true;
      mode_ = Mode::kVocab;
      return add(nullptr) != nullptr;
    }
    if (mode_ != Mode::kTree) return fail("found an object in model.vocab or model.merges");
    return open(json::object());
  }

  bool key(string_t& value) override {
    if (mode_ == Mode::kTree && !open_.empty() && open_.back()->contains(value)) {
      return fail(concat("key ", in_quotes(value), ": found twice in one object; wanted once"));
    }
    key_ = std::move(value);
    return true;
  }

  bool end_object() override {
    leave();
    return true;
  }

  bool start_array(std::size_t) override {
    if (!enter()) return false;
    if (mode_ == Mode::kMerges) {
      mode_ = Mode::kMergePair;
      parts_.clear();
      return true;
    }
    if (at_model("merges")) {
      tree.has_merges = true;
      mode_ = Mode::kMerges;
      return add(nullptr) != nullptr;
    }
    if (mode_ != Mode::kTree) return fail("found an array in model.vocab or a merge");
    return open(json::array());
  }

  bool end_array() override {
    if (mode_ == Mode::kMergePair) return end_merge_pair();
    leave();
    return true;
  }

  /// `position` counts the bytes read: the last of them, from 0, is the one that doesn't fit.
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return fail(concat("malformed JSON at byte ", position - std::min<std::size_t>(position, 1)));
  }

 private:
  enum class Mode { kTree, kVocab, kMerges, kMergePair };

  bool fail(std::string_view message) {
    if (status.ok()) status = data_loss(message);
    return false;
  }

  bool enter() {
    if (++depth_ <= kMaxDepth) return true;
    return fail(concat("found more than ", kMaxDepth, " nested objects and arrays"));
  }

  void leave() {
    --depth_;
    if (mode_ == Mode::kTree) {
      open_.pop_back();
    } else {
      mode_ = Mode::kTree;
    }
  }

  /// True for the value of `name` in the top-level object "model".
  bool at_model(std::string_view name) const {
    return mode_ == Mode::kTree && open_.size() == 2 && key_ == name && open_[1]->is_object() &&
           open_[0]->is_object() && top_key_ == "model";
  }

  /// Puts a value where the parser stands; null when the tree has grown too large.
  json* add(json value) {
    if (++values_ > kMaxTreeValues) {
      fail(concat("found more than ", kMaxTreeValues,
                  " values besides model.vocab and model.merges"));
      return nullptr;
    }
    if (open_.empty()) {
      tree.rest = std::move(value);
      return &tree.rest;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    if (open_.size() == 1) top_key_ = key_;
    return &(parent[key_] = std::move(value));
  }

  bool open(json container) {
    json* added = add(std::move(container));
    if (added != nullptr) open_.push_back(added);
    return added != nullptr;
  }

  bool scalar(json value) {
    if (mode_ == Mode::kTree) return add(std::move(value)) != nullptr;
    if (mode_ == Mode::kVocab) {
      return fail(concat("model.vocab: token ", in_quotes(key_), ": wanted an integer id"));
    }
    return fail(concat("model.merges[", merges().size(), "]: wanted \"a b\" or [\"a\", \"b\"]"));
  }

  bool integer(std::int64_t value) {
    if (mode_ != Mode::kVocab) return scalar(value);
    if (tree.bpe.vocabulary.size() == kMaxVocabulary) {
      return fail(concat("model.vocab: found more than ", kMaxVocabulary, " tokens"));
    }
    tree.bpe.vocabulary.emplace_back(std::move(key_), value);
    return true;
  }

  std::vector<std::pair<std::string, std::string>>& merges() { return tree.bpe.merges; }

  bool add_merge(std::string left, std::string right) {
    if (merges().size() == kMaxVocabulary) {
      return fail(concat("model.merges: found more than ", kMaxVocabulary, " merges"));
    }
    merges().emplace_back(std::move(left), std::move(right));
    return true;
  }

  /// The older form, "a b": exactly one space, which no token of the alphabet contains. A first
  /// line
  /// "#version: ..." as in merges.txt is no merge.
  bool merge_line(const std::string& line) {
    if (line.starts_with("#version")) return true;
    const std::size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
      return fail(concat("model.merges[", merges().size(), "]: found ", in_quotes(line),
                         "; wanted two tokens with one space between"));
    }
    return add_merge(line.substr(0, space), line.substr(space + 1));
  }

  bool merge_part(std::string& part) {
    parts_.push_back(std::move(part));
    return parts_.size() <= 2 || end_merge_pair();
  }

  bool end_merge_pair() {
    --depth_;
    mode_ = Mode::kMerges;
    if (parts_.size() != 2) {
      return fail(concat("model.merges[", merges().size(), "]: found ", parts_.size(),
                         parts_.size() > 2 ? " or more" : "", " tokens; wanted 2"));
    }
    return add_merge(std::move(parts_[0]), std::move(parts_[1]));
  }

  Mode mode_ = Mode::kTree;
  std::size_t depth_ = 0;
  std::size_t values_ = 0;
  std::vector<json*> open_;  // open containers; a parent doesn't change while a child is open
  std::string key_;          // the last key read
  std::string top_key_;      // the last key of the top-level object
  std::vector<std::string> parts_;
};

}  // namespace

Result<TokenizerTree> read_tokenizer_tree(std::string_view text) {
  Handler handler;
  const bool read = json::sax_parse(text.begin(), text.end(), &handler);
  if (!handler.status.ok()) return handler.status;
  if (!read) return data_loss("malformed JSON");
  return std::move(handler.tree);
}

}  // namespace hybridattn::engine
