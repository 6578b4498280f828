// Bad command lines, bad files, bad places to write to: one line, the right exit code, never a
// signal.
#include <cerrno>
#include <cstring>

#include "tests/apps/program_test_support.h"

namespace hybridattn::app {
namespace {

Args generate_ids(const std::string& model, const Args& more = {}) {
  Args args = on("generate", model, {"--prompt-ids", "1,2,3", "--max-new-tokens", "2"});
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

// --- The command line ----------------------------------------------------------------------------

TEST(ProgramUsage, VerbsAndOptions) {
  const std::string model = checkpoint("golden_a");
  expect_refusal({}, kUsage, {"subcommand"});
  expect_refusal({"sing"}, kUsage, {});
  expect_refusal({"generate", "--prompt", "a"}, kUsage, {"--model"});
  expect_refusal({"info"}, kUsage, {"--model"});
  expect_refusal(on("generate", model, {}), kUsage, {"--prompt"});
  expect_refusal(on("score", model, {}), kUsage, {"--ids"});
  expect_refusal(generate_ids(model, {"--bogus"}), kUsage, {"--bogus"});
  expect_refusal(generate_ids(model, {"--prompt", "a"}), kUsage, {"--prompt", "2"});
  expect_refusal(on("score", model, {"--ids", "1", "--text-file", "-"}), kUsage, {"--ids"});
  expect_refusal(generate_ids(model, {"--seed"}), kUsage, {"--seed"});
  expect_refusal(generate_ids(model, {"two\nlines"}), kUsage, {"two lines"});
}

TEST(ProgramUsage, Numbers) {
  const std::vector<Args> bad = {
      {"--temperature", "nan"},
      {"--temperature", "inf"},
      {"--temperature", "-1"},
      {"--temperature", "hot"},
      {"--temperature", "1e39"},
      {"--temperature", ""},
      {"--top-k", "-1"},
      {"--top-k", "1.5"},
      {"--top-k", "nan"},
      {"--top-p", "0"},
      {"--top-p", "2"},
      {"--top-p", "nan"},
      {"--min-p", "-0.1"},
      {"--min-p", "1.1"},
      {"--min-p", "inf"},
      {"--repetition-penalty", "0"},
      {"--repetition-penalty", "-2"},
      {"--repetition-penalty", "nan"},
      {"--seed", "-1"},
      {"--seed", "18446744073709551616"},
      {"--chunk", "0"},
      {"--chunk", "-1"},
      {"--chunk", "1.5"},
      {"--chunk", "99999999999"},
      {"--chunk", "8x"},
      {"--max-batch", "0"},
      {"--max-batch", "-3"},
      {"--max-batch", "many"},
      {"--threads", "-1"},
      {"--threads", "99999"},
      {"--threads", "two"},
      {"--max-new-tokens", "-1"},
      {"--max-new-tokens", "2147483648"},
      {"--memory", "-1"},
      {"--memory", "1G"},
      {"--memory", "9223372036854775808"},
  };
  for (const Args& option : bad) {
    Args args = on("generate", checkpoint("golden_a"), {"--prompt-ids", "1"});
    args.insert(args.end(), option.begin(), option.end());
    expect_refusal(args, kUsage, {option[0], option[1]});
  }
}

TEST(ProgramUsage, ChoicesAndIds) {
  const std::string model = checkpoint("golden_a");
  for (const char* device : {"cuda:x", "cuda:", "cuda:-1", "cuda:99999999999", "gpu", "", "cuda:0,",
                             "cuda:,0", "cuda:0,0", "cuda:0 1", "cpu,cpu"}) {
    expect_refusal(generate_ids(model, {"--device", device}), kUsage,
                   {"--device", device, "cuda:N"});
  }
  for (const char* device : {"cuda", "cuda:0", "cuda:0,1"}) {
    expect_refusal(generate_ids(model, {"--device", device}), kData, {"cuda"});
  }
  expect_refusal(generate_ids(model, {"--device", "cuda:3,0,7"}), kData,
                 {"linear_num_key_heads is 2", "3 ranks"});
  expect_refusal({"bench", "linear", "--device", "cuda:0,1"}, kData, {"cuda:0,1", "one"});
  expect_refusal(generate_ids(model, {"--dtype", "f16"}), kUsage, {"--dtype", "f16"});
  expect_refusal(generate_ids(model, {"--kv-dtype", "i8"}), kUsage, {"--kv-dtype", "i8"});
  expect_refusal(generate_ids(model, {"--state-dtype", "f16"}), kUsage, {"--state-dtype", "f16"});
  expect_refusal(generate_ids(model, {"--weights", "int4"}), kUsage, {"--weights", "int4"});
  for (const char* ids :
       {"-1", "1,-2", "x", "1,x,3", "1,,3", "1,", "", "1 2", "1.5", "2147483648"}) {
    expect_refusal(on("generate", model, {"--prompt-ids", ids}), kUsage, {"--prompt-ids", "id"});
    expect_refusal(on("score", model, {"--ids", ids}), kUsage, {"--ids", "id"});
  }
}

// --- Inputs --------------------------------------------------------------------------------------

TEST(ProgramInputs, IdsOfTheVocabulary) {
  const std::string model = checkpoint("golden_a");
  expect_refusal(on("generate", model, {"--prompt-ids", "1,512"}), kData,
                 {"--prompt-ids: ", "512", "position 1"});
  expect_refusal(on("score", model, {"--ids", "2147483647"}), kData,
                 {"--ids: ", "2147483647", "[0, 512)"});
}

TEST(ProgramInputs, IdsFiles) {
  const Folder folder;
  const std::string model = checkpoint("golden_a");
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"", "malformed JSON at byte 0\n"},
      {"[1, 2", "malformed JSON at byte 5\n"},
      {"[1,\n 2\n 3]", "malformed JSON at byte 8\n"},
      {R"({"a": [1], "a": [2]})", "\"a\": found twice"},
      {"7", "list"},
      {"{}", "0 lists"},
      {R"({"a": [1], "b": [2]})", "2 lists"},
      {"[1, -2]", "-2"},
      {"[1, 1.5]", "1.5"},
      {R"([1, "x"])", "element 1"},
      {"[1, null]", "element 1"},
      {"[4294967296]", "4294967296"},
      {"[1e999]", ""},
      {"[\"\xff\"]", ""},
      {"[" + std::string(300000, '[') + std::string(300000, ']') + "]", "nested"},
      {std::string(300000, '['), "nested"},
  };
  for (const auto& [text, part] : bad) {
    const std::string file = folder.write("ids.json", text);
    expect_refusal(on("generate", model, {"--ids-file", file}), kData, {"ids.json", part});
    expect_refusal(on("score", model, {"--ids-file", file}), kData, {"ids.json", part});
  }
  const std::string empty = folder.write("ids.json", "[]");
  expect_refusal(on("generate", model, {"--ids-file", empty}), kData,
                 {"--ids-file " + empty + ": the prompt is empty"});
  expect_refusal(on("score", model, {"--ids-file", empty}), kData,
                 {"--ids-file " + empty + ": the input is empty"});
}

TEST(ProgramInputs, PromptsFiles) {
  const Folder folder;
  const std::string model = checkpoint("tiny-model");
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"", "no prompt"},
      {" \n\t\n", "no prompt"},
      {"{\"prompt\": \"a\"}\nplain\n", "prompts: line 2: malformed JSON at byte 0\n"},
      {"[1]\n\n[1, 2\n", "line 3: malformed JSON at byte 5\n"},
      {"\n{\"text\": \"a\"}\n", "line 2: key text is unknown, must be prompt or prompt_ids"},
      {"{\"prompt\": \"a\", \"max_tokens\": 5}\n", "line 1: key max_tokens is unknown"},
      {"{\"prompt\": \"a\", \"b\\nc\": 5}\n", "key \"b\\x0ac\" is unknown"},
      {"[1]\n{\"prompt\": \"a\", \"prompt_ids\": [1]}\n", "line 2: has both prompt and prompt_ids"},
      {"{}\n", "line 1: must be"},
      {"{\"prompt\": 5}\n", "line 1"},
      {"{\"prompt_ids\": 5}\n", "line 1"},
      {"{\"prompt_ids\": [true]}\n", "line 1"},
      {"[1]\n\n[]\n", "prompts: line 3: the prompt is empty"},
      {"{\"prompt\": \"\"}\n", "prompts: line 1: the prompt is empty"},
      {"good\nb\xff\n", "prompts: line 2: encode: invalid UTF-8 at byte offset 1"},
      {"[1]\n[2]\n[3, 4096]\n", "prompts: line 3: submit: id 4096 at position 1"},
  };
  for (const auto& [text, part] : bad) {
    const std::string file = folder.write("prompts", text);
    expect_refusal(on("generate", model, {"--prompts-file", file}), kData, {part});
  }
}

