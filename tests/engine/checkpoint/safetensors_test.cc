// Files that lie: every lie is an error before a tensor is read, and no bytes crash the parser.
#include "engine/checkpoint/safetensors.h"

#include <sys/stat.h>

#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "engine/checkpoint/safetensors_header.h"
#include "tests/engine/checkpoint/checkpoint_test_support.h"

namespace hybridattn::engine {
namespace {

// 6 + 8 + 4 bytes, the dtypes in no order of alignment, an empty tensor between and a scalar.
constexpr std::string_view kGoodHeader =
    R"({"__metadata__":{"format":"pt"},)"
    R"("a":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]},)"
    R"("b":{"dtype":"F32","shape":[1,2],"data_offsets":[6,14]},)"
    R"("none":{"dtype":"F16","shape":[0,7],"data_offsets":[14,14]},)"
    R"("s":{"dtype":"F32","shape":[],"data_offsets":[14,18]}}  )";
constexpr std::size_t kGoodData = 18;

/// Parses from a heap block of just these bytes, so that a sanitizer sees any read past them.
Result<SafetensorsHeader> parse_bytes(std::string_view file) {
  std::vector<std::byte> bytes(file.size());
  if (!file.empty()) std::memcpy(bytes.data(), file.data(), file.size());
  return parse_safetensors_header(bytes, std::ssize(bytes));
}

Result<SafetensorsHeader> parse_header(std::string_view header, std::size_t data_bytes) {
  return parse_bytes(safetensors_file(header, data_bytes));
}

/// A file of one tensor with these fields and `data_bytes` bytes of data.
Result<SafetensorsHeader> parse_fields(std::string_view fields, std::size_t data_bytes) {
  return parse_header(concat("{\"t\":{", fields, "}}"), data_bytes);
}

void expect_lie(const Result<SafetensorsHeader>& result,
                std::initializer_list<std::string_view> parts) {
  ASSERT_FALSE(result.ok());
  expect_error(result.status(), StatusCode::kDataLoss, parts);
}

std::string with_length(std::string file, std::uint64_t length) {
  for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(length >> (8 * i));
  return file;
}

TEST(Safetensors, ReadsAGoodFile) {
  const TempFolder folder;
  const auto path = folder.write("m.safetensors", safetensors_file(kGoodHeader, kGoodData));
  const auto opened = SafetensorsFile::open(path);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const SafetensorsFile& file = **opened;
  EXPECT_EQ(file.path(), path);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  ASSERT_EQ(file.tensors().size(), 4u);
  const StoredTensor& b = file.tensors().at("b");
  EXPECT_EQ(b.dtype, DType::kF32);
  EXPECT_EQ(b.dtype_text, "F32");
  EXPECT_TRUE(b.loadable);
  EXPECT_EQ(b.shape, (std::vector<std::int64_t>{1, 2}));
  ASSERT_EQ(b.bytes, 8);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(std::to_integer<int>(b.data[i]), 6 + i);
  EXPECT_EQ(file.tensors().at("a").dtype, DType::kBF16);
  EXPECT_EQ(file.tensors().at("none").bytes, 0);
  EXPECT_NE(file.tensors().at("none").data, nullptr);
  EXPECT_EQ(file.tensors().at("s").bytes, 4);
  EXPECT_TRUE(file.tensors().at("s").shape.empty());
}

/// Bytes of a file's mapping that are in this process's page tables; -1 where the system won't say.
std::int64_t mapped_bytes_in_use(const std::filesystem::path& path) {
  std::ifstream maps("/proc/self/smaps");
  std::int64_t kilobytes = -1;
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.ends_with(path.string())) inside = true;
    if (!inside || !line.starts_with("Rss:")) continue;
    kilobytes = std::stoll(line.substr(4));
    break;
  }
  return kilobytes < 0 ? -1 : kilobytes * 1024;
}

