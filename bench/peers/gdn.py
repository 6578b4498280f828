#!/usr/bin/env python3
"""Gated DeltaNet on one GPU: hybridattn and its peers on the same card, and our time over the best peer's.

    gdn.py [--binary build/cuda/bin/hybridattn_bench_cuda] [--peers flash-linear-attention,flashinfer,flashqla]
           [--suite prefill|decode] [--heads 2:8,16:16,...] [--processes 5] [--json FILE]

Ours are the rows of the binary; each peer that can be imported is timed on the same shapes: bf16 inputs, float32
states, a CUDA graph of its calls, medians. Every peer's output is compared with the first one's before its time
counts. Peers take keys and queries already normalised and, FlashInfer, the decays already exponentiated: what
that costs is not in their times, but is in ours. Their kernels are compiled first, by a process for each set of
heads. Runs under a Python that has torch and the peers.
"""
import argparse
import json
import math
import os
import statistics
import subprocess
import sys

# Flash-linear-attention hands its calls over to FlashQLA where that can be imported.
os.environ.setdefault("FLA_FLASH_QLA", "0")
HERE = os.path.dirname(os.path.abspath(__file__))
DIM = 128
SEQUENCES = {"1x65536": [65536], "1x8192": [8192], "1x2048": [2048], "1024+7168": [1024, 7168],
             "1024x8": [1024] * 8, "8192x8": [8192] * 8}


