"""Packs TensorRT with a Python that runs it, for a machine that has neither. ``make device-kit ARGS=--tensorrt``.

TensorRT 8.5.3.1 and 8.6.0 are the newest whose libraries, builder included, are an ordinary wheel; they are for CPython
3.6 to 3.10. So an interpreter of one of these travels with the wheel, NumPy, NVIDIA's cuda-python, through which
``run.py`` reaches the driver, and the CUDA runtime. TensorRT's plugin library is linked to cuBLAS and cuDNN, which are
larger than all of it and which no network here uses: small stand-ins satisfy the loader, and plans are built without
tactics of theirs (``--tactics EDGE_MASK_CONVOLUTIONS,JIT_CONVOLUTIONS``, which ``gpu_check.py`` takes by itself then).
NVIDIA's files travel as they are.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from radixrt.errors import InputError

NAME = "tensorrt"
VERSION = "8.5.3.1"
WHEELS = ("numpy==1.22.4", "cuda-python==11.8.3", "nvidia-cuda-runtime-cu11==11.8.89")
PYTHONS = ("3.9", "3.10", "3.8")
PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")
ABSENT = {"cublas": 11, "cublasLt": 11, "cudnn": 8}
LAUNCHER = """#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
LD_LIBRARY_PATH=$here/lib:$here/site/nvidia/cuda_runtime/lib:$here/site/tensorrt${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH PYTHONHOME="$here/home" PYTHONPATH="$here/site" PYTHONDONTWRITEBYTECODE=1
exec "$here/home/bin/python" "$@"
"""
# What of an interpreter no network needs.
LEFT_OUT = shutil.ignore_patterns(
    "test", "tests", "site-packages", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "config-*",
    "__pycache__", "*.a",
)  # fmt: skip


def find_python() -> Path:
    """An interpreter here that the wheels are for.

    Raises:
        InputError: there is none.
    """
    for version in PYTHONS:
        places = [
            shutil.which(f"python{version}"),
            *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")),
        ]
        for place in filter(None, places):
            asked = subprocess.run([place, "-c", ""], capture_output=True, check=False)
            if asked.returncode == 0:
                return Path(place)
    raise InputError(
        f"TensorRT {VERSION} needs one of Python {', '.join(PYTHONS)}: install one, or name it with --python"
    )


def make(folder: Path, python: Path) -> None:
    """Fills a folder with a launcher ``python``, the interpreter and the packages.

    Raises:
        InputError: a package cannot be had, or what was put together does not import TensorRT.
    """
    asked = "import sys, json; print(json.dumps([sys.base_prefix, '%d.%d' % sys.version_info[:2]]))"
    prefix, version = json.loads(subprocess.run([python, "-c", asked], capture_output=True, check=True).stdout)
    _packages(folder / "site", version)
    _interpreter(Path(prefix), version, folder)
    _stand_ins(folder / "site" / NAME, folder / "lib")
    launcher = folder / "python"
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)
    tried = "import numpy, cuda.cuda, tensorrt; print(tensorrt.__version__)"
    done = subprocess.run([launcher, "-c", tried], capture_output=True, text=True, check=False)
    if done.returncode or done.stdout.strip() != VERSION:
        raise InputError(f"TensorRT {VERSION} under {python} does not start: {done.stderr.strip()[-300:]}")


def _packages(site: Path, version: str) -> None:
    wheels = site.with_name("wheels")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        str(wheels),
    ]
    command += ["--python-version", version, *(word for name in PLATFORMS for word in ("--platform", name))]
    done = subprocess.run(
        [*command, f"{NAME}=={VERSION}", *WHEELS], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise InputError(f"the wheels of TensorRT {VERSION} cannot be had: {done.stderr.strip()[-300:]}")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    shutil.rmtree(wheels)


def _interpreter(prefix: Path, version: str, folder: Path) -> None:
    """The interpreter under ``home``, and the libraries of the system that its modules are linked to under ``lib``."""
    library = f"lib/python{version}"
    shutil.copytree(prefix / library, folder / "home" / library, ignore=LEFT_OUT)
    (folder / "home" / "bin").mkdir()
    shutil.copy(prefix / "bin" / f"python{version}", folder / "home" / "bin" / "python")
    (folder / "lib").mkdir()
    for shared in prefix.glob(f"lib/libpython{version}.so*"):
        shutil.copy(shared, folder / "lib")
    for module in (folder / "home" / library / "lib-dynload").glob("_ctypes.*.so"):
        linked = subprocess.run(["ldd", module], capture_output=True, text=True, check=True).stdout
        for path in re.findall(r"=> (\S*libffi\S*)", linked):
            shutil.copy(path, folder / "lib")


def _stand_ins(libraries: Path, folder: Path) -> None:
    """Libraries that have the symbols which the loader wants of those that are absent, and do nothing."""
    files = [str(path) for path in libraries.glob("*.so*")]
    wanted = subprocess.run(["nm", "-D", "--undefined-only", *files], capture_output=True, text=True, check=True).stdout
    for name, version in ABSENT.items():
        soname = f"lib{name}.so.{version}"
        symbols = sorted(set(re.findall(rf"(\w+)@{re.escape(soname)}", wanted)))
        source, exported = folder / f"{name}.c", folder / f"{name}.map"
        source.write_text("".join(f"int {symbol}(void) {{ return 1; }}\n" for symbol in symbols))
        exported.write_text(f"{soname} {{ global: *; }};\n")
        linker = [f"-Wl,-soname,{soname}", f"-Wl,--version-script={exported}"]
        command = ["gcc", "-shared", "-fPIC", "-w", str(source), "-o", str(folder / soname), *linker]
        subprocess.run(command, check=True)
        source.unlink()
        exported.unlink()
