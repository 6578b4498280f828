#!/usr/bin/env python3
"""Causal prefill on one GPU: hybridattn over pages in random order, and cuDNN's attention as PyTorch calls it, over
keys and values that lie one after the other: what paged attention of cuDNN is at best.

    attention_cudnn.py [--binary build/cuda/bin/hybridattn_bench_cuda] [--rounds 3]

Both are timed in CUDA graphs, in turn; medians count. The answers are compared by the benches themselves: ours with a
sum in double, PyTorch's here with its own in float32.
"""
import argparse
import json
import os
import statistics
import subprocess

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HEADS, KV_HEADS, DIM = 16, 2, 256


def attend(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def check(q, k, v, out) -> None:
    """The first rows: all of them see few keys."""
    n, group = 128, HEADS // KV_HEADS
    keys, values = (x[:, :, :n].float().repeat_interleave(group, 1) for x in (k, v))
    with sdpa_kernel(SDPBackend.MATH):
        want = torch.nn.functional.scaled_dot_product_attention(q[:, :, :n].float(), keys, values, is_causal=True)
    error = float((out[:, :, :n].float() - want).norm() / want.norm())
    if not error < 6e-3:
        raise SystemExit(f"cuDNN's answer is off by {error}")


def time_cudnn(tokens: int) -> float:
    """Microseconds of one call."""
    make = lambda heads: torch.randn(1, tokens, heads, DIM, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
    q, k, v = make(HEADS), make(KV_HEADS), make(KV_HEADS)
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        check(q, k, v, attend(q, k, v))
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                attend(q, k, v)
        torch.cuda.synchronize()
        graph, calls = torch.cuda.CUDAGraph(), 4
        with torch.cuda.graph(graph):
            for _ in range(calls):
                attend(q, k, v)
    times = []
    for _ in range(12):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times[2:])


def time_ours(binary: str) -> dict:
    """Microseconds by tokens and page size."""
    done = subprocess.run([binary, "--json", "attn-prefill"], check=True, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {f"{row['step']}, page {row['page']}": row for row in rows if "step" in row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.path.join(ROOT, "build/cuda/bin/hybridattn_bench_cuda"))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    ours, cudnn = {}, {}
    for _ in range(args.rounds):
        for name, row in time_ours(args.binary).items():
            ours.setdefault(name, []).append(float(row["us"]))
        for name in ours:
            cudnn.setdefault(int(name.split()[1].rstrip(",")), [])
        for tokens, times in cudnn.items():
            times.append(time_cudnn(tokens))
    print(torch.cuda.get_device_name(), "cuDNN", torch.backends.cudnn.version())
    print(f"{'':28} {'us':>10} {'TFLOP/s':>8} {'cuDNN us':>10} {'TFLOP/s':>8} {'ratio':>6}")
    for name, times in ours.items():
        tokens = int(name.split()[1].rstrip(","))
        flop = 4 * HEADS * DIM * tokens * (tokens + 1) / 2
        mine, its = statistics.median(times), statistics.median(cudnn[tokens])
        print(f"{name:28} {mine:10.1f} {flop / mine / 1e6:8.0f} {its:10.1f} {flop / its / 1e6:8.0f} {its / mine:6.2f}")


if __name__ == "__main__":
    main()
