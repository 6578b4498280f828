#!/usr/bin/env python3
"""Times Hugging Face transformers on the CPU and prints one JSON line.

    transformers_cpu.py --model DIR [--dtype float32|bfloat16] [--prompt 512 | --ids-file FILE] [--new 32]
                        [--threads 2] [--reps 3]

Prefill is one forward of the prompt that computes logits for the last position only. Decode is a loop of one-token
forwards with the cache that prefill left, greedy argmax. Every repetition starts from an empty cache; one shorter
repetition before them is not counted. The figures are medians over repetitions. Needs torch and transformers.
"""
import argparse
import json
import os
import platform
import resource
import statistics
import time
import warnings

import torch
import transformers
from transformers import AutoModelForCausalLM


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as info:
            return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_rss_bytes() -> int:
    """The peak of the whole process so far; mapped weights count."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def generate(model: torch.nn.Module, prompt: torch.Tensor, new: int) -> tuple[float, float, list[int]]:
    """Seconds of prefill, seconds of the decode steps (new - 1 of them), and the tokens."""
    start = time.perf_counter()
    out = model(prompt, use_cache=True, logits_to_keep=1)
    token = out.logits[:, -1].argmax(-1, keepdim=True)
    prefilled = time.perf_counter()
    tokens = [int(token)]
    cache = out.past_key_values
    for _ in range(new - 1):
        out = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        tokens.append(int(token))
        cache = out.past_key_values
    return prefilled - start, time.perf_counter() - prefilled, tokens


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--prompt", type=int, default=512, help="tokens in the prompt (random ids)")
    parser.add_argument("--ids-file", help="a JSON list of ids to use as the prompt")
    parser.add_argument("--new", type=int, default=32, help="tokens to generate, at least 2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.prompt < 1 or options.new < 2 or options.reps < 1:
        parser.error("--prompt and --reps must be at least 1, --new at least 2")
    return options


def main() -> None:
    o = parse_options()
    torch.set_num_threads(o.threads)
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)  # newer versions call past_key_values `cache`

    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(o.model, dtype=getattr(torch, o.dtype)).eval()
    load_seconds = time.perf_counter() - start
    vocab = model.config.get_text_config().vocab_size
    prompt = torch.randint(0, vocab, (1, o.prompt), generator=torch.Generator().manual_seed(o.seed))
    if o.ids_file:
        with open(o.ids_file) as ids:
            prompt = torch.tensor([json.load(ids)])
        o.prompt = prompt.shape[1]

    generate(model, prompt[:, :64], 2)
    prefill, decode, tokens = [], [], []
    for _ in range(o.reps):
        prefill_seconds, decode_seconds, tokens = generate(model, prompt, o.new)
        prefill.append(o.prompt / prefill_seconds)
        decode.append((o.new - 1) / decode_seconds)

    print(json.dumps({
        "engine": "transformers", "model": os.path.basename(os.path.normpath(o.model)), "dtype": o.dtype,
        "prompt": o.prompt, "new": o.new, "threads": o.threads, "reps": o.reps,
        "prefill_tokens_per_s": round(statistics.median(prefill), 3),
        "prefill_range": [round(min(prefill), 3), round(max(prefill), 3)],
        "decode_tokens_per_s": round(statistics.median(decode), 3),
        "decode_range": [round(min(decode), 3), round(max(decode), 3)],
        "peak_rss_bytes": peak_rss_bytes(), "load_seconds": round(load_seconds, 2), "first_tokens": tokens[:8],
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__,
                     "python": platform.python_version()},
        "cpu": cpu_name(),
    }))


if __name__ == "__main__":
    main()
