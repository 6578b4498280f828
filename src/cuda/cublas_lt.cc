#include "src/cuda/cublas_lt.h"

#include "hybridattn/status_macros.h"
#include "src/ops/linear_params.h"

#ifdef HYBRIDATTN_CUBLASLT
#include <array>
#include <bit>
#include <map>
#include <memory>

#include <cublasLt.h>
#include <dlfcn.h>

namespace hybridattn::cuda {
namespace {

/// The calls that are used, found in the library by name.
class Library {
 public:
  static const Library& get() {
    static const Library library;
    return library;
  }
  bool found() const { return found_; }

#define HYBRIDATTN_LT_CALL(name) decltype(&cublasLt##name) name = nullptr
  HYBRIDATTN_LT_CALL(Create);
  HYBRIDATTN_LT_CALL(Destroy);
  HYBRIDATTN_LT_CALL(GetStatusString);
  HYBRIDATTN_LT_CALL(Matmul);
  HYBRIDATTN_LT_CALL(MatmulAlgoCheck);
  HYBRIDATTN_LT_CALL(MatmulAlgoGetHeuristic);
  HYBRIDATTN_LT_CALL(MatmulDescCreate);
  HYBRIDATTN_LT_CALL(MatmulDescDestroy);
  HYBRIDATTN_LT_CALL(MatmulDescSetAttribute);
  HYBRIDATTN_LT_CALL(MatrixLayoutCreate);
  HYBRIDATTN_LT_CALL(MatrixLayoutDestroy);
  HYBRIDATTN_LT_CALL(MatmulPreferenceCreate);
  HYBRIDATTN_LT_CALL(MatmulPreferenceDestroy);
  HYBRIDATTN_LT_CALL(MatmulPreferenceSetAttribute);
#undef HYBRIDATTN_LT_CALL

 private:
  Library() {
    // By the version whose header this was compiled with: its structs are passed by address.
    static_assert(CUBLAS_VER_MAJOR == 13);
    void* const library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return;
    found_ = true;
    const auto find = [&](const char* name, auto& call) {
      call = reinterpret_cast<std::remove_reference_t<decltype(call)>>(dlsym(library, name));
      found_ = found_ && call != nullptr;
    };
    find("cublasLtCreate", Create);
    find("cublasLtDestroy", Destroy);
    find("cublasLtGetStatusString", GetStatusString);
    find("cublasLtMatmul", Matmul);
    find("cublasLtMatmulAlgoCheck", MatmulAlgoCheck);
    find("cublasLtMatmulAlgoGetHeuristic", MatmulAlgoGetHeuristic);
    find("cublasLtMatmulDescCreate", MatmulDescCreate);
    find("cublasLtMatmulDescDestroy", MatmulDescDestroy);
    find("cublasLtMatmulDescSetAttribute", MatmulDescSetAttribute);
    find("cublasLtMatrixLayoutCreate", MatrixLayoutCreate);
    find("cublasLtMatrixLayoutDestroy", MatrixLayoutDestroy);
    find("cublasLtMatmulPreferenceCreate", MatmulPreferenceCreate);
    find("cublasLtMatmulPreferenceDestroy", MatmulPreferenceDestroy);
    find("cublasLtMatmulPreferenceSetAttribute", MatmulPreferenceSetAttribute);
  }

  bool found_ = false;
};

Status check_lt(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return {};
  const StatusCode code =
      status == CUBLAS_STATUS_NOT_SUPPORTED ? StatusCode::kUnsupported : StatusCode::kDeviceError;
  return error(code, "linear: ", what, ": ", Library::get().GetStatusString(status));
}

/// Owns one of the library's objects.
template <class Object, auto Destroy>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (object_ != nullptr) (Library::get().*Destroy)(object_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Object* address() { return &object_; }
  Object get() const { return object_; }

 private:
  Object object_ = nullptr;
};
using Handle = Owned<cublasLtHandle_t, &Library::Destroy>;
using Description = Owned<cublasLtMatmulDesc_t, &Library::MatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, &Library::MatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, &Library::MatmulPreferenceDestroy>;

cudaDataType_t data_type(DType dtype) {
  return dtype == DType::kF32 ? CUDA_R_32F : dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_16F;
}

/// The library counts along columns: row-major x W^T is column-major W x^T with W transposed.
struct Operands {
  Description description;
  Layout weight, x, out;

  Status make(const LtProduct& p, std::int64_t rows) {
    const Library& lt = Library::get();
    const cublasOperation_t transposed = CUBLAS_OP_T;
    HYBRIDATTN_TRY(check_lt(
        lt.MatmulDescCreate(description.address(), CUBLAS_COMPUTE_32F, CUDA_R_32F), "description"));
    HYBRIDATTN_TRY(
        check_lt(lt.MatmulDescSetAttribute(description.get(), CUBLASLT_MATMUL_DESC_TRANSA,
                                           &transposed, sizeof(transposed)),
                 "description"));
    const auto layout = [&](Layout& to, DType dtype, std::int64_t inner, std::int64_t outer,
                            std::int64_t stride) {
      return check_lt(
          lt.MatrixLayoutCreate(to.address(), data_type(dtype), static_cast<std::uint64_t>(inner),
                                static_cast<std::uint64_t>(outer), stride),
          "layout");
    };
    HYBRIDATTN_TRY(layout(weight, p.in, p.k, p.n, p.weight_stride));
    HYBRIDATTN_TRY(layout(x, p.in, p.k, rows, p.x_stride));
    return layout(out, p.out_type, p.n, rows, p.out_stride);
  }
};

/// What decides which algorithm is best.
using Key = std::array<std::int64_t, 9>;

/// Rows that an algorithm is picked for: all counts up to the next power of two share it.
std::int64_t rows_for(const LtProduct& p) {
  constexpr std::int64_t kOfAllCounts = 256;
  if (p.batch_invariant) return kOfAllCounts;
  return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(p.m)));
}