TEST(ProgramInputs, FilesThatCannotBeRead) {
  const Folder folder;
  const std::string model = checkpoint("tiny-model");
  const std::string missing = folder / "missing";
  const std::string newline = folder / "a\nb";
  const std::vector<std::pair<std::string, int>> paths = {
      {missing, ENOENT}, {folder.path(), EISDIR}, {folder.write("file", "") + "/x", ENOTDIR}};
  for (const auto& [path, code] : paths) {
    const std::string message = path + ": cannot be read: " + std::strerror(code) + "\n";
    for (const char* option : {"--prompt-file", "--ids-file", "--prompts-file"}) {
      expect_refusal(on("generate", model, {option, path}), kData, {message});
    }
    for (const char* option : {"--ids-file", "--text-file"}) {
      expect_refusal(on("score", model, {option, path}), kData, {message});
    }
  }
  for (const char* option : {"--prompt-file", "--ids-file", "--prompts-file"}) {
    expect_refusal(on("generate", model, {option, ""}), kUsage,
                   {option, "value is \"\", must be a path"});
  }
  expect_refusal(on("score", model, {"--text-file", ""}), kUsage,
                 {"--text-file", "must be a path"});
  expect_refusal(on("info", "", {}), kUsage, {"--model", "must be a path"});
  expect_refusal(on("generate", model, {"--prompt-file", newline}), kData, {"a b"});
  if (::geteuid() != 0) {  // root reads everything
    const std::string locked = folder.write("locked", "a");
    std::filesystem::permissions(locked, std::filesystem::perms::none);
    expect_refusal(on("generate", model, {"--prompt-file", locked}), kData,
                   {"locked: cannot be read: Permission denied"});
  }
}

