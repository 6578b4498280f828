// Times FlashInfer's kernels on the steps named on the command line, a line of JSON each:
// KEY=PAGE:CACHE:QUERIESxKEYS[*COUNT][,...], CACHE bf16 or f8_e4m3.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>

#include "bench/peers/flashinfer/paged.h"

namespace {

using namespace peer;

void require(int code, const char* what) {
  if (code == 0) return;
  std::fprintf(stderr, "%s: %d, %s\n", what, code, cudaGetErrorString(cudaGetLastError()));
  std::exit(1);
}

__global__ void fill_bf16(unsigned short* out, std::size_t count) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * blockDim.x) {
    // Between -2 and 2: random mantissa and sign of an exponent of 0, less often of -1 to -3.
    const unsigned x = static_cast<unsigned>(i) * 2654435761u ^ static_cast<unsigned>(i >> 7);
    out[i] = static_cast<unsigned short>((x >> 16 & 0x8000u) | ((127 - __popc(x & 7)) << 7) |
                                         (x >> 20 & 0x7fu));
  }
}
__global__ void fill_f8(unsigned char* out, std::size_t count) {
  for (std::size_t i = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x; i < count;
       i += std::size_t{gridDim.x} * blockDim.x) {
    const unsigned x = static_cast<unsigned>(i) * 2654435761u ^ static_cast<unsigned>(i >> 7);
    out[i] = static_cast<unsigned char>((x >> 24 & 0x80u) | ((7 - (x & 3)) << 3) | (x >> 20 & 7u));
  }
}

template <class T>
T* device_copy(const std::vector<T>& values) {
  T* out;
  require(cudaMalloc(&out, values.size() * sizeof(T) + 4), "cudaMalloc");
  require(cudaMemcpy(out, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
          "copy");
  return out;
}

/// A step over `copies` caches, so that each call may find its own in memory.
struct Problem {
  Step step;
  bool f8;
  int copies = 1, pages = 0;

  Problem(const std::string& text) {
    char cache[16];
    int at = 0;
    std::sscanf(text.c_str(), "%d:%15[^:]:%n", &step.page_size, cache, &at);
    f8 = std::string(cache) == "f8_e4m3";
    std::vector<std::int32_t> last;
    double bytes = 0;
    for (const char* next = text.c_str() + at; next != nullptr && *next != '\0';) {
      int queries, keys, count = 1;
      if (std::sscanf(next, "%dx%d*%d", &queries, &keys, &count) < 2) require(-1, "arguments");
      for (int i = 0; i < count; ++i) {
        const int used = (keys + step.page_size - 1) / step.page_size;
        step.q_starts.push_back(step.q_starts.back() + queries);
        step.page_starts.push_back(step.page_starts.back() + used);
        step.keys.push_back(keys);
        last.push_back(keys - (used - 1) * step.page_size);
        bytes += 2.0 * keys * kKvHeads * kDim * (f8 ? 1 : 2);
      }
      next = std::strchr(next, ',');
      if (next != nullptr) ++next;
    }
    pages = step.page_starts.back();
    if (step.tokens() == step.rows()) copies = std::max(2, static_cast<int>(300e6 / bytes));
    std::vector<std::int32_t> ids(static_cast<std::size_t>(pages) * copies);
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(7));
    step.device_pages = device_copy(ids);
    step.device_q_starts = device_copy(step.q_starts);
    step.device_page_starts = device_copy(step.page_starts);
    step.device_last_page = device_copy(last);
    const std::size_t cached = ids.size() * step.page_size * kKvHeads * kDim;
    const std::size_t queries = static_cast<std::size_t>(step.tokens()) * kHeads * kDim;
    for (void** x : {&step.k, &step.v}) {
      require(cudaMalloc(x, cached * (f8 ? 1 : 2)), "cudaMalloc");
      if (f8) {
        fill_f8<<<1024, 256>>>(static_cast<unsigned char*>(*x), cached);
      } else {
        fill_bf16<<<1024, 256>>>(static_cast<unsigned short*>(*x), cached);
      }
    }
    for (void** x : {&step.q, &step.out}) require(cudaMalloc(x, queries * 2), "cudaMalloc");
    fill_bf16<<<1024, 256>>>(static_cast<unsigned short*>(step.q), queries);
    require(cudaDeviceSynchronize(), "fill");
  }
  ~Problem() {
    for (void* x : {step.k, step.v, step.q, step.out}) cudaFree(x);
    for (auto* x : {step.device_pages, step.device_q_starts, step.device_page_starts,
                    step.device_last_page}) {
      cudaFree(x);
    }
  }
  Step copy(int index) const {
    Step other = step;
    other.device_pages += static_cast<std::size_t>(index) * pages;
    return other;
  }
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double graph_us(const std::function<void(int, cudaStream_t)>& call, int calls) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  cudaEvent_t begin, end;
  cudaStreamCreate(&stream);
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  for (int i = 0; i < calls; ++i) call(i, stream);
  require(cudaStreamSynchronize(stream), "run");
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < calls; ++i) call(i, stream);
  require(cudaStreamEndCapture(stream, &graph), "capture");
  require(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  std::vector<double> times;
  for (int i = 0; i < 18; ++i) {
    cudaEventRecord(begin, stream);
    cudaGraphLaunch(executable, stream);
    cudaEventRecord(end, stream);
    require(cudaEventSynchronize(end), "run");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (i >= 3) times.push_back(ms * 1e3 / calls);
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  return median(times);
}

double host_us(const std::function<void()>& call) {
  std::vector<double> times;
  for (int i = 0; i < 41; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    call();
    times.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin)
            .count());
    cudaDeviceSynchronize();
  }
  return median(times);
}

void time_kernel(const char* key, const char* kernel, const Problem& problem,
                 const Workspace& space, int (*plan)(const Workspace&, const Step&, Plan&),
                 int (*run)(const Workspace&, const Step&, const Plan&, cudaStream_t)) {
  Plan made;
  require(plan(space, problem.step, made), kernel);
  const double us = graph_us(
      [&](int i, cudaStream_t stream) {
        require(run(space, problem.copy(i % problem.copies), made, stream), kernel);
      },
      std::max(problem.copies, 2));
  const double plan_us = host_us([&] { plan(space, problem.step, made); });
  std::printf("{\"step\": \"%s\", \"kernel\": \"%s\", \"us\": %.2f, \"plan_us\": %.1f}\n", key,
              kernel, us, plan_us);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  Workspace space{nullptr, nullptr, nullptr, std::size_t{512} << 20, std::size_t{16} << 20};
  require(cudaMalloc(&space.floats, space.float_bytes), "cudaMalloc");
  require(cudaMalloc(&space.ints, space.int_bytes), "cudaMalloc");
  require(cudaMallocHost(&space.pinned, space.int_bytes), "cudaMallocHost");
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const std::size_t equals = argument.find('=');
    const std::string key = argument.substr(0, equals);
    const Problem problem(argument.substr(equals + 1));
    if (problem.f8) {
      time_kernel(key.c_str(), "fa2", problem, space, plan_fa2_f8, run_fa2_f8);
      continue;
    }
    time_kernel(key.c_str(), "fa2", problem, space, plan_fa2, run_fa2);
    if (problem.step.tokens() > problem.step.rows()) {
      time_kernel(key.c_str(), "fa3", problem, space, plan_fa3, run_fa3);
    }
  }
  return 0;
}