def time_ms(torch, call, rounds: int, calls: int) -> float:
    """Of one call, from replays of a graph of `calls`."""
    call()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    times = []
    for i in range(rounds + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i >= 3:
            times.append(begin.elapsed_time(end) / calls)
    return statistics.median(times)


class Inputs:
    def __init__(self, torch, hk: int, hv: int, lengths: list[int], slow: bool):
        torch.manual_seed(1)
        tokens, dev, bf16 = sum(lengths), "cuda", torch.bfloat16
        normalize = torch.nn.functional.normalize
        self.q = normalize(torch.randn(1, tokens, hk, DIM, device=dev), dim=-1).to(bf16)
        self.k = normalize(torch.randn(1, tokens, hk, DIM, device=dev), dim=-1).to(bf16)
        self.v = torch.randn(1, tokens, hv, DIM, dtype=bf16, device=dev)
        low, high = (-0.02, 0.0) if slow else (-0.69, -0.31)
        self.g = low + (high - low) * torch.rand(1, tokens, hv, device=dev)
        self.beta = 0.5 + 0.23 * torch.rand(1, tokens, hv, device=dev)
        self.state = torch.randn(len(lengths), hv, DIM, DIM, device=dev)  # [K, V]
        ends = [0]
        for length in lengths:
            ends.append(ends[-1] + length)
        self.ends = torch.tensor(ends, dtype=torch.long, device=dev)
        self.longest = max(lengths)


# Each gives the calls to time, by the name of the mode, and what makes [1, tokens, HV, DIM] of their results.
def flash_linear_attention(torch, x: Inputs):
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule as run
    return {"": lambda: run(x.q, x.k, x.v, x.g, x.beta, initial_state=x.state, output_final_state=True,
                            cu_seqlens=x.ends)}, lambda result: result[0]


def flashinfer(torch, x: Inputs):
    from flashinfer.gdn_prefill import chunk_gated_delta_rule as run
    decay, beta = x.g[0].exp().contiguous(), x.beta[0].contiguous()
    state = x.state.transpose(-1, -2).contiguous()
    out, end, ends = torch.empty_like(x.v[0]), torch.empty_like(state), x.ends.int()

    def mode(split):
        return lambda: run(x.q[0], x.k[0], x.v[0], decay, beta, None, state, True, ends, False, out, end,
                           use_cp=split, max_seqlen=x.longest, backend="flashinfer")
    return {"": mode(False), " split": mode(True)}, lambda result: result[0][None]


def flashqla(torch, x: Inputs):
    from flash_qla import chunk_gated_delta_rule as run

    def mode(split):
        return lambda: run(x.q, x.k, x.v, x.g, x.beta, initial_state=x.state, output_final_state=True,
                           cu_seqlens=x.ends, auto_cp=split, enable_fwd_cp_cache=False)
    return {"": mode(False), " split": mode(True)}, lambda result: result[0]


PEERS = {"flash-linear-attention": flash_linear_attention, "flashinfer": flashinfer, "flashqla": flashqla}


def peer_times(peers: list[str], hk: int, hv: int, sequences: str, slow: bool, timed: bool) -> dict[str, float]:
    """Milliseconds by peer and mode. A peer that fails or is off by more than 1e-2 is named and left out."""
    import torch
    x = Inputs(torch, hk, hv, SEQUENCES[sequences], slow)
    times, want = {}, None
    with torch.no_grad():
        for peer in peers:
            try:
                modes, output = PEERS[peer](torch, x)
                for mode, call in modes.items():
                    got = output(call()).float()
                    want = got.clone() if want is None else want
                    off = ((got - want).norm() / want.norm()).item()
                    if not off < 1e-2:
                        raise ArithmeticError(f"off by {off} from {peers[0]}")
                    if timed:
                        long = sum(SEQUENCES[sequences]) > 20000
                        times[peer + mode] = time_ms(torch, call, 12, 2 if long else 8)
            except Exception as problem:  # a peer's own, of whatever kind
                print(f"{peer}, {hk}:{hv} {sequences}: {type(problem).__name__}: {str(problem)[:200]}",
                      file=sys.stderr, flush=True)
    return times


def decode_times(hv: int, batch: int) -> dict[str, float]:
    """Microseconds of one recurrent step over float32 states that are in memory, not in the cache."""
    import torch
    from fla.ops.gated_delta_rule import fused_recurrent_gated_delta_rule as run
    state_bytes = batch * hv * DIM * DIM * 4
    count = max(2, min(64, math.ceil(256e6 / state_bytes)))
    tensor = lambda *shape: torch.randn(*shape, dtype=torch.bfloat16, device="cuda")
    q, k, v = tensor(batch, 1, 16, DIM), tensor(batch, 1, 16, DIM), tensor(batch, 1, hv, DIM)
    g = -torch.rand(batch, 1, hv, device="cuda")
    beta = torch.rand(batch, 1, hv, device="cuda")
    states = torch.randn(count, batch, hv, DIM, DIM, device="cuda")
    kept = []

    def call():
        kept.append([run(q, k, v, g, beta=beta, initial_state=states[i], output_final_state=True,
                         use_qk_l2norm_in_kernel=True, state_v_first=True) for i in range(count)])
    with torch.no_grad():
        return {"flash-linear-attention": time_ms(torch, call, 12, 1) * 1e3 / count}


def warm(o: argparse.Namespace) -> None:
    """Compiles by a process for each set of heads, as many at once as asked for."""
    waiting = [heads for heads in o.heads]
    running = []
    while waiting or running:
        while waiting and len(running) < o.processes:
            running.append(subprocess.Popen([sys.executable, os.path.abspath(__file__), "--warm-only", "--heads",
                                             waiting.pop(), "--peers", ",".join(o.peers)]))
        running.pop(0).wait()


def our_rows(o: argparse.Namespace) -> list[dict]:
    done = subprocess.run([o.binary, "--json", f"gdn-{o.suite}"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{o.binary}: exit {done.returncode}\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.path.join(HERE, "../../build/cuda/bin/hybridattn_bench_cuda"))
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--suite", choices=("prefill", "decode"), default="prefill")
    parser.add_argument("--heads", default="2:8,16:16,16:32,16:48,16:64")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--json", help="write all figures here")
    parser.add_argument("--warm-only", action="store_true", help=argparse.SUPPRESS)
    o = parser.parse_args()
    o.peers, o.heads = o.peers.split(","), o.heads.split(",")
    for peer in o.peers:
        if peer not in PEERS:
            parser.error(f"--peers: {peer}, must be of {', '.join(PEERS)}")
    return o


def compare(rows: list[dict], key: str, peers_of) -> list[dict]:
    compared = []
    for row in rows:
        peers = peers_of(row)
        if not peers:
            continue
        best = min(peers, key=peers.get)
        ratio = row[key] / peers[best]
        compared.append(row | {"peers": peers, "best": best, "ratio": ratio})
        name = " ".join(str(row[k]) for k in ("hk", "hv", "sequences", "gates", "batch") if k in row)
        print(f"{name:28} ours {row[key]:9.4g}   best {peers[best]:9.4g} {best:24} ratio {ratio:.2f}", flush=True)
    return compared


def main() -> None:
    o = parse_options()
    if o.warm_only:
        hk, hv = map(int, o.heads[0].split(":"))
        for sequences in SEQUENCES:
            peer_times(o.peers, hk, hv, sequences, False, False)
        return
    if o.suite == "prefill":
        warm(o)
    rows = our_rows(o)
    print(f"{rows[0]['device']}, copy {rows[0]['copy_tb_per_s']:.2f} TB/s")
    if o.suite == "prefill":
        wanted = [r for r in rows[1:] if f"{r['hk']}:{r['hv']}" in o.heads]
        compared = compare(wanted, "ms", lambda r: peer_times(o.peers, r["hk"], r["hv"], r["sequences"],
                                                             r["gates"] == "slow", True))
    else:
        compared = compare([r for r in rows[1:] if r["state"] == "f32"], "step_us",
                           lambda r: decode_times(r["hv"], r["batch"]))
    if not compared:
        sys.exit("no peer could be timed")
    mean = math.exp(statistics.mean(math.log(r["ratio"]) for r in compared))
    worst = max(compared, key=lambda r: r["ratio"])
    print(f"{len(compared)} rows: geometric mean {mean:.3f}, worst {worst['ratio']:.2f}")
    if o.json:
        with open(o.json, "w") as file:
            json.dump({"device": rows[0], "rows": compared}, file, indent=1)


if __name__ == "__main__":
    main()
