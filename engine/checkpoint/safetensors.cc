#include "engine/checkpoint/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <exception>
#include <span>
#include <system_error>
#include <utility>

#include "engine/checkpoint/json_document.h"
#include "engine/checkpoint/safetensors_header.h"
#include "engine/text/quote.h"
#include "hybridattn/status_macros.h"

namespace hybridattn::engine {
namespace {

std::string errno_text() { return std::generic_category().message(errno); }

/// A read-only mapping of a whole file.
class Mapping {
 public:
  Mapping() = default;
  Mapping(void* data, std::size_t size) : data_(static_cast<std::byte*>(data)), size_(size) {}
  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Mapping() {
    if (data_ != nullptr) ::munmap(data_, size_);
  }

  std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Unmaps the pages that lie wholly inside of the range; a later read brings them back.
  void drop(const std::byte* begin, std::int64_t length) const {
    const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
    const auto address = reinterpret_cast<std::uintptr_t>(begin);
    const std::uintptr_t first = (address + page - 1) / page * page;
    const std::uintptr_t last = (address + static_cast<std::uintptr_t>(length)) / page * page;
    // Advice only: when the system does not take it, nothing is wrong.
    if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Maps an open file. The descriptor stays the caller's.
Result<Mapping> map_descriptor(int descriptor) {
  struct stat info {};
  if (::fstat(descriptor, &info) != 0) {
    return error(StatusCode::kNotFound, "can't read its size: ", errno_text());
  }
  if (!S_ISREG(info.st_mode)) {
    return error(StatusCode::kNotFound, "found no regular file; wanted one");
  }
  // mmap refuses a length of 0; the parser then says what is wrong.
  if (info.st_size == 0) return Mapping();
  const auto size = static_cast<std::size_t>(info.st_size);
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  if (data == MAP_FAILED) {
    return error(StatusCode::kResourceExhausted, "can't map its ", size, " bytes: ", errno_text());
  }
  // Each tensor is read once, from its first byte to its last.
  ::madvise(data, size, MADV_SEQUENTIAL);
  return Mapping(data, size);
}

Result<Mapping> map_file(const std::filesystem::path& path) {
  // Non-blocking, so that a pipe of that name is refused instead of waited for.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return error(StatusCode::kNotFound, "can't open it: ", errno_text());
  Result<Mapping> mapping = map_descriptor(descriptor);
  ::close(descriptor);
  return mapping;
}

class MappedFile final : public SafetensorsFile {
 public:
  MappedFile(std::filesystem::path path, Mapping mapping)
      : path_(std::move(path)), mapping_(std::move(mapping)) {}

  Status read_header() {
    const std::span<const std::byte> bytes = mapping_.bytes();
    HYBRIDATTN_ASSIGN(SafetensorsHeader header, parse_safetensors_header(bytes, std::ssize(bytes)));
    const std::byte* data = bytes.data() + header.data_start;
    for (auto& [name, record] : header.tensors) {
      StoredTensor& tensor = tensors_[name];
      tensor.data = data + record.begin;
      tensor.bytes = record.end - record.begin;
      tensor.dtype = record.dtype;
      tensor.shape = std::move(record.shape);
      tensor.dtype_text = std::move(record.dtype_text);
      tensor.loadable = record.loadable;
    }
    metadata_ = std::move(header.metadata);
    return {};
  }

  const std::filesystem::path& path() const override { return path_; }
  const std::map<std::string, StoredTensor>& tensors() const override { return tensors_; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  void forget(const StoredTensor& tensor) const override {
    mapping_.drop(tensor.data, tensor.bytes);
  }

 private:
  std::filesystem::path path_;
  Mapping mapping_;
  std::map<std::string, StoredTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

Result<std::unique_ptr<SafetensorsFile>> open_mapped(const std::filesystem::path& path) {
  HYBRIDATTN_ASSIGN(Mapping mapping, map_file(path));
  auto file = std::make_unique<MappedFile>(path, std::move(mapping));
  HYBRIDATTN_TRY(file->read_header());
  return std::unique_ptr<SafetensorsFile>(std::move(file));
}

}  // namespace

Result<std::unique_ptr<SafetensorsFile>> SafetensorsFile::open(const std::filesystem::path& path) {
  try {
    auto file = open_mapped(path);
    if (!file.ok()) return with_place(path_text(path), file.status());
    return file;
  } catch (const std::exception& problem) {
    return error(StatusCode::kResourceExhausted, path_text(path),
                 ": opening it failed: ", in_quotes(problem.what()));
  }
}

}  // namespace hybridattn::engine
