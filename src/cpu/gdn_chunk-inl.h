// One chunk of the chunked delta rule: its operands, and the steps that do not ask how states
// decay.
#include "src/cpu/gdn-inl.h"
#include "src/cpu/gemm-inl.h"
#include "src/ops/gdn_prefill_params.h"

#if defined(HYBRIDATTN_CPU_GDN_CHUNK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_GDN_CHUNK_INL_H_
#undef HYBRIDATTN_CPU_GDN_CHUNK_INL_H_
#else
#define HYBRIDATTN_CPU_GDN_CHUNK_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

inline constexpr std::int64_t kChunk = kGdnChunk;
/// Rows that the triangular solve finishes before they are applied to the rows below as a product.
inline constexpr std::int64_t kSolveBlock = 16;

/// The scratch of one worker, cut up. Sizes stand in gdn_prefill_scratch.
struct Chunk {
  Chunk(std::byte* scratch, std::int64_t k_dim_, std::int64_t v_dim_, bool channel_decay)
      : k_dim(k_dim_), v_dim(v_dim_) {
    sum = reinterpret_cast<double*>(scratch);
    q = reinterpret_cast<float*>(sum + kChunk * (channel_decay ? k_dim : 1));
    k = q + kChunk * k_dim;
    v = k + kChunk * k_dim;
    u = v + kChunk * v_dim;
    o = u + kChunk * v_dim;
    correction = o + kChunk * v_dim;
    scores = correction + kChunk * kChunk;
    state = scores + kChunk * kChunk;
    beta = state + v_dim * k_dim;
    decay = beta + kChunk;
    to_end = decay + kChunk;
    row = to_end + kChunk;
    q_decayed = row + kChunk;
    k_decayed = q_decayed + kChunk * k_dim;
    channels = k_decayed + kChunk * k_dim;
  }

  std::int64_t k_dim;
  std::int64_t v_dim;
  std::int64_t length = 0;
  double* sum;        // [chunk] running sum of log decay; [chunk, k_dim] where channels decay
  float* q;           // [chunk, k_dim] scaled
  float* k;           // [chunk, k_dim]
  float* v;           // [chunk, v_dim]
  float* u;           // [chunk, v_dim]
  float* o;           // [chunk, v_dim]
  float* correction;  // [chunk, chunk] minus the strict lower triangle of the system
  float* scores;      // [chunk, chunk] decayed q.k, lower triangle
  float* state;       // [v_dim, k_dim] where the state is bf16 at rest
  float* beta;        // [chunk]
  float* decay;       // [chunk] exp(sum)
  float* to_end;      // [chunk] exp(sum_last - sum)
  float* row;         // [chunk] decay from each token to the current one
  // Where each key channel decays by itself:
  float* q_decayed;  // [chunk, k_dim]
  float* k_decayed;  // [chunk, k_dim]
  float* channels;   // [k_dim]
};

/// q, k, v and beta of the chunk's tokens.
inline void load_operands(const ops::GdnPrefillParams& p, std::int64_t first, std::int64_t head,
                          Chunk& c) {
  for (std::int64_t i = 0; i < c.length; ++i) {
    const std::int64_t token = first + i;
    load_qk(p, token, head, c.q + i * c.k_dim, c.k + i * c.k_dim);
    load_row(row3(p.v, token, head), p.v.dtype, c.v_dim, c.v + i * c.v_dim);
    c.beta[i] = gate_of(p.beta, token, head);
  }
}

/// Forward substitution in float32, in place: u_i += sum_{j < i} correction[i, j] u_j.
inline void solve(Chunk& c) {
  for (std::int64_t block = 0; block < c.length; block += kSolveBlock) {
    const std::int64_t end = block + kSolveBlock < c.length ? block + kSolveBlock : c.length;
    gemm_nn(end - block, c.v_dim, block, c.correction + block * kChunk, kChunk, 1, c.u, c.v_dim,
            c.u + block * c.v_dim, c.v_dim);
    for (std::int64_t i = block + 1; i < end; ++i) {
      gemm_nn(1, c.v_dim, i - block, c.correction + i * kChunk + block, kChunk, 1,
              c.u + block * c.v_dim, c.v_dim, c.u + i * c.v_dim, c.v_dim);
    }
  }
}

/// o += scores u, block by block since scores is lower triangular.
inline void add_scores(Chunk& c) {
  for (std::int64_t block = 0; block < c.length; block += kSolveBlock) {
    const std::int64_t end = block + kSolveBlock < c.length ? block + kSolveBlock : c.length;
    gemm_nn(end - block, c.v_dim, end, c.scores + block * kChunk, kChunk, 1, c.u, c.v_dim,
            c.o + block * c.v_dim, c.v_dim);
  }
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_GDN_CHUNK_INL_H_
