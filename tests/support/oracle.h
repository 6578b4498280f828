// Operands in three forms: what the kernel gets, and what the two double-precision oracles get.
#pragma once

#include <vector>

#include "hybridattn/ops.h"
#include "src/ops/reference/reference.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {

/// Whose copy of an operand: the kernel's own, double copies of the kernel's rounded values, or the
/// values before they were rounded.
enum class Source : std::uint8_t { kKernel, kRounded, kExact };

class Operand {
 public:
  Operand() = default;
  /// An input, or a state that is read and written.
  Operand(DType dtype, const Shape& shape, Layout layout, const std::vector<double>& values);
  /// An output: poison everywhere.
  Operand(DType dtype, const Shape& shape, Layout layout);

  TensorView operator()(Source source);
  Buffer& kernel() { return kernel_; }
  Buffer& of(Source source);
  /// Poisons the parts with these first indices in all three forms.
  void poison(const std::vector<std::int64_t>& first);

 private:
  Buffer kernel_;
  Buffer rounded_;
  Buffer exact_;
};

/// A ragged batch that owns its arrays.
struct Rows {
  void add(std::int32_t first, std::int32_t tokens, std::int32_t state_slot, std::int32_t before);
  RaggedRows view() const;
  /// Tokens that some row names, in order of the rows; without those of pad rows unless `pads`.
  std::vector<std::int64_t> tokens(bool pads = false) const;
  /// Slots of the rows that have tokens.
  std::vector<std::int64_t> slots() const;

  std::vector<std::int32_t> start, length, slot, computed;
};

/// Rows of an attention batch that own their arrays.
struct KvRows {
  /// A paged row, or a dense one when `page_ids` is empty: `first_key` is then its first key.
  void add(std::int32_t first, std::int32_t queries, std::int32_t keys,
           const std::vector<std::int32_t>& page_ids, std::int64_t first_key = 0);
  AttentionRows view(bool paged) const;

  std::vector<std::int32_t> q_start, q_length, kv_length, pages;
  std::vector<std::int64_t> kv_start;
};

/// Log decays over the whole range that real models show: mostly weak, some down to -316, some 0.
std::vector<double> real_gates(Random& random, std::int64_t count);

}  // namespace hybridattn::testing
