"""Puts the stand-alone runner into a bundle: two real modules of this package, copied as they are.

``run.py`` is ``engines/run_bundle.py``; beside it lies ``calibration/pixels.py``, so that images are prepared on the
device by the very code that prepared them for calibration and validation.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import radixrt.calibration

RUNNER_NAME = "run.py"
PIXELS_NAME = "pixels.py"


def write_runner(folder: Path) -> None:
    """Copies the runner, which needs nothing of RadixRT, into a bundle."""
    shutil.copyfile(Path(__file__).with_name("run_bundle.py"), folder / RUNNER_NAME)
    shutil.copyfile(Path(radixrt.calibration.__path__[0]) / PIXELS_NAME, folder / PIXELS_NAME)
