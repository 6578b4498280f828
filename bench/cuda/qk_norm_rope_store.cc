// What a step does between the products of q, k and v and attention, as one kernel on the GPU: norm
// and rotation of q and k, the store of k and v to pages.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "bench/cuda/device.h"
#include "bench/cuda/suites.h"
#include "hybridattn/hybridattn.h"

namespace hybridattn::bench {
namespace {

constexpr std::int64_t kHeads = 16, kKvHeads = 2, kDim = 256, kRotated = 64, kPage = 64;

/// Places of tokens on the device.
class DevicePlaces {
 public:
  explicit DevicePlaces(const std::vector<std::int64_t>& places) {
    const std::size_t bytes = places.size() * sizeof(std::int64_t);
    require_cuda(cudaMalloc(&data_, bytes), "cudaMalloc");
    require_cuda(cudaMemcpy(data_, places.data(), bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  ~DevicePlaces() { cudaFree(data_); }
  DevicePlaces(const DevicePlaces&) = delete;
  DevicePlaces& operator=(const DevicePlaces&) = delete;
  const std::int64_t* data() const { return static_cast<const std::int64_t*>(data_); }

 private:
  void* data_ = nullptr;
};

std::vector<std::int64_t> shuffled_places(std::int64_t count) {
  std::vector<std::int64_t> places(static_cast<std::size_t>(count));
  std::iota(places.begin(), places.end(), 0);
  std::shuffle(places.begin(), places.end(), std::mt19937(7));
  return places;
}

/// One step's tensors, `copies` times, so that each call finds its own in memory.
struct Step {
  Step(std::int64_t token_count, DType cache, std::int64_t copy_count)
      : tokens(token_count), copies(copy_count), places(shuffled_places(token_count)),
        device_places(places) {
    q = DeviceTensor(DType::kBF16, {copies * tokens, kHeads, kDim}, -2, 2);
    k = DeviceTensor(DType::kBF16, {copies * tokens, kKvHeads, kDim}, -2, 2);
    v = DeviceTensor(DType::kBF16, {copies * tokens, kKvHeads, kDim}, -2, 2);
    q_out = DeviceTensor(DType::kBF16, {copies * tokens, kHeads, kDim}, -2, 2);
    q_norm = DeviceTensor(DType::kBF16, {kDim}, -1, 1);
    k_norm = DeviceTensor(DType::kBF16, {kDim}, -1, 1);
    cosine = DeviceTensor(DType::kF32, {tokens, kRotated / 2}, -1, 1);
    sine = DeviceTensor(DType::kF32, {tokens, kRotated / 2}, -1, 1);
    const std::int64_t pages = (tokens + kPage - 1) / kPage;
    k_cache = DeviceTensor(cache, {copies * pages, kPage, kKvHeads, kDim}, -1, 1);
    v_cache = DeviceTensor(cache, {copies * pages, kPage, kKvHeads, kDim}, -1, 1);
  }

  QkNormRopeStoreArgs args(std::int64_t copy) const {
    const auto part = [&](const DeviceTensor& x) {
      TensorView view = x.view();
      view.shape[0] /= copies;
      const std::int64_t offset = copy * view.shape[0] * view.strides[0];
      view.data = static_cast<std::byte*>(view.data) +
                  offset * static_cast<std::int64_t>(dtype_size(view.dtype));
      return view;
    };
    QkNormRopeStoreArgs a;
    a.q = part(q);
    a.k = part(k);
    a.v = part(v);
    a.q_norm = q_norm.view();
    a.k_norm = k_norm.view();
    a.cos = cosine.view();
    a.sin = sine.view();
    a.q_out = part(q_out);
    a.token_slots = places.data();
    a.device_token_slots = device_places.data();
    a.k_cache = part(k_cache);
    a.v_cache = part(v_cache);
    return a;
  }
  /// Read and written by one call.
  double bytes() const {
    const double cache = static_cast<double>(dtype_size(k_cache.view().dtype));
    const double of_token = kHeads * kDim * 2.0 * 2 + kKvHeads * kDim * 2.0 * 2 +
                            kKvHeads * kDim * 2.0 * cache + kRotated * 4.0 + 8;
    return of_token * static_cast<double>(tokens) + 2.0 * kDim * 2;
  }

  std::int64_t tokens, copies;
  std::vector<std::int64_t> places;
  DevicePlaces device_places;
  DeviceTensor q, k, v, q_out, q_norm, k_norm, cosine, sine, k_cache, v_cache;
};

/// A row behind norm and rotation, in double.
std::vector<float> expected(const std::vector<float>& x, const std::vector<float>& norm,
                            const std::vector<float>& cosine, const std::vector<float>& sine) {
  double squares = 0;
  for (const float value : x) squares += static_cast<double>(value) * value;
  const double factor = 1.0 / std::sqrt(squares / kDim + 1e-6);
  std::vector<float> y(x.size());
  for (std::size_t d = 0; d < x.size(); ++d) {
    y[d] = static_cast<float>(x[d] * factor * (1.0 + norm[d]));
  }
  constexpr std::size_t kHalf = kRotated / 2;
  for (std::size_t i = 0; i < kHalf; ++i) {
    const double lower = y[i], upper = y[i + kHalf];
    y[i] = static_cast<float>(lower * cosine[i] - upper * sine[i]);
    y[i + kHalf] = static_cast<float>(upper * cosine[i] + lower * sine[i]);
  }
  return y;
}

/// The last token's last head of q, k and v, before anything is timed.
double check(Context& context, const Step& x) {
  require_ok(qk_norm_rope_store(context, x.args(0)));
  require_ok(context.synchronize());
  const std::int64_t token = x.tokens - 1, place = x.places.back();
  const auto cosine = x.cosine.read(token * kRotated / 2, kRotated / 2);
  const auto sine = x.sine.read(token * kRotated / 2, kRotated / 2);
  const std::int64_t q_at = (token * kHeads + kHeads - 1) * kDim;
  const std::int64_t k_at = (token * kKvHeads + kKvHeads - 1) * kDim;
  const std::int64_t cache_at = (place * kKvHeads + kKvHeads - 1) * kDim;
  const double q_error =
      relative_error(x.q_out.read(q_at, kDim),
                     expected(x.q.read(q_at, kDim), x.q_norm.read(0, kDim), cosine, sine));
  const double k_error =
      relative_error(x.k_cache.read(cache_at, kDim),
                     expected(x.k.read(k_at, kDim), x.k_norm.read(0, kDim), cosine, sine));
  const double v_error = relative_error(x.v_cache.read(cache_at, kDim), x.v.read(k_at, kDim));
  const double error = std::max({q_error, k_error, v_error});
  const double bound = x.k_cache.view().dtype == DType::kF8E4M3 ? 4e-2 : 3e-3;
  require(error < bound, concat("qk_norm_rope_store is off by ", error));
  return error;
}

}  // namespace

void run_qk_norm_rope_store(Context& context, cudaStream_t stream, double copy_rate,
                            Report& report) {
  for (const DType cache : {DType::kBF16, DType::kF8E4M3}) {
    // 2080: a mixed step of 32 decodes and 2048 new tokens.
    for (const std::int64_t tokens : {1, 32, 256, 2080, 8192}) {
      const double one = Step(tokens, cache, 1).bytes();
      const Step x(
          tokens, cache,
          std::clamp(static_cast<std::int64_t>(300e6 / one), std::int64_t{2}, std::int64_t{64}));
      const double error = check(context, x);
      std::vector<std::function<Status()>> calls;
      for (std::int64_t copy = 0; copy < x.copies; ++copy) {
        calls.push_back([&x, &context, copy] { return qk_norm_rope_store(context, x.args(copy)); });
      }
      const double us = time_in_graph(stream, calls);
      report.row({{"tokens", tokens},
                  {"cache", std::string(dtype_name(cache))},
                  {"us", us, 2},
                  {"mb", x.bytes() / 1e6, 2},
                  {"tb_per_s", x.bytes() / us / 1e6, 2},
                  {"of_copy", x.bytes() / us * 1e6 / copy_rate, 2},
                  {"error", error, 5}});
    }
  }
}

}  // namespace hybridattn::bench
