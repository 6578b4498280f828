// What the program prints when all is well.
#include <cmath>
#include <set>

#include "tests/apps/program_test_support.h"

namespace hybridattn::app {
namespace {

const std::string kPrompt = "Once upon a time there was a king who had";

std::set<std::string> keys_of(const json& object) {
  std::set<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.insert(key);
  return keys;
}

void expect_generation(const json& one) {
  EXPECT_TRUE(one["prompt_ids"].is_array());
  EXPECT_TRUE(one["ids"].is_array());
  EXPECT_TRUE(one["text"].is_string() || one["text"].is_null());
  EXPECT_TRUE(one["finish"].is_string());
}

void expect_rates(const json& out) {
  EXPECT_TRUE(out["prefill_tokens_per_s"].is_number());
  EXPECT_TRUE(out["decode_tokens_per_s"].is_number());
  EXPECT_TRUE(out["peak_rss_bytes"].is_number_unsigned());
  EXPECT_GT(out["peak_rss_bytes"], 1 << 20);
}

TEST(ProgramHelp, EachVerb) {
  for (const Args& args : {Args{"--help"}, Args{"generate", "--help"}, Args{"score", "--help"},
                           Args{"info", "--help"}}) {
    const Process::End end = run_program(args);
    EXPECT_EQ(end.code, 0);
    EXPECT_EQ(end.err, "");
    EXPECT_NE(end.out.find("--help"), std::string::npos) << end.out;
  }
  const Process::End version = run_program({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out.rfind("hybridattn ", 0), 0u) << version.out;
}

/// Without the line breaks and the columns of a help text.
std::string words(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool space = c == ' ' || c == '\n';
    if (!space || (!out.empty() && out.back() != ' ')) out += space ? ' ' : c;
  }
  return out;
}

// The defaults of the types depend on the checkpoint: the help says how, and it is so.
TEST(ProgramHelp, DefaultTypes) {
  for (const char* verb : {"generate", "score", "info"}) {
    const std::string help = words(run_program({verb, "--help"}).out);
    EXPECT_NE(
        help.find("default: the checkpoint's, f32 where that is f16; with experts always f32"),
        std::string::npos)
        << help;
    EXPECT_NE(help.find("default: --dtype, else the checkpoint's, f32 where that is f16; also with "
                        "experts"),
              std::string::npos)
        << help;
  }
  const auto types = [](const std::string& model, const Args& more) {
    const json out = run_json(on("info", checkpoint(model), more));
    return out["dtype"].get<std::string>() + " " + out["kv_dtype"].get<std::string>();
  };
  EXPECT_EQ(types("golden_a", {}), "bf16 bf16");
  EXPECT_EQ(types("golden_a", {"--dtype", "f32"}), "f32 f32");
  EXPECT_EQ(types("golden_moe_stacked", {}), "f32 bf16");
  EXPECT_EQ(types("golden_moe_stacked", {"--dtype", "f32"}), "f32 f32");
}

TEST(ProgramGenerate, JsonOfOnePrompt) {
  const json out = run_json(
      on("generate", checkpoint("tiny-model"), {"--prompt", kPrompt, "--max-new-tokens", "8"}));
  EXPECT_EQ(keys_of(out),
            (std::set<std::string>{"prompt_ids", "ids", "text", "finish", "prefill_tokens_per_s",
                                   "decode_tokens_per_s", "peak_rss_bytes"}));
  expect_generation(out);
  expect_rates(out);
  EXPECT_EQ(out["ids"].size(), 8u);
  EXPECT_EQ(out["finish"], "length");
  const json expected =
      json::parse(read_file(checkpoint("tiny-model") + "/expected.json"))["cases"][0];
  EXPECT_EQ(out["prompt_ids"], expected["ids"]);
  EXPECT_EQ(expected["text"].get<std::string>().rfind(out["text"].get<std::string>(), 0), 0u);
}

TEST(ProgramGenerate, StreamedTextIsTheJsonText) {
  const Args args =
      on("generate", checkpoint("tiny-model"),
         {"--prompt", kPrompt, "--max-new-tokens", "40", "--temperature", "1.5", "--seed", "3"});
  const Process::End streamed = run_program(args);
  EXPECT_EQ(streamed.code, 0) << streamed.err;
  const json out = run_json(args);
  EXPECT_EQ(streamed.out, out["text"].get<std::string>() + "\n");
  EXPECT_NE(streamed.err.find("tokens/s"), std::string::npos) << streamed.err;
}

/// The small model with a tokenizer that has tokens for the first `kept` ids only.
void fill_with_padded_vocabulary(const Folder& folder, std::int32_t kept) {
  folder.fill("tiny-model");
  json tokenizer = json::parse(read_file(folder / "tokenizer.json"));
  json& model = tokenizer["model"];
  json vocab = json::object();
  for (const auto& [token, id] : model["vocab"].items()) {
    if (id.get<std::int32_t>() < kept) vocab[token] = id;
  }
  json merges = json::array();
  for (const json& merge : model["merges"]) {
    std::string joined;
    if (merge.is_array()) {
      joined = merge[0].get<std::string>() + merge[1].get<std::string>();
    } else {
      joined = merge.get<std::string>();
      joined.erase(joined.find(' '), 1);
    }
    if (vocab.contains(joined)) merges.push_back(merge);
  }
  model["vocab"] = vocab;
  model["merges"] = merges;
  folder.write("tokenizer.json", tokenizer.dump());
}

// Chance must not hit an id that no text stands for; the best id is the best id all the same.
TEST(ProgramGenerate, ThePaddedTailOfTheVocabularyIsNotSampled) {
  const Folder folder;
  fill_with_padded_vocabulary(folder, 1000);
  const Args args = on("generate", folder.path(),
                       {"--prompt-ids", "5,6,7", "--max-new-tokens", "60", "--ignore-eos"});
  Args hot = args;
  hot.insert(hot.end(), {"--temperature", "3"});
  const json sampled = run_json(hot);
  for (const json& id : sampled["ids"]) EXPECT_LT(id.get<std::int32_t>(), 1000);
  const json whole =
      run_json(on("generate", checkpoint("tiny-model"),
                  {"--prompt-ids", "5,6,7", "--max-new-tokens", "60", "--ignore-eos"}));
  EXPECT_EQ(run_json(args)["ids"], whole["ids"]) << "greedy is the plain argmax";
}

TEST(ProgramGenerate, WeightsThatAreNoNumbersAreAnError) {
  const Folder folder;
  folder.fill("golden_a");
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    if (entry.path().extension() != ".safetensors") continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-64, std::ios::end);
    file << std::string(64, '\xff');
  }
  expect_refusal(on("generate", folder.path(), {"--prompt-ids", "1,2,3"}), kData,
                 {"logits", "3 tokens", "finite"});
  expect_refusal(on("score", folder.path(), {"--ids", "1,2,3"}), kData, {"finite"});
}

