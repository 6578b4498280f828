// The ops around paged attention inside a captured graph: nothing of them allocates, waits or is
// read by the host, so a graph whose arrays lie on the device follows what they hold at each
// launch.
#include <cuda_runtime_api.h>

#include "hybridattn/hybridattn.h"
#include "tests/support/contexts.h"
#include "tests/support/tensor.h"

namespace hybridattn::testing {
namespace {

constexpr std::int64_t kTokens = 3, kHeads = 2, kDim = 64, kHidden = 2048;

/// One layer's worth of calls over buffers that host and device share.
class Layer {
 public:
  explicit Layer(std::uint64_t seed) : random(seed) {
    for (Buffer* x : {&hidden, &norm, &head_norm, &q, &k, &v, &gate}) {
      x->fill(random.values(x->num_elements(), -1, 1));
    }
  }

  /// The step's arrays on the device.
  void write(const std::vector<double>& at, const std::vector<double>& places) {
    positions.fill(at);
    slots.fill(places);
    move_from.fill({places[0], places[1]});
    move_to.fill({places[0] + 1, kPadIndex});
  }

  Status run(Context& context) {
    const auto ids = [](Buffer& x) { return static_cast<const std::int64_t*>(x.view().data); };
    const std::vector<std::int64_t> host(kTokens, 0);  // legal, and not what is meant
    RotaryTableArgs table{host.data(), 1e4, 16, cosine.view(), sine.view()};
    table.device_positions = ids(positions);
    QkNormRopeStoreArgs fused;
    fused.q = q.view(), fused.k = k.view(), fused.v = v.view();
    fused.q_norm = fused.k_norm = head_norm.view();
    fused.cos = cosine.view(), fused.sin = sine.view();
    fused.q_out = q_out.view(), fused.k_out = k_out.view();
    fused.token_slots = host.data(), fused.device_token_slots = ids(slots);
    fused.k_cache = k_cache.view(), fused.v_cache = v_cache.view();
    StoreKvArgs store{k_out.view(), v.view(), host.data(), k_copy.view(), v_copy.view()};
    store.device_token_slots = ids(slots);
    CopyKvArgs copy{k_copy.view(), v_copy.view(), host.data(), host.data(), 2};
    copy.device_source = ids(move_from), copy.device_destination = ids(move_to);
    Status status = rms_norm(context, {hidden.view(), norm.view(), hidden_out.view()});
    if (status.ok()) status = rotary_table(context, table);
    if (status.ok()) status = qk_norm_rope_store(context, fused);
    if (status.ok())
      status = rotary(context, {q_out.view(), cosine.view(), sine.view(), q2.view()});
    if (status.ok()) status = store_kv(context, store);
    if (status.ok()) status = copy_kv(context, copy);
    if (status.ok()) status = sigmoid_gate(context, {q2.view(), gate.view(), out.view()});
    if (status.ok()) {
      status = silu_mul(context, {hidden_out.view(), hidden.view(), hidden_out.view()});
    }
    return status;
  }

  void expect_as(const Layer& other) const {
    EXPECT_EQ(hidden_out.memory(), other.hidden_out.memory());
    EXPECT_EQ(out.memory(), other.out.memory());
    EXPECT_EQ(k_cache.memory(), other.k_cache.memory());
    EXPECT_EQ(v_cache.memory(), other.v_cache.memory());
    EXPECT_EQ(k_copy.memory(), other.k_copy.memory());
    EXPECT_EQ(v_copy.memory(), other.v_copy.memory());
  }

  Random random;
  Buffer hidden{DType::kBF16, {kTokens, kHidden}}, norm{DType::kBF16, {kHidden}},
      hidden_out{DType::kBF16, {kTokens, kHidden}};
  Buffer head_norm{DType::kBF16, {kDim}}, q{DType::kBF16, {kTokens, kHeads, kDim}},
      k = q, v = q, gate = q, q_out = q, k_out = q, q2 = q, out = q;
  Buffer cosine{DType::kF32, {kTokens, 8}}, sine = cosine;
  Buffer k_cache{DType::kF8E4M3, {2, 4, kHeads, kDim}}, v_cache = k_cache;
  Buffer k_copy{DType::kBF16, {2, 4, kHeads, kDim}}, v_copy = k_copy;
  Buffer positions{DType::kI64, {kTokens}}, slots = positions;
  Buffer move_from{DType::kI64, {2}}, move_to = move_from;
};

class Capture : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cuda_present()) GTEST_SKIP() << "there is no CUDA device";
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    ContextOptions options;
    options.device = DeviceType::kCuda;
    options.stream = stream;
    options.allocator = &shared_memory();
    context = make_context(options);
  }
  void TearDown() override {
    context.reset();
    if (executable != nullptr) cudaGraphExecDestroy(executable);
    if (graph != nullptr) cudaGraphDestroy(graph);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }

  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  std::unique_ptr<Context> context;
};

TEST_F(Capture, AGraphOfTheOpsFollowsItsArrays) {
  Layer captured(5), eager(5);
  captured.write({0, 0, 0}, {0, 1, 2});
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  const Status ran = captured.run(*context);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_OK(ran);
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  EXPECT_TRUE(captured.k_cache.is_poison({}));
  const auto plain = make_cuda_context();
  const std::vector<std::vector<double>> positions{{5, 6, 9000}, {1, 1, 1}};
  const std::vector<std::vector<double>> places{{0, 4, kPadIndex}, {6, 2, 5}};
  for (std::size_t step = 0; step < positions.size(); ++step) {
    captured.write(positions[step], places[step]);
    eager.write(positions[step], places[step]);
    ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    ASSERT_OK(eager.run(*plain));
    captured.expect_as(eager);
    EXPECT_FALSE(captured.k_cache.is_poison({}));
  }
}

}  // namespace
}  // namespace hybridattn::testing
