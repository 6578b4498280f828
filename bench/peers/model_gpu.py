#!/usr/bin/env python3
"""Runs hybridattn and its peers on one checkpoint and one GPU, and prints tokens per second side by side.

    model_gpu.py --model DIR [--binary build/cuda/bin/hybridattn] [--state-dtype f32|bf16] [--new 64]
                 [--recorded FILE] [--skip-transformers]

The rows are those of `hybridattn bench step`: prompts of 1 x 2,048, 1 x 8,192 and 8 x 2,048 tokens, and decode steps of
1, 8, 32 and 128 sequences. transformers runs here and now, by this Python (transformers_gpu.py). Engines that are not
installed beside it come from a file of numbers that were measured before, on which card and day its "measured" says:

    {"ENGINE": {"measured": "...", "tokens_per_s": {"prefill 1x2048": 1.0, ..., "decode 128": 1.0}}}

Such a row is no comparison of one run, and is marked with a star. The last column is our rate over the best peer's.
"""
import argparse
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
OURS = "hybridattn"


def run_lines(command: list[str]) -> list[dict]:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def name_of(row: dict) -> str:
    """Of a row of `bench step` or of transformers_gpu.py."""
    return f"decode {row['rows']}" if row["step"] == "decode" else f"prefill {row['rows']}x{row['tokens']}"


def rates(lines: list[dict]) -> dict[str, float]:
    return {name_of(line): float(line["tokens_per_s"]) for line in lines
            if line.get("step") in ("prefill", "decode")}


def run_ours(o: argparse.Namespace) -> dict[str, float]:
    return rates(run_lines([o.binary, "bench", "step", "--device", "cuda", "--model", o.model, "--state-dtype",
                            o.state_dtype, "--json"]))


def run_transformers(o: argparse.Namespace) -> dict[str, float]:
    return rates(run_lines([sys.executable, os.path.join(HERE, "transformers_gpu.py"), "--model", o.model, "--new",
                            str(o.new)]))


def read_recorded(path: str) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Rates of each engine, and a line about each."""
    with open(path) as file:
        engines = json.load(file)
    return ({name + "*": engine["tokens_per_s"] for name, engine in engines.items()},
            [f"* {name}: {engine['measured']}" for name, engine in engines.items()])


def table(ours: dict[str, float], peers: dict[str, dict[str, float]]) -> list[str]:
    lines = ["| tokens/s | " + " | ".join([OURS, *peers]) + " | over the best |", "|" + "---|" * (len(peers) + 3)]
    for row, rate in ours.items():
        others = [peer.get(row) for peer in peers.values()]
        known = [other for other in others if other]
        cells = [f"{rate:,.0f}", *(f"{other:,.0f}" if other else "" for other in others),
                 f"{rate / max(known):.2f}" if known else ""]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--binary", default="build/cuda/bin/hybridattn")
    parser.add_argument("--state-dtype", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--recorded")
    parser.add_argument("--skip-transformers", action="store_true")
    return parser.parse_args()


def main() -> None:
    o = parse_options()
    peers, notes = {}, []
    if o.recorded:
        peers, notes = read_recorded(o.recorded)
    ours = run_ours(o)
    if not o.skip_transformers:
        peers = {"transformers": run_transformers(o)} | peers
    print("\n".join(table(ours, peers) + notes))


if __name__ == "__main__":
    main()
