"""Holds what the two forms of the library show to a linker.

Usage: symbol_test.py SHARED STATIC. The shared form shows names of the API and nothing else; the static
form has no name that another library's copy could meet; what the public headers declare is visible.
"""
import re
import subprocess
import sys

# Namespaces of the library's own insides.
INNER = re.compile(r"hybridattn::(core|ops|cpu|cache|backend|reference)::")
API = re.compile(r"((vtable|typeinfo|typeinfo name) for )?hybridattn::")
# Functions and classes of namespace hybridattn itself: what the public headers declare, but for the
# insides of Impl classes and what a file keeps to itself.
DECLARED = re.compile(r"hybridattn::(?!\(anonymous namespace\))(?!.*::Impl::)")


def symbols(command: list[str], pick) -> list[str]:
    """Demangled names of the lines that `pick` makes a name of."""
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    names = sorted({name for line in lines if (name := pick(line.split()))})
    return subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True,
                          check=True).stdout.splitlines()


def defined(fields: list[str]) -> bool:
    return len(fields) == 8 and fields[4] in ("GLOBAL", "WEAK") and fields[6].isdigit()


def violations(shared: str, static: str) -> list[str]:
    shown = symbols(["readelf", "--dyn-syms", "--wide", shared], lambda f: f[7] if defined(f) else "")
    read_static = ["readelf", "--syms", "--wide", static]
    strong = symbols(read_static, lambda f: f[7] if defined(f) and f[4] == "GLOBAL" else "")
    hidden = symbols(read_static, lambda f: f[7] if defined(f) and f[4] == "GLOBAL" and f[5] == "HIDDEN" else "")
    if len(shown) < 100 or len(strong) < len(shown):
        return [f"only {len(shown)} and {len(strong)} names were read"]
    found = [f"the shared library shows {name}" for name in shown if not API.match(name) or INNER.search(name)]
    found += [f"the static library defines {name}" for name in strong
              if not name.startswith(("hybridattn::", "hybridattn_hwy::"))]
    found += [f"HYBRIDATTN_API is missing: {name}" for name in hidden
              if DECLARED.match(name) and not INNER.match(name)]
    return found


if __name__ == "__main__":
    problems = violations(*sys.argv[1:])
    print("\n".join(problems) if problems else "only the API is visible")
    sys.exit(1 if problems else 0)