TEST(Safetensors, ForgottenTensorsLeaveMemoryAndCanBeReadAgain) {
  constexpr std::size_t kBytes = 4'000'000;
  const TempFolder folder;
  const std::string header = R"({"t":{"dtype":"U8","shape":[4000000],"data_offsets":[0,4000000]}})";
  const auto path = folder.write("m.safetensors", safetensors_file(header, kBytes));
  const auto opened = SafetensorsFile::open(path);
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const StoredTensor& tensor = (*opened)->tensors().at("t");
  const auto count_wrong = [&tensor] {
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < kBytes; ++i) wrong += tensor.data[i] != static_cast<std::byte>(i);
    return wrong;
  };
  EXPECT_EQ(count_wrong(), 0u);
  const std::int64_t before = mapped_bytes_in_use(path);
  (*opened)->forget(tensor);
  const std::int64_t after = mapped_bytes_in_use(path);
  EXPECT_EQ(count_wrong(), 0u);
  if (before < 0) GTEST_SKIP() << "no /proc/self/smaps";
  EXPECT_GE(before, 3'900'000);
  // At most the pages that the tensor shares with its neighbours stay.
  EXPECT_LE(after, 200'000);
}

TEST(Safetensors, NoTensorsIsAFile) {
  EXPECT_TRUE(parse_header("{}", 0).ok());
  expect_lie(parse_header("{}", 1), {"data", "found 1 bytes", "wanted 0"});
}

TEST(Safetensors, KnowsTheDtypesOfTheFormat) {
  struct Case {
    const char* name;
    int bits;
    bool loadable;
  };
  constexpr Case kCases[] = {
      {"F64", 64, true},         {"F32", 32, true},     {"F16", 16, true},
      {"BF16", 16, true},        {"I64", 64, true},     {"I32", 32, true},
      {"C64", 64, false},        {"U64", 64, false},    {"U32", 32, false},
      {"I16", 16, false},        {"U16", 16, false},    {"I8", 8, false},
      {"U8", 8, false},          {"BOOL", 8, false},    {"F8_E4M3", 8, false},
      {"F8_E5M2", 8, false},     {"F8_E8M0", 8, false}, {"F8_E4M3FNUZ", 8, false},
      {"F8_E5M2FNUZ", 8, false}, {"F6_E2M3", 6, false}, {"F6_E3M2", 6, false},
      {"F4", 4, false}};
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    const std::string fields =
        concat("\"dtype\":\"", c.name, "\",\"shape\":[8],\"data_offsets\":[0,", c.bits, "]");
    const auto good = parse_fields(fields, static_cast<std::size_t>(c.bits));
    ASSERT_TRUE(good.ok()) << good.status().message();
    const TensorRecord& record = good->tensors.at("t");
    EXPECT_EQ(record.loadable, c.loadable);
    EXPECT_EQ(record.dtype_text, c.name);
    if (c.loadable) {
      EXPECT_EQ(dtype_size(record.dtype) * 8, static_cast<std::size_t>(c.bits));
    }
    const std::string short_one =
        concat("\"dtype\":\"", c.name, "\",\"shape\":[8],\"data_offsets\":[0,", c.bits - 1, "]");
    expect_lie(parse_fields(short_one, static_cast<std::size_t>(c.bits - 1)), {"\"t\"", c.name});
  }
  expect_lie(parse_fields(R"("dtype":"F4","shape":[3],"data_offsets":[0,1])", 1),
             {"shape", "12 bits", "whole bytes"});
}

TEST(F58HostileWeightFiles, FilesThatCannotBeOpened) {
  const TempFolder folder;
  const auto missing = SafetensorsFile::open(folder.path() / "absent.safetensors");
  expect_error(missing.status(), StatusCode::kNotFound, {"absent.safetensors", "can't open it"});
  const auto directory = SafetensorsFile::open(folder.path());
  expect_error(directory.status(), StatusCode::kNotFound, {"no regular file"});
  const auto pipe = folder.path() / "pipe.safetensors";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_error(SafetensorsFile::open(pipe).status(), StatusCode::kNotFound, {"no regular file"});
  const auto odd = SafetensorsFile::open(folder.path() / "two\nlines");
  expect_error(odd.status(), StatusCode::kNotFound, {"two?lines"});
}

