"""A folder of small photographs of four classes, each mostly of one colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

LABELS = ("ash", "beech", "cedar", "dogwood")


def write_photographs(folder: Path) -> Path:
    """Ten of each class, 48 x 48."""
    random = np.random.default_rng(0)
    for number, label in enumerate(LABELS):
        (folder / label).mkdir()
        for index in range(10):
            colour = random.integers(0, 200, 3) + 10 * number
            pixels = (colour + random.integers(0, 20, (48, 48, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder
