#include "tests/support/oracle.h"

#include <cmath>

namespace hybridattn::testing {

Operand::Operand(DType dtype, const Shape& shape, Layout layout, const std::vector<double>& values)
    : kernel_(dtype, shape, layout), exact_(DType::kF64, shape) {
  kernel_.fill(values);
  exact_.fill(values);
  rounded_ = kernel_.to_f64();
}

Operand::Operand(DType dtype, const Shape& shape, Layout layout)
    : kernel_(dtype, shape, layout), rounded_(DType::kF64, shape), exact_(DType::kF64, shape) {}

Buffer& Operand::of(Source source) {
  switch (source) {
    case Source::kKernel: return kernel_;
    case Source::kRounded: return rounded_;
    case Source::kExact: return exact_;
  }
  return kernel_;
}

TensorView Operand::operator()(Source source) { return of(source).view(); }

void Operand::poison(const std::vector<std::int64_t>& first) {
  for (const std::int64_t i : first) {
    for (Buffer* form : {&kernel_, &rounded_, &exact_}) form->poison({i});
  }
}

void Rows::add(std::int32_t first, std::int32_t tokens, std::int32_t state_slot,
               std::int32_t before) {
  start.push_back(first);
  length.push_back(tokens);
  slot.push_back(state_slot);
  computed.push_back(before);
}

RaggedRows Rows::view() const {
  RaggedRows rows;
  rows.count = static_cast<std::int32_t>(start.size());
  rows.start = start.data();
  rows.length = length.data();
  rows.slot = slot.data();
  rows.computed = computed.data();
  return rows;
}

std::vector<std::int64_t> Rows::tokens(bool pads) const {
  std::vector<std::int64_t> out;
  for (std::size_t r = 0; r < start.size(); ++r) {
    if ((slot[r] == kPadIndex) != pads) continue;
    for (std::int32_t i = 0; i < length[r]; ++i) out.push_back(start[r] + i);
  }
  return out;
}

std::vector<std::int64_t> Rows::slots() const {
  std::vector<std::int64_t> out;
  for (std::size_t r = 0; r < start.size(); ++r) {
    if (slot[r] != kPadIndex && length[r] > 0) out.push_back(slot[r]);
  }
  return out;
}

void KvRows::add(std::int32_t first, std::int32_t queries, std::int32_t keys,
                 const std::vector<std::int32_t>& page_ids, std::int64_t first_key) {
  q_start.push_back(first);
  q_length.push_back(queries);
  kv_length.push_back(keys);
  kv_start.push_back(page_ids.empty() ? first_key : static_cast<std::int64_t>(pages.size()));
  pages.insert(pages.end(), page_ids.begin(), page_ids.end());
}

AttentionRows KvRows::view(bool paged) const {
  static const std::int32_t none = kPadIndex;
  AttentionRows rows;
  rows.count = static_cast<std::int32_t>(q_start.size());
  rows.q_start = q_start.data();
  rows.q_length = q_length.data();
  rows.kv_length = kv_length.data();
  rows.kv_start = kv_start.data();
  if (paged) rows.pages = pages.empty() ? &none : pages.data();
  rows.num_pages_listed = static_cast<std::int64_t>(pages.size());
  return rows;
}

std::vector<double> real_gates(Random& random, std::int64_t count) {
  std::vector<double> gates;
  for (std::int64_t i = 0; i < count; ++i) {
    const double kind = random.uniform(0, 1);
    if (kind < 0.05) {
      gates.push_back(0.0);
    } else if (kind < 0.1) {
      gates.push_back(-316.0);
    } else if (kind < 0.3) {
      gates.push_back(-std::exp(random.uniform(std::log(1e-4), std::log(316.0))));
    } else {
      gates.push_back(random.uniform(-0.1, 0));
    }
  }
  return gates;
}

}  // namespace hybridattn::testing