TEST(F58HostileWeightFiles, HeaderLength) {
  const std::string good = safetensors_file(kGoodHeader, kGoodData);
  const auto size = static_cast<std::uint64_t>(good.size());
  expect_lie(parse_bytes(with_length(good, size - 7)), {"header length", "wanted at most the"});
  expect_lie(parse_bytes(with_length(good, 100'000'000)), {"header length", "100000000"});
  for (const std::uint64_t huge :
       {std::uint64_t{100'000'001}, std::uint64_t{1} << 40, std::uint64_t{1} << 63,
        (std::uint64_t{1} << 63) - 8, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    expect_lie(parse_bytes(with_length(good, huge)),
               {"header length", concat("found ", huge), "wanted at most 100000000"});
  }
  expect_lie(parse_bytes(with_length(good, 0)), {"header", "wanted \"{\""});
  expect_lie(parse_bytes(with_length(good, 40)), {"header", "malformed JSON at byte 40"});
}

TEST(F58HostileWeightFiles, HeaderIsNoObject) {
  for (const std::string_view header : {"[]", "null", "7", "\"{}\"", "", " {}", "\xEF\xBB\xBF{}"}) {
    expect_lie(parse_header(header, 0), {"header", "wanted \"{\""});
  }
  for (const std::string_view header :
       {"{", "{}}", "{} x", "{\"t\":}", "{'t':1}", "{\"\xFF\":1}"}) {
    expect_lie(parse_header(header, 0), {"header", "JSON"});
  }
  expect_lie(parse_header(std::string("{}\0{", 4), 0), {"header", "NUL", "byte 2"});
}

TEST(F58HostileWeightFiles, DepthAndNumberOfValues) {
  std::string deep = "{\"t\":";
  deep.append(200'000, '[');
  expect_lie(parse_header(deep, 0), {"header", "nested"});
  std::string wide = "{\"t\":[";
  for (int i = 0; i < 4'000'001; ++i) wide += "1,";
  expect_lie(parse_header(wide, 0), {"header", "values"});
}

TEST(F58HostileWeightFiles, NamesGivenTwice) {
  const std::string entry = R"("t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  expect_lie(parse_header(concat("{", entry, ",", entry, "}"), 1), {"\"t\"", "twice"});
  expect_lie(parse_header(R"({"__metadata__":{},"__metadata__":{}})", 0), {"twice"});
  expect_lie(parse_header(R"({"__metadata__":{"a":"1","a":"2"}})", 0), {"\"a\"", "twice"});
  expect_lie(parse_fields(R"("dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1])", 1),
             {"\"dtype\"", "twice"});
  expect_lie(parse_header(concat("{", entry, R"(,"\u0074":1})"), 1), {"\"t\"", "twice"});
}

TEST(F58HostileWeightFiles, Fields) {
  expect_lie(parse_fields(R"("shape":[1],"data_offsets":[0,1])", 1), {"\"t\"", "dtype", "null"});
  expect_lie(parse_fields(R"("dtype":"U8","data_offsets":[0,1])", 1), {"\"t\"", "shape", "null"});
  expect_lie(parse_fields(R"("dtype":"U8","shape":[1])", 1), {"\"t\"", "data_offsets", "null"});
  expect_lie(parse_fields(R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"scale":2)", 1),
             {"\"t\"", "\"scale\"", "alone"});
  expect_lie(parse_fields(R"("dtype":7,"shape":[1],"data_offsets":[0,1])", 1),
             {"dtype", "found 7"});
  expect_lie(parse_fields(R"("dtype":"U8","shape":1,"data_offsets":[0,1])", 1),
             {"shape", "found 1"});
  expect_lie(parse_fields(R"("dtype":"U8","shape":[1],"data_offsets":[0,1,2])", 1), {"3 entries"});
  expect_lie(parse_fields(R"("dtype":"U8","shape":[1],"data_offsets":[0])", 1), {"1 entries"});
  expect_lie(parse_header(R"({"t":[]})", 0), {"\"t\"", "entry", "an object"});
  expect_lie(parse_header(R"({"t":null})", 0), {"\"t\"", "entry", "an object"});
  const auto unknown = parse_fields(R"("dtype":"F7","shape":[1],"data_offsets":[0,1])", 1);
  expect_error(unknown.status(), StatusCode::kUnsupported, {"\"t\"", "dtype", "\"F7\""});
}

TEST(F58HostileWeightFiles, Metadata) {
  EXPECT_TRUE(parse_header(R"({"__metadata__":{}})", 0).ok());
  for (const std::string_view value : {"null", "[]", "\"pt\"", "1"}) {
    expect_lie(parse_header(concat("{\"__metadata__\":", value, "}"), 0),
               {"__metadata__", "object"});
  }
  expect_lie(parse_header(R"({"__metadata__":{"format":1}})", 0),
             {"\"format\"", "found 1", "string"});
}

TEST(F58HostileWeightFiles, ShapeEntries) {
  for (const std::string_view entry : {"-1", "1.0", "1e0", "\"1\"", "true", "null", "[1]", "-0",
                                       "9223372036854775808", "18446744073709551616"}) {
    const std::string fields =
        concat(R"("dtype":"U8","data_offsets":[0,1],"shape":[1,)", entry, "]");
    expect_lie(parse_fields(fields, 1), {"\"t\"", "shape[1]", "wanted an integer"});
  }
}

TEST(F58HostileWeightFiles, ShapeProductOverflows) {
  // 2^32 * 2^32 is 0 in 64 bits; 2^61 doubles are 0 bytes; an empty tensor hides neither.
  for (const std::string_view shape :
       {"[4294967296,4294967296]", "[2305843009213693952]", "[0,4294967296,4294967296]",
        "[4294967296,4294967296,0]", "[9223372036854775807,9223372036854775807]"}) {
    const std::string fields = concat(R"("dtype":"F64","data_offsets":[0,0],"shape":)", shape);
    expect_lie(parse_fields(fields, 0), {"\"t\"", "shape", "product"});
  }
  EXPECT_TRUE(parse_fields(R"("dtype":"F64","data_offsets":[0,0],"shape":[0,4294967296])", 0).ok());
}

TEST(F58HostileWeightFiles, Offsets) {
  const auto parse_at = [](std::string_view offsets) {
    return parse_fields(concat(R"("dtype":"U8","shape":[4],"data_offsets":)", offsets), 4);
  };
  EXPECT_TRUE(parse_at("[0,4]").ok());
  expect_lie(parse_at("[4,0]"), {"\"t\"", "[4, 0]", "begin at or before end"});
  expect_lie(parse_at("[0,5]"), {"\"t\"", "[0, 5]", "at most the 4 bytes"});
  expect_lie(parse_at("[1,5]"), {"\"t\"", "at most the 4 bytes"});
  expect_lie(parse_at("[0,3]"), {"\"t\"", "found 3 bytes", "wanted 4"});
  expect_lie(parse_at("[-4,0]"), {"data_offsets[0]", "found -4"});
  expect_lie(parse_at("[0,9223372036854775807]"), {"at most the 4 bytes"});
  expect_lie(parse_at("[0,18446744073709551615]"), {"data_offsets[1]", "wanted an integer"});
  expect_lie(parse_at("[18446744073709551612,0]"), {"data_offsets[0]", "wanted an integer"});
  expect_lie(parse_at("[0,4.0]"), {"data_offsets[1]", "found 4.0"});
}

TEST(F58HostileWeightFiles, OverlapsAndHoles) {
  const auto two = [](std::string_view first, std::string_view second, std::size_t data) {
    return parse_header(concat(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)", first,
                               R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)", second, "}}"),
                        data);
  };
  EXPECT_TRUE(two("[0,4]", "[4,8]", 8).ok());
  EXPECT_TRUE(two("[4,8]", "[0,4]", 8).ok());
  expect_lie(two("[0,4]", "[3,7]", 8), {"\"b\"", "found begin 3", "overlap", "wanted 4"});
  expect_lie(two("[0,4]", "[0,4]", 4), {"\"b\"", "overlap"});
  expect_lie(two("[0,4]", "[5,9]", 9), {"\"b\"", "found begin 5", "hole", "wanted 4"});
  expect_lie(two("[1,5]", "[5,9]", 9), {"\"a\"", "hole", "wanted 0"});
  expect_lie(two("[0,4]", "[4,8]", 9), {"data", "found 9 bytes", "wanted 8"});
}

