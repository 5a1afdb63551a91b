"""Pictures of examples: arrays become small PNG files that a page can hold."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from radixrt.calibration.data.batch import Batch
from radixrt.validate.tasks.base import Panel

EDGE = 224
_BLACK, _LEFT_OUT, _CHANGED = (24, 24, 28), (128, 128, 128), (230, 40, 40)
_GOLDEN = 0.61803398875


def colour_of(index: int) -> tuple[int, int, int]:
    """The colour of a class: class 0, mostly the background, is nearly black, the others lie far apart in hue."""
    if index == 0:
        return _BLACK
    red, green, blue = colorsys.hsv_to_rgb((0.08 + index * _GOLDEN) % 1.0, 0.65, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def image_of(batch: Batch, index: int) -> NDArray[np.float32] | None:
    """The image of one sample, (C, H, W): the first input that looks like one, channels first or last; None if none."""
    for array in batch.inputs.values():
        if array.ndim == 4 and (array.shape[1] in (1, 3) or array.shape[3] in (1, 3)):
            image = array[index] if array.shape[1] in (1, 3) else np.moveaxis(array[index], 2, 0)
            return np.asarray(image, np.float32)
    return None


def pixels_of(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A prepared image (C, H, W) as a photograph (H, W, 3): its darkest value is black, its lightest white."""
    low, high = float(image.min()), float(image.max())
    shown: NDArray[np.uint8] = ((image - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)
    return np.moveaxis(shown if len(shown) == 3 else np.repeat(shown[:1], 3, axis=0), 0, 2)


def painted(classes: NDArray[np.integer], ignored: int | None = None) -> NDArray[np.uint8]:
    """A class map (H, W) in colours (H, W, 3); what is left out is gray."""
    palette = np.array([colour_of(index) for index in range(256)], np.uint8)
    picture: NDArray[np.uint8] = palette[np.clip(classes, 0, 255)]
    if ignored is not None:
        picture[classes == ignored] = _LEFT_OUT
    return picture


def boxed(image: NDArray[np.uint8], boxes: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """A photograph (H, W, 3) with boxes (M, 4) on it, in the colours of their classes; enlarged where it is small."""
    scale = max(1, EDGE // max(image.shape[:2]))
    picture = Image.fromarray(image.repeat(scale, axis=0).repeat(scale, axis=1))
    pen = ImageDraw.Draw(picture)
    for (left, top, right, bottom), label in zip((boxes * scale).tolist(), labels.tolist(), strict=True):
        corners = (left, top, max(right, left), max(bottom, top))
        pen.rectangle(corners, outline=colour_of(label + 1), width=2)
    return np.asarray(picture)


def difference(image: NDArray[np.uint8], changed: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A photograph (H, W, 3), pale, with what changed (H, W) in red."""
    gray = image.astype(np.float32).mean(axis=2, keepdims=True) * 0.4 + 140
    picture = np.repeat(gray.round().astype(np.uint8), 3, axis=2)
    picture[changed] = _CHANGED
    return picture


def small(picture: NDArray[np.uint8], edge: int = 96) -> NDArray[np.uint8]:
    """A picture (H, W, 3) of at most so many pixels a side, to be kept for every image."""
    image = Image.fromarray(picture)
    image.thumbnail((edge, edge))
    return np.asarray(image)


def panels_of(shown: Sequence[tuple[str, NDArray[np.uint8] | None]]) -> tuple[Panel, ...]:
    """Photographs by title, as far as there are any."""
    return tuple(panel(title, picture, smooth=True) for title, picture in shown if picture is not None)


def panel(title: str, picture: NDArray[np.uint8], *, smooth: bool = False) -> Panel:
    """A picture (H, W, 3) as a panel of at most 224 pixels a side; ``smooth`` is for photographs."""
    image = Image.fromarray(picture)
    scale = EDGE / max(image.size)
    if scale < 1:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return Panel(title, base64.b64encode(file.getvalue()).decode("ascii"))
