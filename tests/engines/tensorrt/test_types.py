"""The TensorRT adaptor against the published type stubs of TensorRT 10.13.

The stubs as published are not valid Python (a parameter is called ``in``, another without a default follows one
with), so no type checker reads them, and ``make check`` leaves them out. Here a copy is mended and the adaptor is
checked against it.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = ("api", "build", "session", "target")
# Everything but the stubs is left out: what else the modules import is checked by `make check`.
CONFIG = """
[mypy]
strict = true
warn_return_any = false
warn_unused_ignores = false
disallow_subclassing_any = false
follow_imports = skip
mypy_path = {folder}
[mypy-tensorrt.*,tensorrt_bindings.*]
follow_imports = normal
ignore_errors = true
"""


def mended_stubs(folder: Path) -> None:
    """Copies the stubs into ``folder`` and mends what is not Python."""
    spec = importlib.util.find_spec("tensorrt_stubs")
    if spec is None or spec.origin is None:
        pytest.skip("tensorrt-stubs is not installed")
    packages = Path(spec.origin).parents[1]
    for name in ("tensorrt", "tensorrt_bindings"):
        (folder / name).mkdir()
        for stub in (packages / name).glob("*.pyi"):
            shutil.copy(stub, folder / name)
    stub = folder / "tensorrt_bindings" / "tensorrt.pyi"
    text = re.sub(r"^(    def .*)\bin: ", r"\1in_: ", stub.read_text(), flags=re.MULTILINE)
    stub.write_text(text.replace("channel_axis: int) -> IScaleLayer", "channel_axis: int = 0) -> IScaleLayer"))


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs mypy on the adaptor with the mended stubs in ``folder``."""
    config = folder / "mypy.ini"
    config.write_text(CONFIG.format(folder=folder))
    options = ["--config-file", str(config), "--cache-dir", str(folder / "cache")]
    command = [sys.executable, "-m", "mypy", *options, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_adaptor_is_typed_as_the_library_is(tmp_path: Path) -> None:
    mended_stubs(tmp_path)
    result = check(tmp_path, *(f"-mradixrt.engines.tensorrt.{module}" for module in MODULES))
    assert result.returncode == 0, result.stdout + result.stderr
    # That the stubs are read at all: a call that TensorRT does not have must be an error with the same settings.
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import tensorrt as trt\ndef f(b: trt.Builder) -> None:\n    b.build_cuda_engine()\n")
    result = check(tmp_path, str(wrong))
    assert 'has no attribute "build_cuda_engine"' in result.stdout, result.stdout + result.stderr
