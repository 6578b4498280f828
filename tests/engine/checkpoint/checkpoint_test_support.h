// What the tests of checkpoint files share: folders that vanish, files from text, checks of errors.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <string>
#include <string_view>
#include <system_error>

#include <gtest/gtest.h>

#include "hybridattn/status.h"

namespace hybridattn::engine {

inline std::filesystem::path source_path(std::string_view inside) {
  return std::filesystem::path(HYBRIDATTN_SOURCE_DIR) / inside;
}

/// An empty folder of its own, removed at the end.
class TempFolder {
 public:
  TempFolder() {
    static std::atomic<int> count{0};
    path_ = std::filesystem::path(::testing::TempDir()) /
            concat("hybridattn_checkpoint_", ::getpid(), "_", count++);
    std::filesystem::create_directories(path_);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }

  std::filesystem::path write(const std::string& name, std::string_view content) const {
    const std::filesystem::path file = path_ / name;
    std::ofstream(file, std::ios::binary).write(content.data(), std::ssize(content));
    return file;
  }

 private:
  std::filesystem::path path_;
};

/// A safetensors file: the length, the header and `data_bytes` bytes 0, 1, 2, ...
inline std::string safetensors_file(std::string_view header, std::size_t data_bytes) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>(std::uint64_t{header.size()} >> (8 * i));
  file += header;
  for (std::size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

/// An error of that code, on one line, with each part in its message.
inline void expect_error(const Status& status, StatusCode code,
                         std::initializer_list<std::string_view> parts) {
  EXPECT_EQ(status_code_name(status.code()), status_code_name(code)) << status.message();
  EXPECT_EQ(status.message().find('\n'), std::string::npos) << status.message();
  for (const std::string_view part : parts) {
    EXPECT_NE(status.message().find(part), std::string::npos)
        << "no \"" << part << "\" in: " << status.message();
  }
}

}  // namespace hybridattn::engine
