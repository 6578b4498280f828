// Reads the JSON of a tokenizer.json: the vocabulary and the merges, which are nearly all of a
// file, go straight into vectors; the rest becomes a small tree.
#pragma once

#include <string_view>

#include <nlohmann/json.hpp>

#include "engine/text/bpe.h"
#include "hybridattn/status.h"

namespace hybridattn::engine {

struct TokenizerTree {
  /// Everything but model.vocab and model.merges, which are null here when they were read.
  nlohmann::json rest;
  BpeSpec bpe;
  bool has_vocab = false;
  bool has_merges = false;
};

/// kDataLoss for malformed or truncated JSON, a key given twice, an object nested too deeply, a
/// tree too large, and a vocabulary or merges of another form. Throws nothing but std::bad_alloc.
Result<TokenizerTree> read_tokenizer_tree(std::string_view json);

}  // namespace hybridattn::engine
