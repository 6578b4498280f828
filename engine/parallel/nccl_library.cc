#include "engine/parallel/nccl_library.h"

#include <type_traits>

#include <dlfcn.h>

namespace hybridattn::engine {

Result<NcclLibrary> NcclLibrary::open(const std::string& name) {
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const said = dlerror();
    return error(StatusCode::kUnsupported, "several GPUs need NCCL, which cannot be opened: ",
                 said == nullptr ? name.c_str() : said);
  }
  NcclLibrary out;
  const char* missing = nullptr;
  const auto find = [&](const char* symbol, auto& call) {
    call = reinterpret_cast<std::remove_reference_t<decltype(call)>>(dlsym(library, symbol));
    if (call == nullptr) missing = symbol;
  };
  find("ncclCommInitAll", out.CommInitAll);
  find("ncclCommAbort", out.CommAbort);
  find("ncclCommDestroy", out.CommDestroy);
  find("ncclAllReduce", out.AllReduce);
  find("ncclAllGather", out.AllGather);
  find("ncclGroupStart", out.GroupStart);
  find("ncclGroupEnd", out.GroupEnd);
  find("ncclGetErrorString", out.GetErrorString);
  if (missing == nullptr) return out;
  dlclose(library);
  return error(StatusCode::kUnsupported, "several GPUs need NCCL: ", name, " has no ", missing);
}

Result<const NcclLibrary*> NcclLibrary::get() {
  static const Result<NcclLibrary> library = open("libnccl.so.2");
  if (!library.ok()) return library.status();
  return &*library;
}

Status NcclLibrary::check(int result, const char* call) const {
  if (result == kSuccess) return {};
  return error(StatusCode::kDeviceError, call, ": ", GetErrorString(result));
}

}  // namespace hybridattn::engine
