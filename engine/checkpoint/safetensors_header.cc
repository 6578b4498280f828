#include "engine/checkpoint/safetensors_header.h"

#include <algorithm>
#include <array>
#include <exception>
#include <optional>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "engine/checkpoint/json_document.h"
#include "engine/text/quote.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

using nlohmann::json;

constexpr std::int64_t kLengthBytes = 8;

struct KnownDtype {
  std::string_view name;
  std::int64_t bits;
  std::optional<DType> dtype;
};
constexpr std::array<KnownDtype, 22> kDtypes{{
    {"F64", 64, DType::kF64},
    {"F32", 32, DType::kF32},
    {"F16", 16, DType::kF16},
    {"BF16", 16, DType::kBF16},
    {"I64", 64, DType::kI64},
    {"I32", 32, DType::kI32},
    {"C64", 64, {}},
    {"U64", 64, {}},
    {"U32", 32, {}},
    {"I16", 16, {}},
    {"U16", 16, {}},
    {"I8", 8, {}},
    {"U8", 8, {}},
    {"BOOL", 8, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E4M3FNUZ", 8, {}},
    {"F8_E5M2", 8, {}},
    {"F8_E5M2FNUZ", 8, {}},
    {"F8_E8M0", 8, {}},
    {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},
    {"F4", 4, {}},
}};

const KnownDtype* find_dtype(std::string_view name) {
  for (const KnownDtype& known : kDtypes) {
    if (known.name == name) return &known;
  }
  return nullptr;
}

/// The JSON of the header, after its length was compared with everything that bounds it.
Result<std::string_view> header_text(std::span<const std::byte> start, std::int64_t file_size) {
  if (file_size < kLengthBytes || std::ssize(start) < kLengthBytes) {
    return data_loss("header length: found ", file_size, " bytes in the file; wanted at least ",
                     kLengthBytes);
  }
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    length |= std::to_integer<std::uint64_t>(start[i]) << (8 * i);
  }
  const std::int64_t room = std::min(file_size, std::ssize(start)) - kLengthBytes;
  if (length > static_cast<std::uint64_t>(kMaxSafetensorsHeader)) {
    return data_loss("header length: found ", length, "; wanted at most ", kMaxSafetensorsHeader);
  }
  if (length > static_cast<std::uint64_t>(room)) {
    return data_loss("header length: found ", length, "; wanted at most the ", room,
                     " bytes that follow in the file");
  }
  const auto text = start.subspan(kLengthBytes, static_cast<std::size_t>(length));
  return std::string_view(reinterpret_cast<const char*>(text.data()), text.size());
}

/// One tensor of the header while it is read; errors name it.
class RecordReader {
 public:
  RecordReader(const std::string& name, const json& entry)
      : label_(concat("tensor ", in_quotes(name))), entry_(entry) {}

  Result<TensorRecord> read(std::int64_t data_size) {
    TensorRecord record;
    HYBRIDATTN_TRY(check_fields());
    HYBRIDATTN_ASSIGN(const KnownDtype* known, read_dtype());
    record.dtype_text = known->name;
    record.loadable = known->dtype.has_value();
    record.dtype = known->dtype.value_or(DType::kF32);
    HYBRIDATTN_ASSIGN(record.shape, integers("shape"));
    HYBRIDATTN_TRY(read_offsets(data_size, record));
    HYBRIDATTN_ASSIGN(const std::int64_t bytes, byte_size(record.shape, known->bits));
    if (bytes != record.end - record.begin) {
      return fail("data_offsets", concat(record.end - record.begin, " bytes"),
                  concat(bytes, " by its shape and dtype ", known->name));
    }
    return record;
  }

 private:
  Status fail(std::string_view field, std::string_view found, std::string_view wanted) const {
    return data_loss(label_, ": ", field, ": found ", found, "; wanted ", wanted);
  }

  Status check_fields() const {
    if (!entry_.is_object()) return fail("entry", json_brief(entry_), "an object");
    for (const auto& [key, value] : entry_.items()) {
      if (key != "dtype" && key != "shape" && key != "data_offsets") {
        return fail("entry", concat("the field ", in_quotes(key)),
                    "dtype, shape and data_offsets alone");
      }
    }
    return {};
  }

  Result<const KnownDtype*> read_dtype() const {
    const json& value = json_at(entry_, "dtype");
    if (!value.is_string()) return fail("dtype", json_brief(value), "a string");
    const KnownDtype* known = find_dtype(value.get_ref<const std::string&>());
    if (known != nullptr) return known;
    return error(StatusCode::kUnsupported, label_, ": dtype: found ", json_brief(value),
                 "; supported: F64, F32, F16, BF16, I64, I32 and, unread, the format's others");
  }

