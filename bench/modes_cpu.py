#!/usr/bin/env python3
"""What the exactness modes, recorded steps and drafts cost on the CPU: tokens/s of the program with each.

    modes_cpu.py --model DIR [--binary build/release/bin/hybridattn] [--dtype f32|bf16] [--prompts 4]
                 [--length 300] [--new 33] [--chunk 200] [--threads 2] [--rounds 3]

Several random prompts run together. Modes that promise equal output must give equal ids before anything is
printed. Each round runs every mode once; the figures are medians over the rounds.
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
MODES = {
    "plain": [],
    "--no-graphs": ["--no-graphs"],
    "--batch-invariant": ["--batch-invariant"],
    "--chunk-invariant": ["--chunk-invariant"],
    "--chunk-invariant --draft-tokens 3": ["--chunk-invariant", "--draft-tokens", "3"],
}
# Each pair gives the same ids: recorded or not, drafted or not.
EQUAL = [("plain", "--no-graphs"), ("--chunk-invariant", "--chunk-invariant --draft-tokens 3")]


def run(o: argparse.Namespace, prompts_file: str, mode: str) -> dict:
    command = [o.binary, "generate", "--model", o.model, "--dtype", o.dtype, "--prompts-file", prompts_file,
               "--max-new-tokens", str(o.new), "--ignore-eos", "--json", "--threads", str(o.threads),
               "--chunk", str(o.chunk)] + MODES[mode]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--binary", default=os.path.join(HERE, "../build/release/bin/hybridattn"))
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="bf16")
    for name, value in (("prompts", 4), ("length", 300), ("new", 33), ("chunk", 200), ("threads", 2), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def main() -> None:
    o = parse_options()
    with open(os.path.join(o.model, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    vocab = config.get("text_config", config)["vocab_size"]
    chance = random.Random(1)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for _ in range(o.prompts):
            file.write(json.dumps([chance.randrange(vocab) for _ in range(o.length)]) + "\n")
        file.flush()
        runs: dict[str, list[dict]] = {mode: [] for mode in MODES}
        for _ in range(o.rounds):
            for mode in MODES:
                runs[mode].append(run(o, file.name, mode))
    ids = {mode: [[r["ids"] for r in one["results"]] for one in runs[mode]] for mode in MODES}
    for a, b in EQUAL:
        if ids[a] != ids[b]:
            sys.exit(f"{a} and {b} gave different ids")
    print(f"{'mode':38} prefill tokens/s  decode tokens/s")
    for mode in MODES:
        medians = [statistics.median(one[key] for one in runs[mode])
                   for key in ("prefill_tokens_per_s", "decode_tokens_per_s")]
        print(f"{mode:38} {medians[0]:16.1f} {medians[1]:16.1f}")


if __name__ == "__main__":
    main()