TEST(ProgramGenerate, IdsNeedNoTokenizer) {
  const Args args =
      on("generate", checkpoint("golden_a"), {"--prompt-ids", "1, 2,3", "--max-new-tokens", "4"});
  const json out = run_json(args);
  EXPECT_EQ(out["prompt_ids"], json({1, 2, 3}));
  EXPECT_TRUE(out["text"].is_null());
  ASSERT_EQ(out["ids"].size(), 4u);
  std::string ids;
  for (const json& id : out["ids"]) ids += (ids.empty() ? "" : " ") + id.dump();
  EXPECT_EQ(run_program(args).out, ids + "\n");
}

TEST(ProgramGenerate, PromptFromAFileAndFromStandardInput) {
  const Folder folder;
  const std::string model = checkpoint("tiny-model");
  const json wanted =
      run_json(on("generate", model, {"--prompt", kPrompt, "--max-new-tokens", "5"}));
  const std::string file = folder.write("prompt.txt", kPrompt);
  EXPECT_EQ(
      run_json(on("generate", model, {"--prompt-file", file, "--max-new-tokens", "5"}))["ids"],
      wanted["ids"]);
  EXPECT_EQ(run_json(on("generate", model, {"--prompt-file", "-", "--max-new-tokens", "5"}),
                     kPrompt)["ids"],
            wanted["ids"]);
}

