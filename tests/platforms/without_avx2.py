"""Runs the program and the tests of the ops on an x86-64 processor without AVX2, under qemu-user.

Usage: without_avx2.py BUILD REPOSITORY. The build is an ordinary one, for x86-64: what is proved is that
nothing outside of the kernels of an instruction set uses its instructions, that the baseline kernels are
chosen, and that asking for others is refused. Exits 1 with the reason when something is wrong.
"""
import json
import os
import pathlib
import subprocess
import sys

# The last processors before AVX; AVX code ends in an illegal instruction there.
PROCESSOR = ["qemu-x86_64", "-cpu", "Nehalem"]
GREEDY_TOKENS = 16


def run(command: list, isa: str | None = None) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "HYBRIDATTN_ISA"}
    if isa:
        environment["HYBRIDATTN_ISA"] = isa
    return subprocess.run(PROCESSOR + [str(part) for part in command], capture_output=True, text=True,
                          env=environment)


def check(right: bool, problem: str) -> None:
    if not right:
        sys.exit(f"without AVX2: {problem}")


def check_program(program: pathlib.Path, model: pathlib.Path) -> None:
    info = run([program, "info", "--model", model, "--json"])
    check(info.returncode == 0 and json.loads(info.stdout)["isa"] == "baseline", info.stdout + info.stderr)

    case = json.loads((model / "expected.json").read_text())["cases"][0]
    wanted = case["greedy"][:GREEDY_TOKENS]
    done = run([program, "generate", "--model", model, "--prompt", case["prompt"], "--dtype", "f32",
                "--max-new-tokens", GREEDY_TOKENS, "--json"])
    check(done.returncode == 0, done.stderr)
    check(json.loads(done.stdout)["ids"] == wanted, f"generate gives {done.stdout}, wanted {wanted}")

    for isa in ("avx2", "avx512", "avx512_bf16"):
        refused = run([program, "info", "--model", model], isa=isa)
        reason = f"instruction set {isa} was asked for; this processor has baseline at best"
        check(refused.returncode == 1 and reason in refused.stderr, f"{isa}: {refused.stderr}")


def left_out(root: pathlib.Path) -> list[str]:
    """What takes minutes under emulation: the list of the preset aarch64."""
    presets = json.loads((root / "CMakePresets.json").read_text())["testPresets"]
    preset = next(p for p in presets if p["name"] == "aarch64")
    return preset["filter"]["exclude"]["name"].split("|")


def main() -> None:
    build, root = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    check_program(build / "bin/hybridattn", root / "assets/tiny-model")
    tests = run([build / "bin/library_tests", f"--gtest_filter=-{':'.join(left_out(root))}", "--gtest_brief=1"])
    print(tests.stdout[-2000:])
    check(tests.returncode == 0, tests.stderr)
    check("[  PASSED  ]" in tests.stdout, "no test ran")


if __name__ == "__main__":
    main()
