"""Uses an installation as a stranger does: it is installed, moved elsewhere, and built against.

Usage: install_test.py CASE --source REPOSITORY --build FOLDER --compiler CXX, where CASE is `prefix`,
which makes the installation, or a test of it. Exits 1 with the reason when something is wrong.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

PROBLEM = "install test: "
# What the README's code uses and does not declare.
README_NAMES = """
#include "hybridattn/hybridattn.h"
using hybridattn::ConstTensorView, hybridattn::TensorView;
void step(void* k_pages, long num_pages, long page_size, long kv_heads, long head_dim, TensorView v_view,
          TensorView recurrent_view, TensorView conv_view, hybridattn::RadixLinearAttention gdn_layer,
          hybridattn::RadixAttention attention_layer, ConstTensorView mixed_qkv, ConstTensorView a,
          ConstTensorView b, ConstTensorView z, ConstTensorView norm_weight, ConstTensorView q,
          ConstTensorView k, ConstTensorView v, TensorView out)
"""


class Installation:
    def __init__(self, source: pathlib.Path, build: pathlib.Path, compiler: str):
        self.source, self.build, self.compiler = source, build, compiler
        self.work = build / "install_test"
        self.prefix = self.work / "moved"
        self.project = source / "tests/install/project"

    def library_folder(self) -> pathlib.Path:
        return next(self.prefix.rglob("libhybridattn.a")).parent

    # ---- The installation.

    def prefix_case(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        first = self.work / "first"
        run("cmake", "--install", self.build, "--prefix", first)
        first.rename(self.prefix)

    def headers(self) -> None:
        """The installed headers are the public ones, and each compiles alone, twice included."""
        public, installed = (
            {str(f.relative_to(root)) for f in root.rglob("*") if f.is_file()}
            for root in (self.source / "include", self.prefix / "include"))
        check(installed == public, f"installed headers differ by {sorted(installed ^ public)}")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(self.compile_header, sorted(public)))

    def compile_header(self, header: str) -> None:
        run(self.compiler, "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
            "-I", self.prefix / "include", "-x", "c++", "-",
            input=f'#include "{header}"\n#include "{header}"\n')

    def readme(self) -> None:
        """The README's code compiles as it stands there."""
        code = re.search(r"```cpp\n(.*?)```", (self.source / "README.md").read_text(), re.DOTALL)[1]
        run(self.compiler, "-std=c++20", "-fsyntax-only", "-I", self.prefix / "include", "-x", "c++", "-",
            input=README_NAMES + "{\n" + code + "}\n")

    def no_paths(self) -> None:
        """Text files of the installation name no folder of this machine."""
        for file in self.prefix.rglob("*"):
            if file.suffix in (".cmake", ".pc"):
                for folder in (self.source, self.build, self.work):
                    check(str(folder) not in file.read_text(), f"{file} names {folder}")

    # ---- Programs against it.

    def cmake_project(self, form: str, *options: str, wanted: str) -> None:
        build = self.work / f"cmake_{form or 'default'}_{wanted}"
        run("cmake", "-S", self.project, "-B", build, f"-DFORM={form}", *options,
            f"-DCMAKE_PREFIX_PATH={self.prefix}", f"-DCMAKE_CXX_COMPILER={self.compiler}")
        run("cmake", "--build", build)
        self.run_outside(build / "outside", wanted)

    def run_outside(self, program: pathlib.Path, wanted: str) -> None:
        needed = run("readelf", "--dynamic", program)
        check(("libhybridattn.so" in needed) == (wanted == "shared"), f"{program} is not {wanted}")
        folders = {} if wanted == "static" else {"LD_LIBRARY_PATH": str(self.library_folder())}
        print(run(program, env=os.environ | folders).strip())

    def find_package(self) -> None:
        self.cmake_project("static", wanted="static")
        self.cmake_project("shared", wanted="shared")
        self.cmake_project("", "-DBUILD_SHARED_LIBS=ON", wanted="shared")
        self.cmake_project("", "-DBUILD_SHARED_LIBS=OFF", wanted="static")

    def find_package_refusals(self) -> None:
        for options, reason in (
                (["-DFORM=cuda"], 'no component "cuda" here, must be static or shared'),
                (["-DVERSION=99.0"], "compatible with requested version"),
                (["-DVERSION=0.0"], "compatible with requested version")):
            build = self.work / "refused"
            shutil.rmtree(build, ignore_errors=True)
            done = subprocess.run(
                ["cmake", "-S", self.project, "-B", build, *options, f"-DCMAKE_PREFIX_PATH={self.prefix}"],
                capture_output=True, text=True)
            said = " ".join(done.stderr.split())
            check(done.returncode != 0 and reason in said, f"{options}: wanted \"{reason}\", got: {said}")

    def pkg_config(self) -> None:
        for name, flags, more, wanted in (
                ("hybridattn", [], [], "shared"),
                ("hybridattn-static", [], [], "static"),
                ("hybridattn", ["--static"], ["-static"], "static")):
            said = run("pkg-config", *flags, "--cflags", "--libs", name,
                       env=os.environ | {"PKG_CONFIG_PATH": str(self.library_folder() / "pkgconfig")})
            check(("-DHYBRIDATTN_STATIC" in said) == (wanted == "static"), f"{name} {flags}: {said}")
            program = self.work / f"pkg_config_{wanted}"
            run(self.compiler, "-std=c++20", self.project / "main.cc", *more, *said.split(), "-o", program)
            self.run_outside(program, wanted)

    def packages(self) -> None:
        """The Debian packages: names, relations, and who has what."""
        folder = self.work / "packages"
        run("cpack", "-G", "DEB", "--config", self.build / "CPackConfig.cmake", "-B", folder)
        found = {run("dpkg-deb", "--field", deb, "Package").strip(): deb for deb in folder.glob("*.deb")}
        library = next(name for name in found if name.startswith("libhybridattn0."))
        wanted = {library: "libhybridattn.so.", "libhybridattn-dev": "/hybridattn/hybridattn.h"}
        if (self.prefix / "bin/hybridattn").exists():
            wanted["hybridattn"] = "/usr/bin/hybridattn"
        check(found.keys() == wanted.keys(), f"packages are {sorted(found)}, wanted {sorted(wanted)}")
        for name, file in wanted.items():
            check(file in run("dpkg-deb", "--contents", found[name]), f"{name} is without {file}")
        depends = run("dpkg-deb", "--field", found["libhybridattn-dev"], "Depends")
        check(f"{library} (=" in depends, f"libhybridattn-dev depends on {depends}")
        check("libc6" in run("dpkg-deb", "--field", found[library], "Depends"), "no shlibdeps")


def check(right: bool, problem: str) -> None:
    if not right:
        sys.exit(PROBLEM + problem)


def run(*command, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    check(done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    cases = {"prefix": Installation.prefix_case} | {
        name: getattr(Installation, name)
        for name in ("headers", "readme", "no_paths", "find_package", "find_package_refusals", "pkg_config", "packages")}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=cases)
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--compiler", required=True)
    o = parser.parse_args()
    cases[o.case](Installation(o.source.resolve(), o.build.resolve(), o.compiler))


if __name__ == "__main__":
    main()
