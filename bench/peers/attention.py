#!/usr/bin/env python3
"""Paged attention on one GPU: hybridattn and FlashInfer's kernels on the same card, and FlashInfer's time over ours.

    attention.py [--binary build/cuda/bin/hybridattn_bench_cuda] [--peer build/peers/flashinfer_peer]
                 [--suites attn-decode,attn-extend,attn-prefill] [--rounds 1] [--build-only] [--json FILE]

FlashInfer is called from C++ (flashinfer/*.cu beside this file): no Python is in its times. Where --peer does not
exist it is built by nvcc for sm_90a from the headers of the pinned wheel, which pip downloads; about two minutes.
Both time calls inside CUDA graphs over caches that each call finds in memory, medians; planning is timed by itself.
FA2 is the kernel that FlashInfer takes for decode steps too; prefill is timed with FA3 as well, and the better one
counts. A mixed step is FA2 for the decode rows and FA3 for the others, one after the other.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
WHEEL = ("flashinfer-python==0.7.2.post1 "
         "--hash=sha256:bfdc18b9e1e4d8d0730fe4343dc0e284cd0c160086de80f99888bc4867922d49")
FOLDERS = ["include", "cccl/libcudacxx/include", "cutlass/include", "cutlass/tools/util/include"]
UNITS = {"fa2": ["fa2.cu", "-Dflashinfer=peer_fa2"],
         "fa2_f8": ["fa2.cu", "-DKV_F8", "-Dflashinfer=peer_fa2_f8"],
         "fa3": ["fa3.cu", "-Dflashinfer=peer_fa3"]}


def unpack_headers(folder: str) -> str:
    """Downloads the pinned wheel and unpacks what is compiled."""
    data = os.path.join(folder, "flashinfer", "data")
    if os.path.exists(data):
        return data
    os.makedirs(folder, exist_ok=True)
    pins = os.path.join(folder, "pins.txt")
    with open(pins, "w") as out:
        out.write(WHEEL + "\n")
    subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "-r", pins,
                    "-d", folder], check=True)
    wheel = next(name for name in os.listdir(folder) if name.endswith(".whl"))
    wanted = tuple(f"flashinfer/data/{name}/" for name in FOLDERS)
    with zipfile.ZipFile(os.path.join(folder, wheel)) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(wanted)])
    return data


def build(peer: str) -> None:
    folder = os.path.dirname(peer)
    data = unpack_headers(folder)
    source = os.path.join(HERE, "flashinfer")
    common = ["nvcc", "-std=c++20", "-O3", "-DNDEBUG", "-gencode", "arch=compute_90a,code=sm_90a"]
    objects = []
    for name, arguments in UNITS.items():
        objects.append(os.path.join(folder, name + ".o"))
        # Each unit has FlashInfer's names under one of its own: they are not the same in all.
        subprocess.run(common + ["--expt-relaxed-constexpr", "-use_fast_math", "-w"] +
                       [f"-I{os.path.join(data, name)}" for name in reversed(FOLDERS)] +
                       ["-I" + ROOT, "-c", os.path.join(source, arguments[0]), "-o", objects[-1]] + arguments[1:],
                       check=True)
    subprocess.run(common + ["-I" + ROOT, "-cudart", "static", "-o", peer, os.path.join(source, "main.cu")] + objects,
                   check=True)


def lines(command: list[str]) -> list[dict]:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def key_of(row: dict) -> tuple[str, dict[str, str]] | None:
    """A row's name, and the steps that the peer runs for it."""
    if "batch" in row:
        name = f"decode {row['batch']} x {row['keys']}, page {row['page']}, {row['cache']}"
        return name, {"all": f"{row['page']}:{row['cache']}:1x{row['keys']}*{row['batch']}"}
    if "step" not in row:
        return None
    words = row["step"].split()
    name, page = f"{row['step']}, page {row['page']}", row["page"]
    if words[0] == "prefill":
        return name, {"all": f"{page}:bf16:{words[1]}x{words[1]}"}
    if "decodes" in row["step"]:  # "32 decodes at 4096 and 2048 new"
        return name, {"fa2": f"{page}:bf16:1x{words[3]}*{words[0]}", "fa3": f"{page}:bf16:{words[5]}x{words[5]}"}
    if words[1] == "x":  # "8 x 64 of 8192"
        return name, {"all": f"{page}:bf16:{words[2]}x{words[4]}*{words[0]}"}
    return name, {"all": f"{page}:bf16:{words[0]}x{words[2]}"}  # "512 of 32768"


def time_peer(peer: str, wanted: dict[str, dict[str, str]]) -> dict[str, dict[str, dict]]:
    """Of each name: the rows by kernel; a mixed step's under "fa2+fa3"."""
    arguments = [f"{i}/{part}={text}" for i, steps in enumerate(wanted.values()) for part, text in steps.items()]
    names = list(wanted)
    out: dict[str, dict[str, dict]] = {name: {} for name in names}
    for row in lines([peer] + arguments):
        index, part = row["step"].split("/")
        if part in ("all", row["kernel"]):
            out[names[int(index)]][row["kernel"]] = row
    for name, steps in wanted.items():
        if "all" not in steps:
            both = out[name]
            out[name] = {"fa2+fa3": {key: both["fa2"][key] + both["fa3"][key] for key in ("us", "plan_us")}}
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.path.join(ROOT, "build/cuda/bin/hybridattn_bench_cuda"))
    parser.add_argument("--peer", default=os.path.join(ROOT, "build/peers/flashinfer_peer"))
    parser.add_argument("--suites", default="attn-decode,attn-extend,attn-prefill")
    parser.add_argument("--rounds", type=int, default=1, help="of both, one after the other; medians count")
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--json")
    args = parser.parse_args()
    if not os.path.exists(args.peer):
        build(args.peer)
    if args.build_only:
        return 0
    ours: dict[str, list[dict]] = {}
    theirs: dict[str, dict[str, list[dict]]] = {}
    wanted: dict[str, dict[str, str]] = {}
    for _ in range(args.rounds):
        for row in lines([args.binary, "--json"] + args.suites.split(",")):
            named = key_of(row)
            if named is not None:
                wanted[named[0]] = named[1]
                ours.setdefault(named[0], []).append(row)
        for name, kernels in time_peer(args.peer, wanted).items():
            for kernel, row in kernels.items():
                theirs.setdefault(name, {}).setdefault(kernel, []).append(row)
    results = []
    print(f"{'step':44s} {'us':>9s} {'plan':>7s}  {'peer':>9s} {'plan':>7s} kernel   ratio")
    for name, rows in ours.items():
        median = {key: statistics.median(row[key] for row in rows) for key in ("us", "plan_us")}
        peers = {kernel: {key: statistics.median(row[key] for row in timed) for key in ("us", "plan_us")}
                 for kernel, timed in theirs[name].items()}
        best = min(peers, key=lambda kernel: peers[kernel]["us"])
        ratio = peers[best]["us"] / median["us"]
        print(f"{name:44s} {median['us']:9.1f} {median['plan_us']:7.1f}  {peers[best]['us']:9.1f} "
              f"{peers[best]['plan_us']:7.1f} {best:8s} {ratio:.3f}")
        results.append({"step": name, "ours": median, "peers": peers, "ratio": ratio})
    if args.json:
        with open(args.json, "w") as out:
            json.dump(results, out, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