TEST(F58HostileWeightFiles, CutAtEveryByte) {
  const TempFolder folder;
  const std::string good = safetensors_file(kGoodHeader, kGoodData);
  ASSERT_TRUE(parse_bytes(good).ok());
  for (std::size_t length = 0; length < good.size(); ++length) {
    SCOPED_TRACE(length);
    const std::string cut = good.substr(0, length);
    expect_lie(parse_bytes(cut), {"wanted"});
    const auto opened = SafetensorsFile::open(folder.write("cut.safetensors", cut));
    ASSERT_FALSE(opened.ok());
    expect_error(opened.status(), StatusCode::kDataLoss, {"cut.safetensors"});
  }
  expect_lie(parse_bytes(good + "x"), {"data", "found 19 bytes", "wanted 18"});
}

TEST(F58HostileWeightFiles, TheStartOfAFileIsEnough) {
  const std::string good = safetensors_file(kGoodHeader, kGoodData);
  const std::size_t header_end = good.size() - kGoodData;
  for (std::size_t length = 0; length <= header_end; ++length) {
    const std::vector<std::byte> start(reinterpret_cast<const std::byte*>(good.data()),
                                       reinterpret_cast<const std::byte*>(good.data()) + length);
    const auto parsed = parse_safetensors_header(start, std::ssize(good));
    EXPECT_EQ(parsed.ok(), length == header_end) << length;
  }
}

