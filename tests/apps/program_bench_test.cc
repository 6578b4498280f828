// The verb `bench`: rows that a program can read, and what it refuses.
#include <sstream>

#include "tests/apps/program_test_support.h"

namespace hybridattn::app {
namespace {

TEST(ProgramBench, PrintsTheMachineAndThenItsRowsAsJson) {
  const Process::End end = run_program({"bench", "conv", "--threads", "1", "--json"});
  ASSERT_EQ(end.code, 0) << end.err;
  std::istringstream lines(end.out);
  std::vector<json> rows;
  for (std::string line; std::getline(lines, line);) rows.push_back(json::parse(line));
  ASSERT_GE(rows.size(), 3u);
  EXPECT_FALSE(rows[0].at("isa").get<std::string>().empty());
  EXPECT_EQ(rows[0].at("threads"), 1);
  EXPECT_GT(rows[0].at("read_gb_per_s").get<double>(), 0.0);
  for (std::size_t i = 1; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].at("suite"), "conv");
    EXPECT_FALSE(rows[i].at("kernel").get<std::string>().empty());
    EXPECT_GT(rows[i].at("us").get<double>(), 0.0);
  }
}

TEST(ProgramBench, AWholeModel) {
  const Process::End end =
      run_program({"bench", "model", "--model", checkpoint("tiny-model"), "--weights", "int8",
                   "--state-dtype", "bf16", "--threads", "1", "--json"});
  ASSERT_EQ(end.code, 0) << end.err;
  std::istringstream lines(end.out);
  int rows = 0;
  for (std::string line; std::getline(lines, line);) {
    const json row = json::parse(line);
    if (!row.contains("suite")) continue;
    ++rows;
    if (rows == 1) {
      EXPECT_GT(row.at("first_token_s").get<double>(), row.at("load_s").get<double>());
      continue;
    }
    if (row.contains("of_read_in_turn")) {
      EXPECT_GT(row.at("steps").get<int>(), 0);
      EXPECT_GT(row.at("of_read_in_turn").get<double>(), 0.0);
      EXPECT_GT(row.at("decode_tokens_per_s").get<double>(), 0.0);
      continue;
    }
    EXPECT_EQ(row.at("weights"), "int8");
    EXPECT_GT(row.at("of_one_by_one").get<double>(), 0.0);
    EXPECT_GT(row.at("prefill_tokens_per_s").get<double>(), 0.0);
    EXPECT_GT(row.at("decode_gb_per_s").get<double>(), 0.0);
  }
  EXPECT_EQ(rows, 7);
}

TEST(ProgramBench, RefusesWhatItDoesNotKnow) {
  const Process::End model = run_program({"bench", "model"});
  EXPECT_EQ(model.code, 1);
  EXPECT_NE(model.err.find("--model is missing"), std::string::npos) << model.err;
  const Process::End suite = run_program({"bench", "conv2"});
  EXPECT_EQ(suite.code, 2);
  EXPECT_NE(suite.err.find("conv2"), std::string::npos) << suite.err;
  const Process::End device = run_program({"bench", "conv", "--device", "cuda"});
  EXPECT_EQ(device.code, 1);
  // Of a build with CUDA and of one without.
  const bool named = device.err.find("suite is conv, must on a GPU be one of") != std::string::npos;
  const bool absent = device.err.find("this build has no CUDA kernels") != std::string::npos;
  EXPECT_TRUE(named || absent) << device.err;
}

}  // namespace
}  // namespace hybridattn::app