TEST(ProgramInputs, Texts) {
  const Folder folder;
  const std::string model = checkpoint("tiny-model");
  const std::string invalid = folder.write("invalid", "ab\xc3(");
  const std::string empty = folder.write("empty", "");
  expect_refusal(on("generate", model, {"--prompt-file", invalid}), kData, {"UTF-8", "2"});
  expect_refusal(on("score", model, {"--text-file", invalid}), kData, {"UTF-8"});
  expect_refusal(on("generate", model, {"--prompt", "a\xff"}), kData, {"--prompt: ", "UTF-8"});
  expect_refusal(on("generate", model, {"--prompt", ""}), kData, {"--prompt: the prompt is empty"});
  expect_refusal(on("generate", model, {"--prompt-file", empty}), kData,
                 {"--prompt-file " + empty + ": the prompt is empty"});
  expect_refusal(on("generate", model, {"--prompt-file", "-"}), kData,
                 {"--prompt-file -: the prompt is empty"});
  expect_refusal(on("score", model, {"--text-file", empty}), kData,
                 {"--text-file " + empty + ": the input is empty"});
}

TEST(ProgramInputs, ContextAndMemory) {
  const Folder folder;
  folder.fill("golden_a");
  folder.patch_config({{"max_position_embeddings", 2}});
  expect_refusal(generate_ids(folder.path()), kData, {"3", "context of 2"});
  expect_refusal(on("score", folder.path(), {"--ids", "1,2,3"}), kData, {"3", "context of 2"});
  const std::string model = checkpoint("golden_a");
  expect_refusal(generate_ids(model, {"--memory", "1000"}), kData, {"1000", "bytes"});
  // One state and few pages.
  expect_refusal(on("generate", model,
                    {"--prompt-ids", "1", "--max-new-tokens", "30000", "--memory", "2000000"}),
                 kData, {"30001", "tokens"});
}

