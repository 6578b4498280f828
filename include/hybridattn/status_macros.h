// Two macros that hand an error on to the caller. Opt-in: the umbrella header leaves them out.
#pragma once

#include "hybridattn/status.h"

/// Returns the Status of `expr` from the current function unless it is ok.
#define HYBRIDATTN_TRY(expr)                               \
  do {                                                     \
    ::hybridattn::Status hybridattn_status = (expr);       \
    if (!hybridattn_status.ok()) return hybridattn_status; \
  } while (false)

/// Declares `decl` from the value of the Result `expr`, or returns its Status.
#define HYBRIDATTN_ASSIGN(decl, expr) \
  HYBRIDATTN_ASSIGN_IMPL(HYBRIDATTN_CONCAT(hybridattn_result_, __LINE__), decl, expr)
#define HYBRIDATTN_ASSIGN_IMPL(result, decl, expr) \
  auto result = (expr);                            \
  if (!result.ok()) return result.status();        \
  decl = std::move(result).value()
#define HYBRIDATTN_CONCAT_IMPL(a, b) a##b
#define HYBRIDATTN_CONCAT(a, b) HYBRIDATTN_CONCAT_IMPL(a, b)
