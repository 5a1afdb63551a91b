"""Cracks and spots painted on the ELPV photographs by a fixed rule, so that what is to be found is known exactly.

A photograph is resized to 128 x 128 gray pixels first and painted after, so each label holds for the very pixels that
a network sees. What is painted depends on the file's name alone: the same everywhere, and no split sees another's.

- **Cracks**: none to three walks of short straight strokes, 2 to 4 pixels wide, darker than what they cross. The label
  is a mask: 1 where a stroke went.
- **Spots**: one to five discs of 4 to 12 pixels' radius, dark or bright, at least 3 pixels apart. The label is a box
  around the painted pixels of each, and its kind.

The data sets ``elpv-cracks`` and ``elpv-spots`` are folders in the user's cache, written when first asked for: as
anybody's own masks and COCO annotations would lie on a disk, and read in the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from radixrt.calibration.data.images import Entry
from radixrt.calibration.data.pixels import open_image
from radixrt.calibration.data.sets.elpv import read_elpv
from radixrt.calibration.data.splits import mixed
from radixrt.export.samples.sample import SPOT_LABELS
from radixrt.files import cache_home, translate_disk_errors

SIDE = 128
#: A change of what is painted makes new folders.
RULE = 1
TEST_IMAGES = 400
_SEED = 2026


@dataclass(frozen=True)
class Cracked:
    """A photograph with cracks; ``mask`` is uint8 (H, W), 1 on a crack. Both are 128 x 128."""

    image: Image.Image
    mask: NDArray[np.uint8]


@dataclass(frozen=True)
class Spotted:
    """A photograph with spots; ``boxes`` is float32 (M, 4): left, top, right, bottom; ``labels`` int64 (M,)."""

    image: Image.Image
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


def read_plain(path: Path) -> Image.Image:
    """A photograph as it is painted on: 128 x 128 pixels of gray.

    Raises:
        ImageUnusableError: the file cannot be decoded.
    """
    return open_image(path, channels=1).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def paint_cracks(plain: Image.Image, name: str, variant: int = 0) -> Cracked:
    """Paints cracks on a photograph.

    Args:
        plain: as :func:`read_plain` gives it.
        name: the photograph's file name, which decides where they run.
        variant: another painting of the same photograph; 0 is the one that calibrates and tests.
    """
    random = _random("cracks", name, variant)
    drawn = Image.new("L", plain.size, 0)
    pen = ImageDraw.Draw(drawn)
    pixels = np.asarray(plain, dtype=np.float32)
    for _ in range(int(random.integers(0, 4))):
        x, y = (float(v) for v in random.uniform(8, SIDE - 8, 2))
        heading, width = float(random.uniform(0, 2 * math.pi)), int(random.integers(2, 5))
        for _ in range(int(random.integers(5, 14))):
            heading += float(random.normal(0, 0.45))
            length = float(random.uniform(5, 11))
            end = (x + length * math.cos(heading), y + length * math.sin(heading))
            pen.line([(round(x), round(y)), (round(end[0]), round(end[1]))], fill=1, width=width)
            x, y = end
    mask = np.array(drawn, dtype=np.uint8)
    depth = float(random.uniform(0.25, 0.5))
    return Cracked(_as_image(np.where(mask == 1, pixels * depth, pixels)), mask)


def paint_spots(plain: Image.Image, name: str, variant: int = 0) -> Spotted:
    """Paints spots on a photograph; the arguments are those of :func:`paint_cracks`."""
    random = _random("spots", name, variant)
    pixels = np.asarray(plain, dtype=np.float32)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    for _ in range(int(random.integers(1, 6))):
        radius, label = int(random.integers(4, 13)), int(random.integers(0, 2))
        x, y = (int(v) for v in random.integers(radius, SIDE - radius, 2))
        strength = float(random.uniform(0.5, 0.75))
        box = (x - radius, y - radius, x + radius + 1, y + radius + 1)  # a disc is 2 r + 1 pixels wide
        if any(_near(box, other) for other in boxes):
            continue
        drawn = Image.new("L", plain.size, 0)
        ImageDraw.Draw(drawn).ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
        towards = 255.0 * label
        pixels = np.where(np.asarray(drawn) == 1, pixels + strength * (towards - pixels), pixels)
        boxes.append(box)
        labels.append(label)
    return Spotted(
        _as_image(pixels), np.asarray(boxes, dtype=np.float32).reshape(-1, 4), np.asarray(labels, dtype=np.int64)
    )


def _near(box: tuple[int, int, int, int], other: tuple[int, int, int, int], gap: int = 3) -> bool:
    apart = box[0] >= other[2] + gap or other[0] >= box[2] + gap or box[1] >= other[3] + gap or other[1] >= box[3] + gap
    return not apart


def _as_image(pixels: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _random(what: str, name: str, variant: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{_SEED} {what} {name} {variant}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "big")))


def painted_folder(what: Literal["cracks", "spots"]) -> Path:
    """The folder of a painted data set, with ``calibration`` and ``test`` in it; written where it is not there yet.

    Raises:
        UnavailableError: the photographs are not installed.
        InputError: the cache cannot be written.
    """
    folder = cache_home() / "painted" / f"elpv-{what}-{RULE}"
    if folder.is_dir():
        return folder
    elpv = read_elpv()
    with translate_disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for half, entries in (("calibration", elpv.calibration), ("test", mixed(elpv.test)[:TEST_IMAGES])):
                _write[what](scratch / half, entries)
            with contextlib.suppress(OSError):  # somebody else was quicker, with the same files
                scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _write_cracks(folder: Path, entries: Sequence[Entry]) -> None:
    for inner in ("images", "masks"):
        (folder / inner).mkdir(parents=True)
    for entry in entries:
        painted = paint_cracks(read_plain(entry.path), entry.name)
        painted.image.save(folder / "images" / entry.name)
        Image.fromarray(painted.mask).save(folder / "masks" / entry.name)


def _write_spots(folder: Path, entries: Sequence[Entry]) -> None:
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, entry in enumerate(entries, start=1):
        painted = paint_spots(read_plain(entry.path), entry.name)
        painted.image.save(folder / "images" / entry.name)
        images.append({"id": number, "file_name": entry.name, "width": SIDE, "height": SIDE})
        for (left, top, right, bottom), label in zip(painted.boxes.tolist(), painted.labels.tolist(), strict=True):
            box = [left, top, right - left, bottom - top]
            one = {"image_id": number, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, **one})
    categories = [{"id": number, "name": name} for number, name in enumerate(SPOT_LABELS)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


_write = {"cracks": _write_cracks, "spots": _write_spots}
