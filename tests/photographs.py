"""Small photographs on disk: class folders, single files, and files that pretend to be photographs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from radixrt.calibration.data.images import ImageList
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.export.feed import IMAGE_INPUT

LABELS = ("ash", "beech", "cedar", "dogwood")
SMALL = Preprocess(input_size=(3, 16, 16), mean=(0.5,), std=(0.25,), crop_pct=1.0, interpolation="bilinear")


def write_photographs(folder: Path) -> Path:
    """Ten of each of four classes, 48 x 48, each class mostly of one colour."""
    random = np.random.default_rng(0)
    for number, label in enumerate(LABELS):
        (folder / label).mkdir()
        for index in range(10):
            colour = random.integers(0, 200, 3) + 10 * number
            pixels = (colour + random.integers(0, 20, (48, 48, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (20, 24), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def write_classes(folder: Path, classes: Sequence[str] = ("cat", "dog"), each: int = 10) -> Path:
    for index, name in enumerate(classes):
        for number in range(each):
            write_image(folder / name / f"{number:03}.png", seed=1000 * index + number)
    return folder


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that promises width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def all_pixels(images: ImageList, size: int = 4) -> dict[str, np.ndarray]:
    batches = ((batch.names, batch.inputs[IMAGE_INPUT]) for batch in images.batches(size))
    return {name: pixels for names, images in batches for name, pixels in zip(names, images, strict=True)}
