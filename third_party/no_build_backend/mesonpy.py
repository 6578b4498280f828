"""A stand-in for numpy's build backend that runs none of numpy's code.

`pip download` prepares the metadata of every source archive, which for numpy means its whole
configure run. With this module first on PYTHONPATH (and --no-build-isolation), pip gets a METADATA
file at once: all we want from the archive is the copy of Highway inside it.
"""
import os


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    name = "numpy-2.4.6.dist-info"
    folder = os.path.join(metadata_directory, name)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "METADATA"), "w", encoding="utf-8") as out:
        out.write("Metadata-Version: 2.1\nName: numpy\nVersion: 2.4.6\n")
    with open(os.path.join(folder, "WHEEL"), "w", encoding="utf-8") as out:
        out.write("Wheel-Version: 1.0\nGenerator: none\nRoot-Is-Purelib: false\nTag: py3-none-any\n")
    return name


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    raise RuntimeError("this backend only serves downloads")