// A context beyond all memory: refused by the allocator, without touching any.
TEST(ProgramInputs, AbsurdContext) {
  const Folder folder;
  folder.fill("golden_a");
  folder.patch_config({{"max_position_embeddings", 2000000000}});
  const Process::End end =
      run_program(generate_ids(folder.path(), {"--max-new-tokens", "2000000000"}));
  EXPECT_EQ(end.signal, 0);
  EXPECT_NE(end.code, 0);
}

// --- The model folder ----------------------------------------------------------------------------

TEST(ProgramModel, MissingParts) {
  const Folder folder;
  expect_refusal(generate_ids(folder / "nowhere"), kData, {"nowhere"});
  expect_refusal(generate_ids(folder.path()), kData, {"config.json"});
  expect_refusal(generate_ids(folder.write("file", "x")), kData, {"file"});
  folder.fill("golden_a");
  std::filesystem::remove(folder / "model.safetensors");
  expect_refusal(generate_ids(folder.path()), kData, {"model.safetensors"});
  expect_refusal(on("info", folder.path(), {}), kData, {"model.safetensors"});
}

TEST(ProgramModel, TokenizerMissingOrOfAnotherKind) {
  const Folder folder;
  folder.fill("golden_a");
  const Args text = on("generate", folder.path(), {"--prompt", "a"});
  expect_refusal(text, kData, {"tokenizer.json"});
  expect_refusal(on("score", folder.path(), {"--text-file", "-"}), kData, {"tokenizer.json"}, "a");
  for (const char* content : {R"({"model": {"type": "WordPiece", "vocab": {}}})",
                              R"({"model": {"type": "Unigram"}})", "{}", "[", ""}) {
    folder.write("tokenizer.json", content);
    expect_refusal(text, kData, {"tokenizer.json"});
    expect_refusal(generate_ids(folder.path()), kData, {"tokenizer.json"});
  }
  folder.write("tokenizer.json", "{\"model\": nil}");
  expect_refusal(text, kData, {"tokenizer.json: ", "malformed JSON at byte 11\n"});
  std::filesystem::remove(folder / "tokenizer.json");
  std::filesystem::create_directory(folder / "tokenizer.json");
  expect_refusal(text, kData, {"tokenizer.json"});
}

// A tokenizer with more ids than the model: some text has an id that the model lacks.
TEST(ProgramModel, TokenizerOfALargerModel) {
  const Folder folder;
  folder.fill("golden_a");
  std::filesystem::copy(checkpoint("tiny-model") + "/tokenizer.json", folder / "tokenizer.json");
  expect_refusal(on("generate", folder.path(), {"--prompt", "Once upon a time there was a king"}),
                 kData, {"[0, 512)"});
}

TEST(ProgramModel, DamagedWeights) {
  const Folder folder;
  folder.fill("golden_a");
  const std::string whole = read_file(folder / "model.safetensors");
  std::string long_header = whole;
  long_header[6] = '\x7f';
  std::string lying = whole;
  lying.replace(lying.find("\"shape\":["), 9, "\"shape\":[9");
  std::string offsets = whole;
  offsets.replace(offsets.find("\"data_offsets\":["), 16, "\"data_offsets\":[9");
  for (const std::string& content :
       {std::string(), std::string("GGUF"), whole.substr(0, 100), whole.substr(0, whole.size() - 1),
        whole + "x", long_header, lying, offsets}) {
    folder.write("model.safetensors", content);
    expect_refusal(generate_ids(folder.path()), kData, {"model.safetensors"});
  }
}

