"""Holds that examples stay short: each program is under 60 lines.

Usage: example_rule.py REPOSITORY. Prints each violation and exits 1 when there is one.
"""
import pathlib
import sys

MAX_LINES = 59


def violations(root: pathlib.Path) -> list[str]:
    programs = sorted((root / "examples").glob("*.cc"))
    if not programs:
        return ["examples: no program found"]
    found = []
    for file in [*programs, root / "tests/install/project/main.cc"]:
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > MAX_LINES:
            found.append(f"{file.relative_to(root)}: {lines} lines, must be at most {MAX_LINES}")
    return found


def main() -> int:
    found = violations(pathlib.Path(sys.argv[1]))
    print("\n".join(found) if found else "all examples are short")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
