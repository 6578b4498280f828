// --trace: the JSON of a run, the table on standard error, paths that cannot be written.
#include <map>

#include "tests/apps/program_test_support.h"

namespace hybridattn::app {
namespace {

/// Calls by name, after a look at every event.
std::map<std::string, int> calls_in(const std::string& path) {
  const json root = json::parse(read_file(path));
  std::map<std::string, int> calls;
  double last_end = 0;
  for (const json& event : root.at("traceEvents")) {
    EXPECT_EQ(event.at("ph"), "X");
    EXPECT_GE(event.at("ts").get<double>() + 0.001, last_end) << event;
    EXPECT_GE(event.at("dur").get<double>(), 0) << event;
    EXPECT_EQ(event.at("args").at("workers"), 1) << event;
    last_end = event.at("ts").get<double>() + event.at("dur").get<double>();
    ++calls[event.at("name")];
  }
  return calls;
}

json config_of(const std::string& model) {
  return json::parse(read_file(std::filesystem::path(checkpoint(model)) / "config.json"));
}

TEST(ProgramTrace, GenerateWritesEachStepsOps) {
  const Folder folder;
  const std::string file = folder / "trace.json";
  const Process::End end = run_program(on("generate", checkpoint("golden_a"),
                                          {"--prompt-ids", "1,2,3", "--max-new-tokens", "4",
                                           "--ignore-eos", "--json", "--trace", file}));
  ASSERT_EQ(end.code, 0) << end.err;
  EXPECT_EQ(json::parse(end.out).at("ids").size(), 4u);
  const std::map<std::string, int> calls = calls_in(file);
  // One step of the prompt, three of a token each.
  const int layers = config_of("golden_a").at("num_hidden_layers");
  const int full = calls.at("attention") / 4;
  EXPECT_GT(full, 0);
  EXPECT_EQ(calls.at("attention"), 4 * full);
  EXPECT_EQ(calls.at("causal_conv"), 4 * (layers - full));
  EXPECT_EQ(calls.at("embed"), 4);
  for (const auto& [name, count] : calls) {
    EXPECT_NE(end.err.find(name + ' '), std::string::npos) << name << " is not in: " << end.err;
  }
  EXPECT_NE(end.err.find("share"), std::string::npos);
}

TEST(ProgramTrace, ScoreWritesOneTooAndTheResultIsTheSame) {
  const Folder folder;
  const Args plain = on("score", checkpoint("golden_a"), {"--ids", "1,2,3,4,5"});
  Args traced = plain;
  traced.insert(traced.end(), {"--trace", folder / "trace.json"});
  json without = run_json(plain);
  json with = run_json(traced);
  without.erase("peak_rss_bytes");
  with.erase("peak_rss_bytes");
  EXPECT_EQ(with, without);
  EXPECT_FALSE(calls_in(folder / "trace.json").empty());
}

TEST(ProgramTrace, PathsThatCannotBeWritten) {
  const Folder folder;
  const Args generate = {"--prompt-ids", "1,2", "--max-new-tokens", "1", "--json", "--trace"};
  const auto refused = [&](const std::string& path, int code, const std::string& reason) {
    Args args = on("generate", checkpoint("golden_a"), generate);
    args.push_back(path);
    expect_refusal(args, code, {"--trace", reason});
  };
  refused(folder / "missing/trace.json", kData, "No such file or directory");
  refused(folder.path(), kData, "Is a directory");
  refused("", kUsage, "must be a path");
  expect_refusal(on("info", checkpoint("golden_a"), {"--trace", folder / "t"}), kUsage,
                 {"--trace"});
}

TEST(ProgramTrace, AFullDiskIsAnErrorAfterTheResult) {
  const Process::End end = run_program(
      on("generate", checkpoint("golden_a"),
         {"--prompt-ids", "1,2", "--max-new-tokens", "1", "--json", "--trace", "/dev/full"}));
  EXPECT_EQ(end.code, kData);
  EXPECT_TRUE(json::parse(end.out, nullptr, false).is_object()) << end.out;
  EXPECT_NE(end.err.find("--trace /dev/full: can't write it: No space left"), std::string::npos)
      << end.err;
}

}  // namespace
}  // namespace hybridattn::app
