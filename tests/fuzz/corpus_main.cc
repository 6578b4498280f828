// Where there is no libFuzzer: runs a fuzz target once on the empty input and on each file of the
// folders and files given, so that what was found once stays found.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <vector>

#include "tests/fuzz/fuzz.h"

namespace {

using std::filesystem::path;

std::vector<path> files_of(const path& given) {
  std::vector<path> files;
  if (!std::filesystem::is_directory(given)) return {given};
  for (const auto& entry : std::filesystem::directory_iterator(given)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

bool run(const path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) {
    std::cerr << "cannot read " << file << '\n';
    return false;
  }
  const std::vector<char> bytes{std::istreambuf_iterator<char>(stream), {}};
  // Before the run: when it ends the process, this line tells where.
  std::cerr << file.string() << " (" << bytes.size() << " bytes)" << std::endl;
  // A copy of its exact size, so that AddressSanitizer sees a read behind its end.
  const std::vector<std::uint8_t> exact(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t count = 0;
  LLVMFuzzerTestOneInput(nullptr, 0);
  for (int i = 1; i < argc; ++i) {
    for (const path& file : files_of(argv[i])) {
      if (!run(file)) return 1;
      ++count;
    }
  }
  if (count == 0) {
    std::cerr << "no inputs: give folders or files\n";
    return 1;
  }
  std::cerr << count << " inputs\n";
  return 0;
}
