// Any bytes as the header of a safetensors file: refused in one line, or a header that its file
// cannot contradict.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "engine/checkpoint/safetensors_header.h"
#include "tests/fuzz/fuzz.h"

namespace hybridattn::fuzz {
namespace {

using engine::SafetensorsHeader;
using engine::TensorRecord;
using nlohmann::json;

/// Bits of an element, written down again from the format's own description.
int bits_of(const std::string& dtype) {
  static const std::map<std::string, int> bits{
      {"F64", 64},        {"F32", 32},    {"F16", 16},        {"BF16", 16},   {"I64", 64},
      {"I32", 32},        {"C64", 64},    {"U64", 64},        {"U32", 32},    {"I16", 16},
      {"U16", 16},        {"I8", 8},      {"U8", 8},          {"BOOL", 8},    {"F8_E4M3", 8},
      {"F8_E4M3FNUZ", 8}, {"F8_E5M2", 8}, {"F8_E5M2FNUZ", 8}, {"F8_E8M0", 8}, {"F6_E2M3", 6},
      {"F6_E3M2", 6},     {"F4", 4}};
  const auto found = bits.find(dtype);
  FUZZ_CHECK(found != bits.end(), dtype);
  return found->second;
}

void check_record(const std::string& name, const TensorRecord& record, std::int64_t data_size) {
  FUZZ_CHECK(0 <= record.begin && record.begin <= record.end && record.end <= data_size, name);
  unsigned __int128 bits = static_cast<unsigned>(bits_of(record.dtype_text));
  bool empty = false;
  for (const std::int64_t dim : record.shape) {
    FUZZ_CHECK(dim >= 0, name);
    empty = empty || dim == 0;
    if (dim != 0) bits *= static_cast<unsigned __int128>(dim);
    FUZZ_CHECK(bits <= INT64_MAX, name, ": strides of this shape overflow");
  }
  if (empty) bits = 0;
  FUZZ_CHECK(bits % 8 == 0 && bits / 8 == static_cast<unsigned __int128>(record.end - record.begin),
             name);
  if (record.loadable) {
    std::string dtype(dtype_name(record.dtype));
    std::transform(dtype.begin(), dtype.end(), dtype.begin(), [](char c) {
      return static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    });
    FUZZ_CHECK(dtype == record.dtype_text, dtype, " and ", record.dtype_text);
  }
}

void check_header(const SafetensorsHeader& header, std::int64_t header_size,
                  std::int64_t file_size) {
  FUZZ_CHECK(header.data_start == 8 + header_size);
  const std::int64_t data_size = file_size - header.data_start;
  std::vector<std::pair<std::int64_t, std::int64_t>> parts;
  for (const auto& [name, record] : header.tensors) {
    check_record(name, record, data_size);
    parts.emplace_back(record.begin, record.end);
  }
  std::sort(parts.begin(), parts.end());
  std::int64_t covered = 0;
  for (const auto& [begin, end] : parts) {
    FUZZ_CHECK(begin == covered);
    covered = end;
  }
  FUZZ_CHECK(covered == data_size);
}

json to_json(const SafetensorsHeader& header) {
  json root = json::object();
  for (const auto& [name, record] : header.tensors) {
    root[name] = {{"dtype", record.dtype_text},
                  {"shape", record.shape},
                  {"data_offsets", {record.begin, record.end}}};
  }
  if (!header.metadata.empty()) root["__metadata__"] = header.metadata;
  return root;
}

Result<SafetensorsHeader> parse(const std::string& start, std::int64_t file_size) {
  // On the heap at its exact size: nothing behind it may be read.
  std::vector<std::byte> bytes(start.size());
  std::transform(start.begin(), start.end(), bytes.begin(),
                 [](char c) { return static_cast<std::byte>(c); });
  return engine::parse_safetensors_header(bytes, file_size);
}

std::string with_length(const std::string& text) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(text.size() >> (8 * i) & 0xff);
  return file + text;
}

/// What was read, written out, reads as the same.
void check_round_trip(const SafetensorsHeader& header, std::int64_t data_size) {
  const json root = to_json(header);
  const std::string text = root.dump();
  const auto again =
      parse(with_length(text), 8 + static_cast<std::int64_t>(text.size()) + data_size);
  FUZZ_CHECK(again.ok(), again.status().message());
  FUZZ_CHECK(to_json(*again) == root);
}

}  // namespace
}  // namespace hybridattn::fuzz

using namespace hybridattn::fuzz;
using hybridattn::StatusCode;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Bytes bytes(data, size);
  const bool framed = !bytes.flag();
  const std::int64_t data_size = bytes.integer(0, 65535);
  const std::string text = bytes.rest();
  const std::string file = framed ? with_length(text) : text;
  const std::int64_t file_size = static_cast<std::int64_t>(file.size()) + data_size;
  const auto header = parse(file, file_size);
  const auto longer = parse(file + "behind the header", file_size);
  if (framed) {
    FUZZ_CHECK(header.ok() == longer.ok(), longer.status().message());
    FUZZ_CHECK(header.status().message() == longer.status().message());
  }
  if (!header.ok()) {
    check_refusal(header.status(), {StatusCode::kDataLoss, StatusCode::kUnsupported});
    return 0;
  }
  const std::int64_t header_size = header->data_start - 8;
  if (framed) FUZZ_CHECK(header_size == static_cast<std::int64_t>(text.size()));
  check_header(*header, header_size, file_size);
  check_round_trip(*header, file_size - header->data_start);
  return 0;
}
