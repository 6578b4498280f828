// All ops: each is callable alone, over the caller's own memory.
#pragma once

#include "hybridattn/ops/attention.h"
#include "hybridattn/ops/causal_conv.h"
#include "hybridattn/ops/copy_slots.h"
#include "hybridattn/ops/gated_rms_norm.h"
#include "hybridattn/ops/gdn_args.h"
#include "hybridattn/ops/gdn_gates.h"
#include "hybridattn/ops/gdn_prefill.h"
#include "hybridattn/ops/gdn_step.h"
#include "hybridattn/ops/l2norm.h"
#include "hybridattn/ops/linear.h"
#include "hybridattn/ops/ragged_rows.h"
#include "hybridattn/ops/rms_norm.h"
#include "hybridattn/ops/rotary.h"
#include "hybridattn/ops/sigmoid_gate.h"
#include "hybridattn/ops/silu_mul.h"
#include "hybridattn/ops/store_kv.h"
