// Folders: one file, or an index with shards whose every word is checked.
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engine/checkpoint/safetensors.h"
#include "tests/engine/checkpoint/checkpoint_test_support.h"

namespace hybridattn::engine {
namespace {

using nlohmann::json;

/// A file of one tensor of 4 bytes for each name.
std::string file_of(const std::vector<std::string>& names) {
  json header = json::object();
  for (std::size_t i = 0; i < names.size(); ++i) {
    header[names[i]] = {{"dtype", "F32"}, {"shape", {1}}, {"data_offsets", {4 * i, 4 * i + 4}}};
  }
  return safetensors_file(header.dump(), 4 * names.size());
}

/// Two shards: a and b in the first, c in the second.
json write_shards(const TempFolder& folder) {
  folder.write("one.safetensors", file_of({"a", "b"}));
  folder.write("two.safetensors", file_of({"c"}));
  return {{"metadata", {{"total_size", 12}}},
          {"weight_map",
           {{"a", "one.safetensors"}, {"b", "one.safetensors"}, {"c", "two.safetensors"}}}};
}

Result<Checkpoint> open_index(const TempFolder& folder, std::string_view index) {
  folder.write("model.safetensors.index.json", index);
  return Checkpoint::open(folder.path());
}

void expect_bad_index(const TempFolder& folder, const json& index,
                      std::initializer_list<std::string_view> parts) {
  const auto opened = open_index(folder, index.dump());
  ASSERT_FALSE(opened.ok());
  expect_error(opened.status(), StatusCode::kDataLoss, parts);
}

TEST(Checkpoint, NeitherFile) {
  const TempFolder folder;
  for (const auto& place : {folder.path(), folder.path() / "absent"}) {
    const auto opened = Checkpoint::open(place);
    ASSERT_FALSE(opened.ok());
    expect_error(opened.status(), StatusCode::kNotFound,
                 {place.string(), "neither model.safetensors nor model.safetensors.index.json"});
  }
}

TEST(Checkpoint, OneFile) {
  const TempFolder folder;
  folder.write("model.safetensors", file_of({"y", "x"}));
  auto opened = Checkpoint::open(folder.path());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  const Checkpoint checkpoint = std::move(opened).value();
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(checkpoint.total_bytes(), 8);
  EXPECT_EQ(checkpoint.find("z"), nullptr);
  const StoredTensor* x = checkpoint.find("x");
  ASSERT_NE(x, nullptr);
  EXPECT_EQ(std::to_integer<int>(x->data[0]), 4);
  checkpoint.forget("x");
  checkpoint.forget("z");
  EXPECT_EQ(std::to_integer<int>(x->data[0]), 4);
  expect_error(checkpoint.require("z").status(), StatusCode::kNotFound, {"\"z\""});
  ASSERT_TRUE(checkpoint.require("x").ok());
  EXPECT_EQ(*checkpoint.require("x"), x);
}

TEST(Checkpoint, TensorsOfOtherDtypesAreAnErrorWhenAskedFor) {
  const TempFolder folder;
  folder.write(
      "model.safetensors",
      safetensors_file(R"({"q":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}})", 2));
  const auto opened = Checkpoint::open(folder.path());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  ASSERT_NE(opened->find("q"), nullptr);
  EXPECT_FALSE(opened->find("q")->loadable);
  EXPECT_EQ(opened->find("q")->dtype_text, "F8_E4M3");
  expect_error(opened->require("q").status(), StatusCode::kUnsupported,
               {folder.path().string(), "\"q\"", "\"F8_E4M3\"", "supported"});
}

TEST(Checkpoint, SingleFileWinsOverAnIndex) {
  const TempFolder folder;
  folder.write("model.safetensors", file_of({"x"}));
  const auto opened = open_index(folder, "not JSON");
  EXPECT_TRUE(opened.ok()) << opened.status().message();
}

TEST(Checkpoint, Shards) {
  const TempFolder folder;
  const json index = write_shards(folder);
  const auto opened = open_index(folder, index.dump());
  ASSERT_TRUE(opened.ok()) << opened.status().message();
  EXPECT_EQ(opened->names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(opened->total_bytes(), 12);
}

TEST(F58HostileWeightFiles, DamagedFileOfAFolder) {
  const TempFolder folder;
  const json index = write_shards(folder);
  folder.write("two.safetensors", file_of({"c"}).substr(0, 20));
  expect_bad_index(folder, index, {"two.safetensors: ", "header length"});
  folder.write("model.safetensors", "short");
  const auto single = Checkpoint::open(folder.path());
  expect_error(single.status(), StatusCode::kDataLoss, {"model.safetensors: ", "header length"});
}

TEST(F58HostileWeightFiles, IndexOfTheWrongForm) {
  const TempFolder folder;
  write_shards(folder);
  constexpr std::string_view kTexts[] = {
      "",
      "{",
      "[]",
      "null",
      "{}",
      R"({"weight_map":null})",
      R"({"weight_map":[]})",
      R"({"weight_map":{}})",
      R"({"weight_map":{"a":1}})",
      R"({"weight_map":{"a":"one.safetensors","a":"two.safetensors"}})"};
  for (const std::string_view text : kTexts) {
    SCOPED_TRACE(text);
    const auto opened = open_index(folder, text);
    ASSERT_FALSE(opened.ok());
    expect_error(opened.status(), StatusCode::kDataLoss, {"model.safetensors.index.json: "});
  }
}

TEST(F58HostileWeightFiles, MalformedJson) {
  const TempFolder folder;
  const std::string index = (folder.path() / "model.safetensors.index.json").string();
  EXPECT_EQ(open_index(folder, "{\"weight_map\":}").status().message(),
            index + ": malformed JSON at byte 14");
  const std::string file = folder.write("model.safetensors", safetensors_file("{,", 0)).string();
  EXPECT_EQ(Checkpoint::open(folder.path()).status().message(),
            file + ": header: malformed JSON at byte 1");
}

TEST(F58HostileWeightFiles, IndexMayNotLeaveTheFolder) {
  const TempFolder outer;
  outer.write("out.safetensors", file_of({"c"}));
  const auto inner = outer.path() / "inner";
  std::filesystem::create_directory(inner);
  const std::string absolute = (outer.path() / "out.safetensors").string();
  for (const std::string& name :
       {std::string("../out.safetensors"), absolute, std::string("inner/x.safetensors"),
        std::string("..\\x.safetensors"), std::string(".."), std::string(""),
        std::string(".x.safetensors"), std::string("x\n.safetensors"), std::string("x.bin"),
        std::string("x.safetensors\0", 14)}) {
    SCOPED_TRACE(name);
    outer.write("inner/model.safetensors.index.json", json{{"weight_map", {{"c", name}}}}.dump());
    const auto opened = Checkpoint::open(inner);
    ASSERT_FALSE(opened.ok());
    expect_error(opened.status(), StatusCode::kDataLoss, {"weight_map", "\"c\"", "same folder"});
  }
}

TEST(F58HostileWeightFiles, IndexAndShardsDisagree) {
  const TempFolder folder;
  const json good = write_shards(folder);

  json index = good;
  index["weight_map"]["d"] = "three.safetensors";
  expect_bad_index(folder, index, {"\"three.safetensors\"", "not there"});

  index = good;
  index["weight_map"]["d"] = "two.safetensors";
  expect_bad_index(folder, index, {"\"d\"", "\"two.safetensors\"", "no such tensor"});

  index = good;
  index["weight_map"]["b"] = "two.safetensors";
  expect_bad_index(folder, index, {"\"b\"", "\"two.safetensors\"", "no such tensor"});

  index = good;
  index["weight_map"].erase("b");
  expect_bad_index(folder, index, {"no entry", "\"b\"", "\"one.safetensors\""});

  folder.write("two.safetensors", file_of({"c", "a"}));
  expect_bad_index(folder, good, {"two.safetensors: ", "\"a\"", "\"one.safetensors\"", "too"});
}

TEST(Checkpoint, FoldersOfTheRepository) {
  struct Case {
    const char* folder;
    const char* embedding;
    std::vector<std::int64_t> shape;
  };
  const Case cases[] = {
      {"assets/tiny-model", "model.embed_tokens.weight", {4096, 256}},
      {"tests/data/golden_a", "model.embed_tokens.weight", {512, 128}},
      {"tests/data/golden_c", "model.embed_tokens.weight", {512, 128}},
      {"tests/data/golden_nested", "model.language_model.embed_tokens.weight", {384, 96}},
      {"tests/data/golden_moe_stacked", "model.embed_tokens.weight", {512, 128}},
      {"tests/data/golden_moe_split", "model.embed_tokens.weight", {448, 96}}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.folder);
    const auto opened = Checkpoint::open(source_path(c.folder));
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    const auto tensor = opened->require(c.embedding);
    ASSERT_TRUE(tensor.ok()) << tensor.status().message();
    EXPECT_EQ((*tensor)->shape, c.shape);
    EXPECT_EQ((*tensor)->dtype, DType::kBF16);
  }
  const auto nested = Checkpoint::open(source_path("tests/data/golden_nested"));
  ASSERT_TRUE(nested.ok());
  EXPECT_EQ(nested->total_bytes(), 2053036);
}

}  // namespace
}  // namespace hybridattn::engine