/// One random change of a file's first `end` bytes.
void mutate(std::string& file, std::size_t end, std::mt19937& rng) {
  constexpr std::string_view kTokens[] = {"{",    "}",  "[",    "]",          "\"",
                                          ",",    ":",  "-",    "0",          "9",
                                          ".",    "e9", "null", "4294967296", "9223372036854775807",
                                          "\\u00"};
  const std::size_t at = rng() % end;
  switch (rng() % 6) {
    case 0: file[at] = static_cast<char>(rng()); break;
    case 1: file[at] = static_cast<char>(file[at] ^ (1 << (rng() % 8))); break;
    case 2: file.insert(at, kTokens[rng() % std::size(kTokens)]); break;
    case 3: file.erase(at, 1 + rng() % 8); break;
    case 4: file.insert(at, file.substr(rng() % end, 1 + rng() % 60)); break;
    default: file[at] = static_cast<char>('0' + rng() % 10); break;
  }
}

TEST(F58HostileWeightFiles, RandomChangesNeverCrash) {
  const std::string good = safetensors_file(kGoodHeader, kGoodData);
  std::mt19937 rng(58);
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string file = good;
    for (auto changes = 1 + rng() % 3; changes > 0; --changes) {
      mutate(file, file.size() - kGoodData, rng);
    }
    // Half of the time the length follows, or nothing but the length would ever be tested.
    if (rng() % 2 == 0) file = with_length(file, file.size() - kGoodData - 8);
    const auto parsed = parse_bytes(file);
    if (!parsed.ok()) {
      ASSERT_FALSE(parsed.status().message().empty());
      ASSERT_EQ(parsed.status().message().find('\n'), std::string::npos);
      continue;
    }
    ++accepted;
    std::int64_t covered = 0;
    for (const auto& [name, tensor] : parsed->tensors) {
      ASSERT_GE(tensor.begin, 0);
      ASSERT_LE(tensor.begin, tensor.end);
      ASSERT_LE(parsed->data_start + tensor.end, std::ssize(file));
      covered += tensor.end - tensor.begin;
    }
    ASSERT_EQ(parsed->data_start + covered, std::ssize(file));
  }
  // Changes of a name or of the padding are no lies: the test reaches the last check.
  EXPECT_GT(accepted, 50);
  EXPECT_LT(accepted, 10'000);
}

}  // namespace
}  // namespace hybridattn::engine
