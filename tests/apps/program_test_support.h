// Runs the program as a process of its own: its output, its errors, its end. Folders to run it on.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

extern char** environ;

namespace hybridattn::app {

using Args = std::vector<std::string>;
using nlohmann::json;

inline std::string checkpoint(const std::string& name) {
  const std::string root = HYBRIDATTN_SOURCE_DIR;
  return name == "tiny-model" ? root + "/assets/tiny-model" : root + "/tests/data/" + name;
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

/// An empty folder of its own, removed at the end.
class Folder {
 public:
  Folder() {
    static std::atomic<int> count{0};
    path_ = std::filesystem::path(testing::TempDir()) /
            ("hybridattn_program_" + std::to_string(::getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string path() const { return path_.string(); }
  /// The file's path.
  std::string write(const std::string& name, std::string_view content) const {
    std::ofstream file(path_ / name, std::ios::binary);
    file.write(content.data(), std::ssize(content));
    return (path_ / name).string();
  }
  /// All files of a checkpoint.
  void fill(const std::string& name) const {
    using std::filesystem::copy_options;
    std::filesystem::copy(checkpoint(name), path_,
                          copy_options::overwrite_existing | copy_options::recursive);
  }
  /// Changes fields of config.json; null removes one.
  void patch_config(const json& patch) const {
    json config = json::parse(read_file(path_ / "config.json"));
    config.merge_patch(patch);
    write("config.json", config.dump());
  }

 private:
  std::filesystem::path path_;
};

/// A running program with pipes at all three ends.
class Process {
 public:
  /// Where standard output goes instead of the pipe; kNoReader = a pipe that nobody reads.
  static constexpr std::string_view kNoReader = "no reader";
  explicit Process(const Args& args, const std::string& out_path = "") {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    int in[2];
    int out[2];
    int err[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0) {
      throw std::runtime_error("no pipe");
    }
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    if (out_path == kNoReader) {
      close(out[0]);
      out[0] = -1;
    } else if (!out_path.empty()) {
      posix_spawn_file_actions_addopen(&actions, 1, out_path.c_str(), O_WRONLY, 0);
    }
    posix_spawn_file_actions_adddup2(&actions, err[1], 2);
    std::vector<char*> argv;
    Args words = args;
    words.insert(words.begin(), HYBRIDATTN_PROGRAM);
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    if (posix_spawn(&pid_, HYBRIDATTN_PROGRAM, &actions, nullptr, argv.data(), environ) != 0) {
      throw std::runtime_error("the program cannot be started: " HYBRIDATTN_PROGRAM);
    }
    posix_spawn_file_actions_destroy(&actions);
    for (const int fd : {in[0], out[1], err[1]}) close(fd);
    in_ = in[1];
    out_ = out[0];
    err_ = err[0];
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    for (const int fd : {in_, out_, err_}) {
      if (fd >= 0) close(fd);
    }
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }

  /// Gives standard input and closes it. For texts that a pipe holds.
  void give(std::string_view text) {
    if (write(in_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
      throw std::runtime_error("standard input takes no more");
    }
    close(in_);
    in_ = -1;
  }
  /// A part of the input; waits until the program has taken it.
  void give_part(std::string_view text) {
    if (write(in_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
      throw std::runtime_error("standard input takes no more");
    }
    for (int left = 1; left > 0;) {
      if (ioctl(in_, FIONREAD, &left) != 0) throw std::runtime_error("no pipe");
      usleep(1000);
    }
  }
  /// Waits until the program catches SIGINT, as the kernel tells it; false after ten seconds.
  bool catches_interrupts() const {
    for (int i = 0; i < 10000; ++i) {
      std::ifstream status("/proc/" + std::to_string(pid_) + "/status");
      for (std::string line; std::getline(status, line);) {
        if (line.rfind("SigCgt:", 0) != 0) continue;
        if ((std::stoull(line.substr(7), nullptr, 16) >> (SIGINT - 1) & 1) != 0) return true;
      }
      usleep(1000);
    }
    return false;
  }
  void send(int signal) { kill(pid_, signal); }
  void close_output() {
    close(out_);
    out_ = -1;
  }
  /// Waits for the first bytes on standard output.
  void await_output() {
    pollfd poll_out{out_, POLLIN, 0};
    poll(&poll_out, 1, 60000);
  }

  struct End {
    int code = -1;  ///< exit code; -1 = ended by a signal
    int signal = 0;
    std::string out;
    std::string err;
  };
  /// Reads all there is until the program ends.
  End finish() {
    End end;
    pollfd ends[2] = {{out_, POLLIN, 0}, {err_, POLLIN, 0}};
    while (ends[0].fd >= 0 || ends[1].fd >= 0) {
      if (poll(ends, 2, 120000) <= 0) throw std::runtime_error("the program hangs");
      drain(ends[0], end.out);
      drain(ends[1], end.err);
    }
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    if (WIFEXITED(status)) end.code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) end.signal = WTERMSIG(status);
    return end;
  }

 private:
  static void drain(pollfd& from, std::string& into) {
    if (from.fd < 0 || from.revents == 0) return;
    char block[4096];
    const ssize_t count = read(from.fd, block, sizeof(block));
    if (count <= 0) {
      from.fd = -1;
    } else {
      into.append(block, static_cast<std::size_t>(count));
    }
  }

  pid_t pid_ = -1;
  int in_ = -1;
  int out_ = -1;
  int err_ = -1;
};

inline Process::End run_program(const Args& args, std::string_view input = {}) {
  Process process(args);
  process.give(input);
  return process.finish();
}

/// The one JSON object of a run that ends well.
inline json run_json(Args args, std::string_view input = {}) {
  args.push_back("--json");
  const Process::End end = run_program(args, input);
  EXPECT_EQ(end.code, 0) << end.err;
  EXPECT_EQ(std::count(end.out.begin(), end.out.end(), '\n'), 1) << end.out;
  json value = json::parse(end.out, nullptr, false);
  EXPECT_TRUE(value.is_object()) << end.out;
  return value;
}

/// Verb, model and more.
inline Args on(const std::string& verb, const std::string& model, const Args& more) {
  Args args = {verb, "--model", model, "--threads", "1"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

inline constexpr int kUsage = 2;
inline constexpr int kData = 1;

/// One line on standard error with each part in it, nothing on standard output, that exit code.
inline void expect_refusal(const Args& args, int code,
                           std::initializer_list<std::string_view> parts,
                           std::string_view input = {}) {
  std::string command;
  for (const std::string& arg : args) command += arg.substr(0, 80) + ' ';
  SCOPED_TRACE(command);
  const Process::End end = run_program(args, input);
  EXPECT_EQ(end.signal, 0);
  EXPECT_EQ(end.code, code);
  EXPECT_EQ(end.out, "");
  EXPECT_EQ(std::count(end.err.begin(), end.err.end(), '\n'), 1) << end.err;
  EXPECT_LE(end.err.size(), 2000u);
  for (const std::string_view part : parts) {
    EXPECT_NE(end.err.find(part), std::string::npos) << "no \"" << part << "\" in: " << end.err;
  }
}

}  // namespace hybridattn::app