TEST(ProgramGenerate, IdsFile) {
  const Folder folder;
  const std::string model = checkpoint("golden_a");
  for (const char* text : {"[4, 5, 6]", R"({"name": "x", "anything": [4, 5, 6]})"}) {
    const std::string file = folder.write("ids.json", text);
    EXPECT_EQ(run_json(on("generate", model,
                          {"--ids-file", file, "--max-new-tokens", "0"}))["prompt_ids"],
              json({4, 5, 6}));
  }
}

TEST(ProgramGenerate, PromptsFileKeepsItsOrder) {
  const Folder folder;
  const std::string model = checkpoint("tiny-model");
  const json one = run_json(on("generate", model, {"--prompt", kPrompt, "--max-new-tokens", "6"}));
  const std::string lines = folder.write("lines.txt", "The wolf\r\n\n" + kPrompt + "\nA\n");
  const json plain =
      run_json(on("generate", model, {"--prompts-file", lines, "--max-new-tokens", "6"}));
  EXPECT_EQ(keys_of(plain), (std::set<std::string>{"results", "prefill_tokens_per_s",
                                                   "decode_tokens_per_s", "peak_rss_bytes"}));
  expect_rates(plain);
  ASSERT_EQ(plain["results"].size(), 3u);
  for (const json& result : plain["results"]) expect_generation(result);
  EXPECT_EQ(plain["results"][1]["ids"], one["ids"]);
  EXPECT_EQ(plain["results"][2]["prompt_ids"].size(), 1u);

  const std::string jsonl = folder.write(
      "lines.jsonl",
      "{\"prompt\": \"The wolf\"}\n{\"prompt_ids\": " + one["prompt_ids"].dump() + "}\n[9, 8]\n");
  const json mixed = run_json(on(
      "generate", model, {"--prompts-file", jsonl, "--max-new-tokens", "6", "--max-batch", "2"}));
  ASSERT_EQ(mixed["results"].size(), 3u);
  EXPECT_EQ(mixed["results"][0]["ids"], plain["results"][0]["ids"]);
  EXPECT_EQ(mixed["results"][1]["ids"], one["ids"]);
  EXPECT_EQ(mixed["results"][2]["prompt_ids"], json({9, 8}));
}

TEST(ProgramGenerate, PromptsFileAsText) {
  const Folder folder;
  const std::string file = folder.write("lines.txt", "The wolf\nA\n");
  const Process::End end = run_program(
      on("generate", checkpoint("tiny-model"), {"--prompts-file", file, "--max-new-tokens", "3"}));
  EXPECT_EQ(end.code, 0);
  EXPECT_EQ(end.out.rfind("[0] ", 0), 0u) << end.out;
  EXPECT_NE(end.out.find("\n[1] "), std::string::npos) << end.out;
}

TEST(ProgramGenerate, EndOfText) {
  const Folder folder;
  folder.fill("golden_a");
  const Args args =
      on("generate", folder.path(), {"--prompt-ids", "1,2,3", "--max-new-tokens", "6"});
  const json free_run = run_json(args);
  ASSERT_EQ(free_run["ids"].size(), 6u);
  folder.patch_config({{"eos_token_id", free_run["ids"][2]}});
  const json ended = run_json(args);
  EXPECT_EQ(ended["finish"], "eos");
  EXPECT_LE(ended["ids"].size(), 3u);
  EXPECT_EQ(ended["ids"].back(), free_run["ids"][2]);
  Args ignoring = args;
  ignoring.push_back("--ignore-eos");
  EXPECT_EQ(run_json(ignoring)["ids"], free_run["ids"]);
}

