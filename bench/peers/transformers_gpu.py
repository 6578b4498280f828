#!/usr/bin/env python3
"""Times Hugging Face transformers on one GPU and prints one JSON line for each row.

    transformers_gpu.py --model DIR [--new 64] [--reps 3] [--decodes 1,8,32,128] [--prefills 1x2048,1x8192,8x2048]

Prefill is one forward that computes logits for the last positions only. A decode step is what one token more of
generate() takes, greedy, behind prompts of 128: (time of `new` tokens - time of one) / (new - 1). Medians; what comes
first is not counted. transformers picks its own kernels: flash-linear-attention and causal-conv1d where they can be
imported. Needs torch with CUDA, and transformers.
"""
import argparse
import importlib
import json
import statistics
import time
import warnings

import torch
import transformers
from transformers import AutoModelForCausalLM

PROMPT = 128  # tokens in front of a decode step


def version_of(package: str) -> str:
    try:
        return getattr(importlib.import_module(package), "__version__", "unknown")
    except ImportError:
        return "absent"


def seconds(call) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def prefill_seconds(model: torch.nn.Module, sequences: int, length: int, reps: int) -> float:
    ids = torch.randint(0, 1000, (sequences, length), device="cuda")

    def call():
        return model(ids, logits_to_keep=1)
    for _ in range(2):
        call()
    return statistics.median(seconds(call) for _ in range(reps))


def decode_seconds(model: torch.nn.Module, sequences: int, new: int, reps: int) -> float:
    ids = torch.randint(0, 1000, (sequences, PROMPT), device="cuda")

    def generate(tokens: int) -> float:
        return seconds(lambda: model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens,
                                              min_new_tokens=tokens, do_sample=False, pad_token_id=0))
    generate(4)
    one = statistics.median(generate(1) for _ in range(reps))
    all_new = statistics.median(generate(new) for _ in range(reps))
    return (all_new - one) / (new - 1)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--new", type=int, default=64, help="tokens of a decode run, at least 2")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--decodes", default="1,8,32,128")
    parser.add_argument("--prefills", default="1x2048,1x8192,8x2048")
    options = parser.parse_args()
    if options.new < 2 or options.reps < 1:
        parser.error("--new must be at least 2, --reps at least 1")
    return options


def main() -> None:
    o = parse_options()
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    model = AutoModelForCausalLM.from_pretrained(o.model, dtype=torch.bfloat16).eval().to("cuda")
    print(json.dumps({
        "engine": "transformers", "device": torch.cuda.get_device_name(),
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__, "fla": version_of("fla"),
                     "causal_conv1d": version_of("causal_conv1d")}}), flush=True)
    for each in filter(None, o.prefills.split(",")):
        sequences, length = map(int, each.split("x"))
        took = prefill_seconds(model, sequences, length, o.reps)
        print(json.dumps({"step": "prefill", "rows": sequences, "tokens": length, "us": round(took * 1e6, 1),
                          "tokens_per_s": round(sequences * length / took)}), flush=True)
    for sequences in map(int, filter(None, o.decodes.split(","))):
        took = decode_seconds(model, sequences, o.new, o.reps)
        print(json.dumps({"step": "decode", "rows": sequences, "us": round(took * 1e6, 1),
                          "tokens_per_s": round(sequences / took, 1)}), flush=True)


if __name__ == "__main__":
    main()