Result<cublasLtMatmulAlgo_t> pick_algorithm(cublasLtHandle_t handle, const LtProduct& p,
                                            std::int64_t rows) {
  const Library& lt = Library::get();
  Operands operands;
  HYBRIDATTN_TRY(operands.make(p, rows));
  Preference preference;
  HYBRIDATTN_TRY(check_lt(lt.MatmulPreferenceCreate(preference.address()), "preference"));
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t name, auto value) {
    return check_lt(lt.MatmulPreferenceSetAttribute(preference.get(), name, &value, sizeof(value)),
                    "preference");
  };
  HYBRIDATTN_TRY(set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, ops::kLinearCudaWorkspaceBytes));
  if (p.batch_invariant) {
    HYBRIDATTN_TRY(set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                       std::uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE}));
  }
  cublasLtMatmulHeuristicResult_t best{};
  int count = 0;
  HYBRIDATTN_TRY(
      check_lt(lt.MatmulAlgoGetHeuristic(handle, operands.description.get(), operands.weight.get(),
                                         operands.x.get(), operands.out.get(), operands.out.get(),
                                         preference.get(), 1, &best, &count),
               "picking an algorithm"));
  if (count == 0) {
    return error(StatusCode::kUnsupported, "linear: cuBLASLt has no algorithm for x [", p.m, ", ",
                 p.k, "] and weight [", p.n, ", ", p.k, "]");
  }
  return best.algo;
}

/// Whether an algorithm that was picked for other rows serves these.
bool serves(cublasLtHandle_t handle, const Operands& operands, const cublasLtMatmulAlgo_t& algo) {
  cublasLtMatmulHeuristicResult_t result{};
  const cublasStatus_t status = Library::get().MatmulAlgoCheck(
      handle, operands.description.get(), operands.weight.get(), operands.x.get(),
      operands.out.get(), operands.out.get(), &algo, &result);
  return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= ops::kLinearCudaWorkspaceBytes;
}

/// A thread's handle of a device, and what it has picked.
class Picked {
 public:
  static Result<Picked*> of(int device) {
    thread_local std::map<int, std::unique_ptr<Picked>> devices;
    std::unique_ptr<Picked>& picked = devices[device];
    if (picked == nullptr) {
      auto made = std::make_unique<Picked>();
      HYBRIDATTN_TRY(check_lt(Library::get().Create(made->handle_.address()), "a handle"));
      picked = std::move(made);
    }
    return picked.get();
  }
  cublasLtHandle_t handle() const { return handle_.get(); }

  /// For products like `p`, whose operands are given.
  Result<const cublasLtMatmulAlgo_t*> algorithm(const LtProduct& p, const Operands& operands) {
    const std::int64_t rows = rows_for(p);
    HYBRIDATTN_ASSIGN(const cublasLtMatmulAlgo_t* shared, for_rows(p, rows));
    if (rows == p.m || serves(handle(), operands, *shared)) return shared;
    if (!p.batch_invariant) return for_rows(p, p.m);
    return error(StatusCode::kUnsupported, "linear: x has ", p.m,
                 " rows, which the algorithm of all counts does not serve");
  }

 private:
  Result<const cublasLtMatmulAlgo_t*> for_rows(const LtProduct& p, std::int64_t rows) {
    const Key key{rows,
                  p.n,
                  p.k,
                  p.x_stride,
                  p.weight_stride,
                  p.out_stride,
                  static_cast<std::int64_t>(p.in),
                  static_cast<std::int64_t>(p.out_type),
                  p.batch_invariant};
    auto found = algorithms_.find(key);
    if (found == algorithms_.end()) {
      HYBRIDATTN_ASSIGN(const cublasLtMatmulAlgo_t algorithm, pick_algorithm(handle(), p, rows));
      found = algorithms_.emplace(key, algorithm).first;
    }
    return &found->second;
  }

  Handle handle_;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms_;
};

}  // namespace

const char* refusal_cublas_lt() {
  return Library::get().found() ? nullptr : "libcublasLt.so.13 is not found";
}

Status multiply_cublas_lt(const LtProduct& p, const core::DeviceLaunch& launch) {
  HYBRIDATTN_ASSIGN(Picked* const picked, Picked::of(launch.info->index));
  Operands operands;
  HYBRIDATTN_TRY(operands.make(p, p.m));
  HYBRIDATTN_ASSIGN(const cublasLtMatmulAlgo_t* const algorithm, picked->algorithm(p, operands));
  const float one = 1.0f, beta = p.accumulate ? 1.0f : 0.0f;
  return check_lt(Library::get().Matmul(picked->handle(), operands.description.get(), &one,
                                        p.weight, operands.weight.get(), p.x, operands.x.get(),
                                        &beta, p.out, operands.out.get(), p.out, operands.out.get(),
                                        algorithm, launch.scratch, ops::kLinearCudaWorkspaceBytes,
                                        static_cast<cudaStream_t>(launch.stream)),
                  "cublasLtMatmul");
}

}  // namespace hybridattn::cuda

#else  // HYBRIDATTN_CUBLASLT

namespace hybridattn::cuda {

const char* refusal_cublas_lt() { return "the library was built without the header of cuBLASLt"; }
Status multiply_cublas_lt(const LtProduct&, const core::DeviceLaunch&) {
  return error(StatusCode::kUnsupported, "linear: ", refusal_cublas_lt());
}

}  // namespace hybridattn::cuda

#endif  // HYBRIDATTN_CUBLASLT
