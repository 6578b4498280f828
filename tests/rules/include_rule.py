"""Holds the order of the layers: a file may include only what its folder is allowed to.

Usage: include_rule.py REPOSITORY. Prints each violation and exits 1 when there is one.
"""
import pathlib
import re
import sys

# folder: prefixes of project headers that its files may include. The longest folder that fits decides.
ALLOWED = {
    "include/hybridattn": ["hybridattn/"],
    "src/core": ["hybridattn/", "src/core/"],
    "src/ops": ["hybridattn/", "src/core/", "src/ops/"],
    "src/cpu": ["hybridattn/", "src/core/", "src/cpu/", "src/ops/*_params.h"],
    "src/cuda": ["hybridattn/", "src/core/", "src/cuda/", "src/ops/*_params.h"],
    "src/cache": ["hybridattn/", "src/core/", "src/cache/"],
    "src/attention": ["hybridattn/", "src/core/", "src/cache/", "src/ops/", "src/attention/"],
    "src": ["hybridattn/", "src/"],
    "engine": ["hybridattn/", "engine/"],
    "bench": ["hybridattn/", "bench/"],
    "apps": ["hybridattn/", "engine/", "bench/", "apps/"],
    "examples": ["hybridattn/", "examples/"],
}
# Public headers stand on the standard library alone.
PUBLIC_SYSTEM = re.compile(r"^[a-z_]+$")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
THIRD_PARTY = ("hwy/", "nlohmann/", "CLI/", "gtest/", "gmock/", "pcre2.h")


def allowed_for(path: str) -> list[str]:
    folders = [f for f in ALLOWED if path.startswith(f + "/")]
    return ALLOWED[max(folders, key=len)] if folders else []


def fits(header: str, rule: str) -> bool:
    return pathlib.PurePath(header).match(rule) if "*" in rule else header.startswith(rule)


def violations(root: pathlib.Path) -> list[str]:
    found = []
    for folder in ("include", "src", "engine", "bench", "apps", "examples"):
        for file in sorted((root / folder).rglob("*")):
            if file.suffix not in (".h", ".cc", ".cu", ".cuh"):
                continue
            name = file.relative_to(root).as_posix()
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
                match = INCLUDE.match(line)
                if not match:
                    continue
                quoted, header = match[1] == '"', match[2]
                own = header.startswith(("hybridattn/", "src/", "engine/", "bench/", "apps/", "tests/",
                                         "examples/"))
                if own and not any(fits(header, rule) for rule in allowed_for(name)):
                    found.append(f"{name}:{number}: may not include {header}")
                if folder == "include" and not own and not PUBLIC_SYSTEM.match(header):
                    found.append(f"{name}:{number}: a public header includes <{header}>")
                if quoted and not own and not header.startswith(THIRD_PARTY):
                    found.append(f"{name}:{number}: \"{header}\" is neither ours nor third-party")
    return found


def main() -> int:
    found = violations(pathlib.Path(sys.argv[1]))
    print("\n".join(found) if found else "all includes follow the order of the layers")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