  /// A list of integers, none negative and none above INT64_MAX.
  Result<std::vector<std::int64_t>> integers(const char* field) const {
    const json& list = json_at(entry_, field);
    if (!list.is_array()) return fail(field, json_brief(list), "an array");
    std::vector<std::int64_t> out;
    for (const json& value : list) {
      const bool fits = value.is_number_unsigned() && value.get<std::uint64_t>() <= INT64_MAX;
      if (!fits) {
        return fail(concat(field, "[", out.size(), "]"), json_brief(value),
                    concat("an integer, 0 to ", INT64_MAX));
      }
      out.push_back(value.get<std::int64_t>());
    }
    return out;
  }

  Status read_offsets(std::int64_t data_size, TensorRecord& record) const {
    HYBRIDATTN_ASSIGN(const std::vector<std::int64_t> offsets, integers("data_offsets"));
    if (offsets.size() != 2) return fail("data_offsets", concat(offsets.size(), " entries"), "2");
    record.begin = offsets[0];
    record.end = offsets[1];
    const std::string found = concat("[", record.begin, ", ", record.end, "]");
    if (record.begin > record.end) return fail("data_offsets", found, "begin at or before end");
    if (record.end > data_size) {
      return fail("data_offsets", found, concat("at most the ", data_size, " bytes of data"));
    }
    return {};
  }

  /// Bytes of a tensor. Dimensions of 0 do not hide an overflow of the others: strides need those.
  Result<std::int64_t> byte_size(const std::vector<std::int64_t>& shape, std::int64_t bits) const {
    std::int64_t product = bits;
    bool empty = false;
    for (const std::int64_t dim : shape) {
      empty = empty || dim == 0;
      if (__builtin_mul_overflow(product, std::max<std::int64_t>(dim, 1), &product)) {
        return fail("shape", concat(shape.size(), " dimensions with a product above 2^63 bits"),
                    "fewer elements");
      }
    }
    if (empty) return 0;
    if (product % 8 != 0) return fail("shape", concat(product, " bits"), "whole bytes");
    return product / 8;
  }

  std::string label_;
  const json& entry_;
};

Status read_metadata(const json& section, std::map<std::string, std::string>& out) {
  if (!section.is_object()) {
    return data_loss("__metadata__: found ", json_brief(section), "; wanted an object");
  }
  for (const auto& [key, value] : section.items()) {
    if (!value.is_string()) {
      return data_loss("__metadata__: ", in_quotes(key), ": found ", json_brief(value),
                       "; wanted a string");
    }
    out[key] = value.get<std::string>();
  }
  return {};
}

/// The tensors cover the data exactly: each begins where the one before ends.
Status check_coverage(const SafetensorsHeader& header, std::int64_t data_size) {
  using Named = std::pair<const std::string, TensorRecord>;
  std::vector<const Named*> order;
  for (const Named& tensor : header.tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const Named* a, const Named* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  std::int64_t covered = 0;
  for (const Named* tensor : order) {
    const TensorRecord& record = tensor->second;
    if (record.begin != covered) {
      return data_loss("tensor ", in_quotes(tensor->first), ": data_offsets: found begin ",
                       record.begin,
                       record.begin < covered ? " (an overlap)" : " (a hole before it)",
                       "; wanted ", covered, ", where the tensor before it ends");
    }
    covered = record.end;
  }
  if (covered == data_size) return {};
  return data_loss("data: found ", data_size, " bytes; wanted ", covered,
                   ", where the last tensor ends");
}

Result<SafetensorsHeader> parse(std::span<const std::byte> start, std::int64_t file_size) {
  HYBRIDATTN_ASSIGN(const std::string_view text, header_text(start, file_size));
  if (!text.starts_with('{')) {
    return data_loss("header: found ", in_quotes(text.substr(0, 1)), " at its start; wanted \"{\"");
  }
  SafetensorsHeader header;
  header.data_start = kLengthBytes + std::ssize(text);
  const std::int64_t data_size = file_size - header.data_start;
  Result<json> root = parse_json(text);
  if (!root.ok()) return with_place("header", root.status());
  for (const auto& [name, entry] : root->items()) {
    if (name == "__metadata__") {
      HYBRIDATTN_TRY(read_metadata(entry, header.metadata));
      continue;
    }
    HYBRIDATTN_ASSIGN(TensorRecord record, RecordReader(name, entry).read(data_size));
    header.tensors.emplace(name, std::move(record));
  }
  HYBRIDATTN_TRY(check_coverage(header, data_size));
  return header;
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file_start,
                                                   std::int64_t file_size) {
  try {
    return parse(file_start, file_size);
  } catch (const std::exception& problem) {
    // The checks leave nothing for nlohmann to throw; what is left is memory.
    return error(StatusCode::kResourceExhausted,
                 "header: reading it failed: ", in_quotes(problem.what()));
  }
}

}  // namespace hybridattn::engine
