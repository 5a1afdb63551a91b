"""Puts the stand-alone runner into a bundle: real modules of this package, copied as they are.

``run.py`` is ``engines/bundle/run_bundle.py``; beside it lie ``bundle_files.py``, which reads the bundle and what it is
given, ``answers.py``, which reads outputs on the device as it read them in the report, ``calibration/data/pixels.py``,
so that images are prepared on the device by the very code that prepared them for calibration and validation, and three
modules of ``engines/tensorrt``, which build a plan there and reach the GPU. Where the runner may have to build a plan
with TensorRT 8 (JetPack 5), whose parser reads neither opset 18 nor FP16 scales nor INT8 weights, the graph lies there
in that older form too: the device has nothing that could convert it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import radixrt.calibration.data
import radixrt.engines.tensorrt
from radixrt.errors import InputError

RUNNER_NAME = "run.py"
LEGACY_NAME = "deploy-trt8.onnx"


def write_runner(folder: Path) -> None:
    """Copies the runner, which needs nothing of RadixRT, into a bundle."""
    shutil.copyfile(Path(__file__).with_name("run_bundle.py"), folder / RUNNER_NAME)
    for module in travelling_modules():
        shutil.copyfile(module, folder / module.name)


def travelling_modules() -> list[Path]:
    """The modules that lie beside ``run.py`` in a bundle; each keeps to Python 3.8 and imports only the others."""
    here, tensorrt = Path(__file__).parent, Path(radixrt.engines.tensorrt.__path__[0])
    pixels = Path(radixrt.calibration.data.__path__[0]) / "pixels.py"
    names = ("bundle_plan.py", "cuda_driver.py", "cuda_graph.py")
    return [here / "answers.py", here / "bundle_files.py", *(tensorrt / name for name in names), pixels]


def write_legacy_graph(deploy: Path) -> Path | None:
    """Writes the form of a deploy graph that TensorRT 8 reads beside it.

    Returns:
        The file; None where the deploy graph itself will do, or where it has no such form (the runner then says what
        the parser of the device says).

    Raises:
        InputError: the deploy graph is no ONNX file.
    """
    import onnx_ir as ir

    from radixrt.engines.tensorrt.legacy_graph import legacy_form

    try:
        model = ir.load(deploy)
    except Exception as error:  # protobuf raises its own errors for a damaged file
        raise InputError(f"{deploy} is not a readable ONNX file: export the model again") from error
    try:
        legacy = legacy_form(model)
    except InputError:
        return None
    if legacy is None:
        return None
    target = deploy.with_name(LEGACY_NAME)
    ir.save(legacy, target)
    return target
