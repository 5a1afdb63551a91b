"""Small pictures of the images whose answer changed, for the page."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image, ImageOps

EDGE = 128
MOST = 24


def thumbnails(files: Mapping[str, Path], wanted: Iterable[str]) -> dict[str, bytes]:
    """JPEG files of at most 128 pixels a side.

    Args:
        files: where each image is, by its name.
        wanted: names of images, most wanted first; the first 24 that can be read get a picture.

    Returns:
        pictures by name. An image that is missing or cannot be read has none: it stands in the table.
    """
    pictures: dict[str, bytes] = {}
    for name in wanted:
        if len(pictures) == MOST:
            break
        if name in files and name not in pictures and (picture := thumbnail(files[name])):
            pictures[name] = picture
    return pictures


def thumbnail(file: Path) -> bytes:
    """One image as a small JPEG file; empty where it cannot be read."""
    small = io.BytesIO()
    try:
        with Image.open(file) as image:
            image.draft("RGB", (EDGE * 2, EDGE * 2))
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((EDGE, EDGE))
            upright.save(small, "JPEG", quality=80)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return b""  # Pillow's readers raise all of these on damaged files; the page does without a picture.
    return small.getvalue()