TEST(ProgramGenerate, AskingForMoreThanTheContextStopsThere) {
  const Folder folder;
  folder.fill("golden_a");
  folder.patch_config({{"max_position_embeddings", 12}});
  const json out = run_json(on("generate", folder.path(),
                               {"--prompt-ids", "1,2,3", "--max-new-tokens", "2147483647",
                                "--chunk", "2147483647", "--max-batch", "2147483647"}));
  EXPECT_EQ(out["ids"].size(), 9u);
  EXPECT_EQ(out["finish"], "length");
}

TEST(ProgramGenerate, Dtypes) {
  const Args args = {"--prompt-ids", "1,2,3", "--max-new-tokens", "3",   "--dtype", "f32",
                     "--kv-dtype",   "f16",   "--state-dtype",    "bf16"};
  EXPECT_EQ(run_json(on("generate", checkpoint("golden_a"), args))["ids"].size(), 3u);
}

TEST(ProgramGenerate, WeightsInEightBits) {
  const std::string model = checkpoint("tiny-model");
  const json stored = run_json(on("info", model, {}));
  const json int8 = run_json(on("info", model, {"--weights", "int8"}));
  EXPECT_EQ(stored["weights"], "stored");
  EXPECT_EQ(int8["weights"], "int8");
  EXPECT_EQ(int8["kernels"]["products"][0], "linear_int8");
  const Args args = {"--prompt-ids", "1,2,3", "--max-new-tokens", "3", "--weights", "int8"};
  EXPECT_EQ(run_json(on("generate", model, args))["ids"].size(), 3u);
}

TEST(ProgramInterrupt, EndsWithWhatThereIs) {
  Process process(on("generate", checkpoint("tiny-model"),
                     {"--prompt", kPrompt, "--max-new-tokens", "4000", "--ignore-eos"}));
  process.give("");
  process.await_output();
  process.send(SIGINT);
  const Process::End end = process.finish();
  EXPECT_EQ(end.signal, 0);
  EXPECT_EQ(end.code, 0);
  EXPECT_FALSE(end.out.empty());
  EXPECT_EQ(end.out.back(), '\n');
}

// The handler is there before anything slow, so a signal at any moment after the prompts were taken
// ends well.
TEST(ProgramInterrupt, JsonIsValidAndSaysCancelled) {
  for (const int milliseconds : {0, 20, 100}) {
    Process process(
        on("generate", checkpoint("tiny-model"),
           {"--prompts-file", "-", "--max-new-tokens", "4000", "--ignore-eos", "--json"}));
    process.give_part("The wolf\nA king\n");
    process.give("");
    ASSERT_TRUE(process.catches_interrupts());
    usleep(static_cast<useconds_t>(milliseconds) * 1000);
    process.send(SIGINT);
    const Process::End end = process.finish();
    EXPECT_EQ(end.signal, 0);
    EXPECT_EQ(end.code, 0) << end.err;
    const json out = json::parse(end.out, nullptr, false);
    ASSERT_TRUE(out.is_object()) << end.out;
    for (const json& result : out["results"]) {
      EXPECT_EQ(result["finish"], "cancelled");
      EXPECT_LT(result["ids"].size(), 4000u);
      expect_generation(result);
    }
  }
}

// A prompt that is still being typed: there is nothing to end cleanly with.
TEST(ProgramInterrupt, WhileTheInputIsRead) {
  Process process(on("generate", checkpoint("tiny-model"), {"--prompts-file", "-", "--json"}));
  process.give_part("The wolf\n");
  process.send(SIGINT);
  const Process::End end = process.finish();
  EXPECT_EQ(end.signal, SIGINT);
  EXPECT_EQ(end.out, "");
}

