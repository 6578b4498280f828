// NCCL, found at run time.
#pragma once

#include <cstddef>
#include <string>

#include "hybridattn/status.h"

namespace hybridattn::engine {

/// What is used of NCCL, declared here: its header is in no CUDA runtime package, and these parts
/// of it have been the same since version 2.0. Enumerations travel as int, which they are in C; a
/// stream is a cudaStream_t.
struct NcclLibrary {
  using Communicator = struct ncclComm*;
  static constexpr int kSuccess = 0;
  static constexpr int kFloat32 = 7;
  static constexpr int kSum = 0;

  int (*CommInitAll)(Communicator* communicators, int count, const int* devices) = nullptr;
  int (*CommAbort)(Communicator communicator) = nullptr;
  int (*CommDestroy)(Communicator communicator) = nullptr;
  int (*AllReduce)(const void* from, void* to, std::size_t count, int type, int op,
                   Communicator communicator, void* stream) = nullptr;
  int (*AllGather)(const void* from, void* to, std::size_t count_of_each, int type,
                   Communicator communicator, void* stream) = nullptr;
  int (*GroupStart)() = nullptr;
  int (*GroupEnd)() = nullptr;
  const char* (*GetErrorString)(int result) = nullptr;

  /// The library, opened at the first call and never closed. Errors: unsupported, with what the
  /// loader said.
  static Result<const NcclLibrary*> get();
  /// The same from a file of that name, for tests. Errors: the same.
  static Result<NcclLibrary> open(const std::string& name);

  /// Errors: device_error, with NCCL's words.
  Status check(int result, const char* call) const;
};

}  // namespace hybridattn::engine
