#!/usr/bin/env python3
"""Runs hybridattn in turn with its peers on one checkpoint, on the CPU, and prints the ratios.

    cpu.py --model DIR [--binary build/release/bin/hybridattn] [--dtype f32|bf16] [--peer-dtype float32|bfloat16]
           [--prompt 512] [--new 33] [--threads 2] [--rounds 3]
           [--llama llama.cpp/build/bin --gguf FILE] [--sequences 8] [--neighbour]

The peer is Hugging Face transformers, or llama.cpp where --llama is given. transformers gets the same random ids, and
in float32 on both sides the generated tokens must agree before anything is timed; it wants a Python that has torch
and transformers. llama-bench draws its own ids and gets a GGUF file of the same shape (llama_gguf.py); no answers are
compared. Each round is one run of each program; the figures are medians over the rounds. --sequences runs that many
prompts together (llama-batched-bench). --neighbour runs each program once more beside a process that keeps one core
busy, and prints what is left of the decode rate.
"""
import argparse
import contextlib
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
    prompts = "--ids-file" if o.sequences == 1 else "--prompts-file"
    result = run_json([o.binary, "generate", "--model", o.model, "--dtype", o.dtype, prompts, ids_file,
                       "--max-new-tokens", str(o.new), "--ignore-eos", "--json", "--threads", str(o.threads)])
    first = result["results"][0] if "results" in result else result
    return first | result | {"tokens": first["ids"][:8]}


def run_transformers(o: argparse.Namespace, ids_file: str) -> dict:
    result = run_json([sys.executable, os.path.join(HERE, "transformers_cpu.py"), "--model", o.model, "--dtype",
                       o.peer_dtype, "--ids-file", ids_file, "--new", str(o.new), "--threads", str(o.threads),
                       "--reps", "1"])
    return result | {"tokens": result["first_tokens"]}


def run_llama(o: argparse.Namespace) -> dict:
    if o.sequences > 1:
        return run_llama_batch(o)
    results = run_json([os.path.join(o.llama, "llama-bench"), "-m", o.gguf, "-t", str(o.threads),
                        "-p", str(o.prompt), "-n", str(o.new - 1), "-r", "1", "-o", "json"])
    prefill = next(run for run in results if run["n_prompt"] > 0)
    decode = next(run for run in results if run["n_gen"] > 0)
    return {"cpu": prefill["cpu_info"], "prefill_tokens_per_s": prefill["avg_ts"],
            "decode_tokens_per_s": decode["avg_ts"]}


def run_llama_batch(o: argparse.Namespace) -> dict:
    result = run_json([os.path.join(o.llama, "llama-batched-bench"), "-m", o.gguf, "-t", str(o.threads),
                       "-c", str(o.sequences * (o.prompt + o.new)), "-npp", str(o.prompt), "-ntg", str(o.new - 1),
                       "-npl", str(o.sequences), "--output-format", "jsonl"])
    return {"cpu": f"{o.sequences} sequences", "prefill_tokens_per_s": result["speed_pp"],
            "decode_tokens_per_s": result["speed_tg"]}


@contextlib.contextmanager
def neighbour(there: bool):
    """A process that keeps one core busy for as long as the body runs."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if there else None
    try:
        yield
    finally:
        if process is not None:
            process.kill()
            process.wait()


def print_slowdown(o: argparse.Namespace, ids_file: str, ours: list[dict], peer: list[dict], name: str) -> None:
    """What one busy process leaves of the decode rate of each."""
    with neighbour(True):
        beside = [(run_ours(o, ids_file), run_peer(o, ids_file)) for _ in range(o.rounds)]
    key = "decode_tokens_per_s"
    left = [median([pair[i] for pair in beside], key) / median(alone, key) for i, alone in enumerate((ours, peer))]
    print(f"{'decode beside a neighbour':24}{left[0]:>13.2f}{left[1]:>24.2f}   of the rate alone ({name})")


def run_peer(o: argparse.Namespace, ids_file: str) -> dict:
    return run_llama(o) if o.llama else run_transformers(o, ids_file)


def needed_bytes(o: argparse.Namespace) -> int:
    """Weights, KV, states and workspace of the run, as `info` tells them."""
    info = run_json([o.binary, "info", "--model", o.model, "--dtype", o.dtype, "--json",
                     "--threads", str(o.threads)])
    sequence = (o.prompt + o.new) * info["kv_bytes_per_token"] + info["state_bytes_per_sequence"]
    return info["weight_bytes"] + o.sequences * sequence + info["workspace_bytes"]


def median(runs: list[dict], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def print_medians(o: argparse.Namespace, ours: list[dict], peer: list[dict], name: str) -> None:
    print(f"{peer[0]['cpu']}, {o.threads} threads, prompt {o.prompt}, {o.new} new tokens, medians of {o.rounds}")
    print(f"{'':24}{'ours ' + o.dtype:>14}{name:>24}{'ratio':>8}")
    for row, key in (("prefill tokens/s", "prefill_tokens_per_s"), ("decode tokens/s", "decode_tokens_per_s"),
                     ("peak RSS bytes", "peak_rss_bytes")):
        if key not in peer[0]:
            continue
        a, b = median(ours, key), median(peer, key)
        print(f"{row:24}{a:>14.1f}{b:>24.1f}{a / b:>8.2f}")
    print(f"peak RSS over weights + KV + states + workspace: {median(ours, 'peak_rss_bytes') / needed_bytes(o):.3f}")


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
    parser.add_argument("--sequences", type=int, default=1, help="prompts together; llama.cpp only")
    parser.add_argument("--neighbour", action="store_true", help="also beside a process that keeps a core busy")
    parser.add_argument("--llama", help="folder of llama-bench")
    parser.add_argument("--gguf")
    options = parser.parse_args()
    if options.sequences > 1 and not options.llama:
        parser.error("--sequences wants --llama")
    return options


def main() -> None:
    o = parse_options()
    name = "llama.cpp bf16" if o.llama else "transformers " + o.peer_dtype
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as ids_file:
        with open(os.path.join(o.model, "config.json")) as config:
            fields = json.load(config)
        vocab = fields.get("text_config", fields)["vocab_size"]
        draw = random.Random(1)
        for _ in range(o.sequences):
            ids_file.write(json.dumps([draw.randrange(vocab) for _ in range(o.prompt)]) + "\n")
        ids_file.flush()
        ours, peer = [], []
        for _ in range(o.rounds + 1):
            ours.append(run_ours(o, ids_file.name))
            peer.append(run_peer(o, ids_file.name))
            if not o.llama and (o.dtype, o.peer_dtype) == ("f32", "float32") and ours[-1]["tokens"] != peer[-1]["tokens"]:
                sys.exit(f"tokens differ: {ours[-1]['tokens']}, transformers {peer[-1]['tokens']}")
        ours, peer = ours[1:], peer[1:]  # the first round warmed the page cache
        print_medians(o, ours, peer, name)
        if o.neighbour:
            print_slowdown(o, ids_file.name, ours, peer, name)


if __name__ == "__main__":
    main()
