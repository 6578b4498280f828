#!/usr/bin/env python3
"""Runs hybridattn in turn with its peers on one checkpoint, on the CPU, and prints the ratios.

    cpu.py --model DIR [--binary build/release/bin/hybridattn] [--dtype f32|bf16] [--peer-dtype float32|bfloat16]
           [--prompt 512] [--new 33] [--threads 2] [--rounds 3]
           [--llama llama.cpp/build/bin --gguf FILE]

The peer is Hugging Face transformers, or llama.cpp where --llama is given. transformers gets the same random ids, and
in float32 on both sides the generated tokens must agree before anything is timed; it wants a Python that has torch
and transformers. llama-bench draws its own ids and gets a GGUF file of the same shape (llama_gguf.py); no answers are
compared. Each round is one run of each program; the figures are medians over the rounds.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def run_json(command: list[str]) -> dict:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def run_ours(o: argparse.Namespace, ids_file: str) -> dict:
    result = run_json([o.binary, "generate", "--model", o.model, "--dtype", o.dtype, "--ids-file", ids_file,
                       "--max-new-tokens", str(o.new), "--ignore-eos", "--json", "--threads", str(o.threads)])
    return result | {"tokens": result["ids"][:8]}


def run_transformers(o: argparse.Namespace, ids_file: str) -> dict:
    result = run_json([sys.executable, os.path.join(HERE, "transformers_cpu.py"), "--model", o.model, "--dtype",
                       o.peer_dtype, "--ids-file", ids_file, "--new", str(o.new), "--threads", str(o.threads),
                       "--reps", "1"])
    return result | {"tokens": result["first_tokens"]}


def run_llama(o: argparse.Namespace) -> dict:
    results = run_json([os.path.join(o.llama, "llama-bench"), "-m", o.gguf, "-t", str(o.threads),
                        "-p", str(o.prompt), "-n", str(o.new - 1), "-r", "1", "-o", "json"])
    prefill = next(run for run in results if run["n_prompt"] > 0)
    decode = next(run for run in results if run["n_gen"] > 0)
    return {"cpu": prefill["cpu_info"], "prefill_tokens_per_s": prefill["avg_ts"],
            "decode_tokens_per_s": decode["avg_ts"]}


def needed_bytes(o: argparse.Namespace) -> int:
    """Weights, KV, states and workspace of the run, as `info` tells them."""
    info = run_json([o.binary, "info", "--model", o.model, "--dtype", o.dtype, "--json",
                     "--threads", str(o.threads)])
    return (info["weight_bytes"] + (o.prompt + o.new) * info["kv_bytes_per_token"]
            + info["state_bytes_per_sequence"] + info["workspace_bytes"])


def median(runs: list[dict], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--binary", default=os.path.join(HERE, "../../build/release/bin/hybridattn"))
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--peer-dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=33)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama", help="folder of llama-bench")
    parser.add_argument("--gguf")
    return parser.parse_args()


def main() -> None:
    o = parse_options()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as ids_file:
        with open(os.path.join(o.model, "config.json")) as config:
            fields = json.load(config)
        vocab = fields.get("text_config", fields)["vocab_size"]
        draw = random.Random(1)
        json.dump([draw.randrange(vocab) for _ in range(o.prompt)], ids_file)
        ids_file.flush()
        ours, peer = [], []
        for _ in range(o.rounds + 1):
            ours.append(run_ours(o, ids_file.name))
            peer.append(run_llama(o) if o.llama else run_transformers(o, ids_file.name))
            if not o.llama and (o.dtype, o.peer_dtype) == ("f32", "float32") and ours[-1]["tokens"] != peer[-1]["tokens"]:
                sys.exit(f"tokens differ: {ours[-1]['tokens']}, transformers {peer[-1]['tokens']}")
    ours, peer = ours[1:], peer[1:]  # the first round warmed the page cache
    print(f"{peer[0]['cpu']}, {o.threads} threads, prompt {o.prompt}, {o.new} new tokens, medians of {o.rounds}")
    name = "llama.cpp bf16" if o.llama else "transformers " + o.peer_dtype
    print(f"{'':24}{'ours ' + o.dtype:>14}{name:>24}{'ratio':>8}")
    for name, key in (("prefill tokens/s", "prefill_tokens_per_s"), ("decode tokens/s", "decode_tokens_per_s"),
                      ("peak RSS bytes", "peak_rss_bytes")):
        if key not in peer[0]:
            continue
        a, b = median(ours, key), median(peer, key)
        print(f"{name:24}{a:>14.1f}{b:>24.1f}{a / b:>8.2f}")
    print(f"peak RSS over weights + KV + states + workspace: {median(ours, 'peak_rss_bytes') / needed_bytes(o):.3f}")


if __name__ == "__main__":
    main()