TEST(ProgramModel, ConfigsThatItCannotServe) {
  const Folder folder;
  folder.fill("golden_a");
  const std::string good = read_file(folder / "config.json");
  for (const char* text : {"", "{", "[]", "\xff", "null"}) {
    folder.write("config.json", text);
    expect_refusal(generate_ids(folder.path()), kData, {"config.json"});
  }
  folder.write("config.json", "{\"a\": 1,}");
  expect_refusal(generate_ids(folder.path()), kData,
                 {folder / "config.json" + ": malformed JSON at byte 8\n"});
  const std::vector<std::pair<json, std::string>> patches = {
      {{{"hidden_size", nullptr}}, "hidden_size"},
      {{{"hidden_size", -1}}, "hidden_size"},
      {{{"hidden_size", 64}}, "shape"},
      {{{"vocab_size", 2000000000}}, "vocab_size"},
      {{{"vocab_size", 600}}, "shape"},
      {{{"num_hidden_layers", 2000000000}}, "num_hidden_layers"},
      {{{"num_hidden_layers", 3}}, "layer_types"},
      {{{"num_key_value_heads", 3}}, "num_key_value_heads"},
      {{{"hidden_act", "gelu"}}, "gelu"},
      {{{"output_gate_type", "tanh"}}, "tanh"},
      {{{"rope_parameters", {{"rope_type", "yarn"}}}}, "yarn"},
      {{{"quantization_config", {{"quant_method", "fp8"}}}}, "quantization_config"},
      {{{"model_type", "llama"}}, "llama"},
      {{{"attention_bias", true}}, "attention_bias"},
      {{{"layer_types",
         {"linear_attention", "linear_attention", "linear_attention", "linear_attention"}}},
       "full attention"},
      {{{"max_position_embeddings", 0}}, "max_position_embeddings"},
      {{{"rope_theta", 5e5}}, "10000"},
      {{{"final_logit_softcapping", 30}}, "final_logit_softcapping"},
  };
  for (const auto& [patch, part] : patches) {
    folder.write("config.json", good);
    folder.patch_config(patch);
    expect_refusal(generate_ids(folder.path()), kData, {part});
    expect_refusal(on("info", folder.path(), {}), kData, {part});
  }
}

// --- Standard output -----------------------------------------------------------------------------

TEST(ProgramOutput, FullOrClosed) {
  const std::string model = checkpoint("golden_a");
  for (const Args& args :
       {generate_ids(model), generate_ids(model, {"--json"}), on("info", model, {}),
        on("score", model, {"--ids", "1,2", "--json"}), Args{"--help"}, Args{"--version"}}) {
    Process full(args, "/dev/full");
    full.give("");
    Process closed(args, std::string(Process::kNoReader));
    closed.give("");
    for (Process* process : {&full, &closed}) {
      const Process::End end = process->finish();
      EXPECT_EQ(end.signal, 0) << args[0];
      EXPECT_EQ(end.code, kData) << args[0];
      EXPECT_EQ(end.err, "hybridattn: standard output cannot be written\n") << args[0];
    }
  }
}

// Who stops reading stops the run.
TEST(ProgramOutput, ReaderLeavesInTheMiddle) {
  Process process(on("generate", checkpoint("tiny-model"),
                     {"--prompt", "The", "--max-new-tokens", "4000", "--ignore-eos"}));
  process.give("");
  process.await_output();
  process.close_output();
  const Process::End end = process.finish();
  EXPECT_EQ(end.signal, 0);
  EXPECT_EQ(end.code, kData);
  EXPECT_EQ(std::count(end.err.begin(), end.err.end(), '\n'), 1) << end.err;
}

}  // namespace
}  // namespace hybridattn::app