// One sequence is scored, so memory for one is enough.
TEST(ProgramScore, MemoryOfOneSequence) {
  const std::string model = checkpoint("golden_a");
  const json info = run_json(on("info", model, {}));
  const std::int64_t state = info["state_bytes_per_sequence"];
  const std::int64_t token = info["kv_bytes_per_token"];
  const std::string memory = std::to_string(state + 16 * token);
  EXPECT_EQ(run_json(on("score", model, {"--ids", "1,2,3", "--memory", memory}))["argmax"].size(),
            3u);
  expect_refusal(on("score", model, {"--ids", "1,2,3", "--memory", std::to_string(state)}), kData,
                 {std::to_string(state)});
}

TEST(ProgramScore, Json) {
  const json out =
      run_json(on("score", checkpoint("golden_a"), {"--ids", "1,2,3,4", "--chunk", "3"}));
  EXPECT_EQ(keys_of(out), (std::set<std::string>{"argmax", "logprobs", "mean_nll", "perplexity",
                                                 "last_logits", "peak_rss_bytes"}));
  EXPECT_EQ(out["argmax"].size(), 4u);
  ASSERT_EQ(out["logprobs"].size(), 3u);
  EXPECT_EQ(out["last_logits"].size(), 512u);
  double sum = 0;
  for (const json& logprob : out["logprobs"]) sum -= logprob.get<double>();
  EXPECT_NEAR(out["mean_nll"].get<double>(), sum / 3, 1e-12);
  EXPECT_NEAR(out["perplexity"].get<double>(), std::exp(sum / 3), 1e-9 * std::exp(sum / 3));
}

TEST(ProgramScore, Inputs) {
  const Folder folder;
  const std::string model = checkpoint("tiny-model");
  const std::string text = folder.write("text.txt", kPrompt);
  const json from_text = run_json(on("score", model, {"--text-file", text}));
  const json ids = json::parse(read_file(model + "/expected.json"))["cases"][0]["ids"];
  const std::string file = folder.write("ids.json", json({{"ids", ids}}).dump());
  EXPECT_EQ(run_json(on("score", model, {"--ids-file", file}))["logprobs"], from_text["logprobs"]);
  EXPECT_EQ(run_json(on("score", model, {"--text-file", "-"}), kPrompt)["argmax"],
            from_text["argmax"]);
  const json single = run_json(on("score", model, {"--ids", "7"}));
  EXPECT_EQ(single["mean_nll"], 0.0);
  EXPECT_EQ(single["logprobs"], json::array());
  const Process::End plain = run_program(on("score", model, {"--text-file", text}));
  EXPECT_EQ(plain.code, 0);
  EXPECT_NE(plain.out.find("perplexity"), std::string::npos) << plain.out;
}

TEST(ProgramInfo, Json) {
  const json out = run_json(on("info", checkpoint("tiny-model"), {}));
  EXPECT_EQ(out["layers"], (json{{"total", 8}, {"full_attention", 2}, {"gated_delta_net", 6}}));
  EXPECT_EQ(out["parameters"], 6321072);
  EXPECT_EQ(out["dtype"], "bf16");
  // 2 layers, K and V, 2 heads of 64, bf16; 6 layers of [4, 64, 64] and [512, 3] in f32.
  EXPECT_EQ(out["kv_bytes_per_token"], 2 * 2 * 2 * 64 * 2);
  EXPECT_EQ(out["state_bytes_per_sequence"], 6 * (4 * 64 * 64 + 512 * 3) * 4);
  EXPECT_TRUE(out["isa"].is_string());
  EXPECT_TRUE(out["kernels"].is_object());
  EXPECT_EQ(out["device"], "cpu");
  EXPECT_EQ(out["threads"], 1);
  const Process::End plain = run_program(on("info", checkpoint("tiny-model"), {}));
  EXPECT_EQ(plain.code, 0);
  EXPECT_EQ(plain.err, "");
  EXPECT_NE(plain.out.find("parameters: 6321072\n"), std::string::npos) << plain.out;
}

}  // namespace
}  // namespace hybridattn::app
