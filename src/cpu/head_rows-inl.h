// The loop of all ops that treat each [token, head] row alone.
#include "src/cpu/simd-inl.h"

#if defined(HYBRIDATTN_CPU_HEAD_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HYBRIDATTN_CPU_HEAD_ROWS_INL_H_
#undef HYBRIDATTN_CPU_HEAD_ROWS_INL_H_
#else
#define HYBRIDATTN_CPU_HEAD_ROWS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace hybridattn::cpu::HWY_NAMESPACE {

/// Elements that one task handles at least: below this a task costs more to hand out than to do.
inline constexpr std::int64_t kTaskElements = 8192;

/// Calls body(token, head, scratch) for each row of `heads` heads of `dim` elements, where scratch
/// is the worker's float area.
template <class Body>
void for_head_rows(core::Launch& launch, std::int64_t tokens, std::int64_t heads, std::int64_t dim,
                   const Body& body) {
  launch.target = hwy::TargetName(HWY_TARGET);
  const std::int64_t rows = tokens * heads;
  std::int64_t grain = kTaskElements / (dim > 0 ? dim : 1);
  if (grain < 1) grain = 1;
  const std::int64_t tasks = (rows + grain - 1) / grain;
  parallel_for(launch.executor, tasks, [&](std::int64_t task, int worker) {
    float* scratch = launch.scratch<float>(worker);
    const std::int64_t end = (task + 1) * grain < rows ? (task + 1) * grain : rows;
    for (std::int64_t row = task * grain; row < end; ++row) body(row / heads, row % heads, scratch);
  });
}

}  // namespace hybridattn::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HYBRIDATTN_CPU_HEAD_ROWS_INL_H_
