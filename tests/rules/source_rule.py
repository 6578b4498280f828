"""Holds three rules of the sources: files stay under 500 lines, address arithmetic is 64-bit, and the
library neither prints nor aborts.

Usage: source_rule.py REPOSITORY. Prints each violation and exits 1 when there is one.
"""
import pathlib
import re
import sys

MAX_LINES = 500
GENERATED = {"engine/text/unicode_tables.cc"}
# An index product narrowed to int, where it then multiplies a stride.
NARROW = re.compile(r"static_cast<(int|std::int32_t)>\([^)]*(stride|offset)[^)]*\)\s*\*")
LOUD = re.compile(r"\b(printf|fprintf|abort|exit|terminate)\s*\(|std::c(out|err)\b")


def violations(root: pathlib.Path) -> list[str]:
    found = []
    for folder in ("include", "src", "engine", "apps", "tests"):
        for file in sorted((root / folder).rglob("*")):
            if file.suffix not in (".h", ".cc", ".cu", ".cuh", ".py"):
                continue
            name = file.relative_to(root).as_posix()
            lines = file.read_text(encoding="utf-8").splitlines()
            if len(lines) > MAX_LINES and name not in GENERATED:
                found.append(f"{name}: {len(lines)} lines, must be at most {MAX_LINES}")
            for number, line in enumerate(lines, 1):
                code = line.split("//")[0]
                if folder in ("include", "src") and LOUD.search(code):
                    found.append(f"{name}:{number}: the library prints or stops: {code.strip()}")
                if folder in ("include", "src") and NARROW.search(code):
                    found.append(f"{name}:{number}: 32-bit address arithmetic: {code.strip()}")
    return found


def main() -> int:
    found = violations(pathlib.Path(sys.argv[1]))
    print("\n".join(found) if found else "all sources follow the rules")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
