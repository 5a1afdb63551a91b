"""An image becomes the numbers a network takes, with Pillow and NumPy only.

The result equals timm's evaluation transform bit for bit. The steps are those of
``timm.data.create_transform(is_training=False)``, which are torchvision's: open as RGB (or L for a network with one
channel), resize, crop or pad about the centre, divide by 255, subtract the mean, divide by the standard deviation. The
test holds every crop mode and interpolation against timm's own transform, with no tolerance.

The file imports nothing of the project and keeps to Python 3.8, so that it can travel with a bundle as it stands.
"""

from __future__ import annotations

import math
from typing import Any, Sequence  # noqa: UP035 - the home of Sequence in Python 3.8

import numpy as np
from PIL import Image, UnidentifiedImageError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES = ("center", "squash", "border")

#: Larger images are taken for decompression bombs. This is Pillow's own limit for its warning (a quarter GiB of RGB).
MAX_PIXELS = 89_478_485

# Formats that Pillow decodes itself. Its EPS plug-in starts Ghostscript, so a file may not choose its own format.
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "WEBP", "TIFF", "GIF", "PPM")


class ImageUnusableError(Exception):
    """The file is no image that can be decoded; the message is the reason, without the file's name."""


def open_image(path: Any, channels: int = 3) -> Image.Image:
    """Decodes an image file completely.

    Args:
        path: the file.
        channels: 3 gives mode RGB (grayscale is repeated), 1 gives mode L.

    Raises:
        ImageUnusableError: the file is missing, unreadable, truncated, no image, of a format not taken, too large,
            or has pixels of more than 8 bits.
    """
    try:
        with Image.open(path) as image:
            if image.format not in FORMATS:
                raise ImageUnusableError(f"its content is {image.format}, not one of {', '.join(FORMATS)}")
            return as_channels(image, channels)
    except ImageUnusableError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageUnusableError(f"more than {MAX_PIXELS:,} pixels") from error
    except UnidentifiedImageError as error:
        raise ImageUnusableError("its content is no image") from error
    except OSError as error:
        raise ImageUnusableError(error.strerror or str(error)) from error
    except Exception as error:  # Pillow's decoders raise SyntaxError, ValueError, struct.error, ... for damaged files
        raise ImageUnusableError(f"cannot be decoded ({error})") from error


def as_channels(image: Image.Image, channels: int = 3) -> Image.Image:
    """Decodes an open image to as many channels as a network takes, as :func:`open_image` does.

    Raises:
        ImageUnusableError: it is too large, or has pixels of more than 8 bits.
    """
    if image.width * image.height > MAX_PIXELS:
        raise ImageUnusableError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
    if image.mode.startswith(("I", "F")):  # Pillow would clip them at 255: nearly white photographs
        raise ImageUnusableError(f"its pixels have more than 8 bits (mode {image.mode}): scale them to 8")
    decoded: Image.Image = image.convert("RGB" if channels == 3 else "L")
    return decoded


def preprocess_image(image: Image.Image, preprocess: Any) -> np.ndarray:
    """Turns a decoded image into one network input.

    Args:
        image: mode RGB or L, as :func:`open_image` gives it.
        preprocess: anything with the attributes ``input_size`` (C, H, W), ``mean`` and ``std`` (C values each, on the
            scale 0..1), ``crop_pct``, ``crop_mode`` (one of :data:`CROP_MODES`) and ``interpolation`` (one of
            :data:`INTERPOLATIONS`); where it has a ``layout`` of ``nhwc``, the channels come last, and where it has a
            ``dtype`` of ``uint8``, the pixels stay what they are.

    Returns:
        float32, or uint8 from 0 to 255; shape (C, H, W), or (H, W, C).
    """
    pixels = np.asarray(shape_image(image, preprocess))
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    planes: np.ndarray = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if getattr(preprocess, "dtype", "float32") == "float32":
        # The order of the float32 operations is torchvision's: ToTensor, then Normalize.
        planes = planes.astype(np.float32) / np.float32(255)
        planes -= np.asarray(preprocess.mean, dtype=np.float32).reshape(-1, 1, 1)
        planes /= np.asarray(preprocess.std, dtype=np.float32).reshape(-1, 1, 1)
    if getattr(preprocess, "layout", "nchw") == "nhwc":
        planes = np.ascontiguousarray(planes.transpose(1, 2, 0))
    return planes


def shape_image(image: Image.Image, preprocess: Any, fill: int | None = None) -> Image.Image:
    """Resizes and crops an image to the network's height and width; the pixels stay 8 bit.

    ``fill`` is what stands outside the photograph, of a mask; a photograph has black there, or its mean.
    """
    outside: int | tuple[int, ...] = 0 if fill is None else fill
    if fill is None and preprocess.crop_mode == "border":
        levels = tuple(round(255 * value) for value in preprocess.mean)
        outside = levels if len(levels) > 1 else levels[0]
    resized = _resize(image, _resized_size(image.size, preprocess), preprocess.interpolation)
    return _crop_or_pad(resized, preprocess.input_size[1:], outside)


def placed(size: tuple[int, int], preprocess: Any) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of an image come to lie in the network's input.

    Args:
        size: the image's width and height.
        preprocess: as :func:`preprocess_image` takes it.

    Returns:
        A scale (x, y) and an offset (x, y): a point p of the image lies at p * scale + offset.
    """
    resized = np.array(_resized_size(size, preprocess)[::-1])
    target = np.array(preprocess.input_size[:0:-1])
    # As _crop_or_pad does it: pad to the target first, then crop about the centre.
    padded = np.maximum(resized, target)
    crop = np.array([round(free / 2) for free in (padded - target).tolist()])
    return resized / np.array(size), (padded - resized) // 2 - crop


def nearest_size(size: tuple[int, int], height: Any, width: Any) -> tuple[int, int]:
    """The height and width nearest to an image's own that a network of free sides takes, in the same proportions.

    Args:
        size: the image's width and height.
        height: anything with the attributes ``min``, ``max`` and ``step``.
        width: likewise.
    """
    pairs = ((size[1], height), (size[0], width))
    low, high = max(side.min / own for own, side in pairs), min(side.max / own for own, side in pairs)
    scale = min(max(1.0, low), high)
    found = []
    for own, side in pairs:
        inside = min(max(own * scale, side.min), side.max)
        found.append(side.min + round((inside - side.min) / side.step) * side.step)
    return found[0], found[1]


def _resized_size(size: tuple[int, int], preprocess: Any) -> Sequence[int]:
    """The height and width that an image of (width, height) is resized to, before it is cropped or padded."""
    height, width = preprocess.input_size[1:]
    scaled = (math.floor(height / preprocess.crop_pct), math.floor(width / preprocess.crop_pct))
    if preprocess.crop_mode == "squash":
        return scaled
    if preprocess.crop_mode == "border":
        return _keep_ratio(size, scaled, longest=True)
    return _short_edge(size, scaled[0]) if scaled[0] == scaled[1] else _keep_ratio(size, scaled, longest=False)


def _resize(image: Image.Image, size: Sequence[int], interpolation: str) -> Image.Image:
    """``size`` is (height, width)."""
    filters = getattr(Image, "Resampling", Image)  # Pillow before 9.1 has them in the module itself
    return image.resize((size[1], size[0]), getattr(filters, interpolation.upper()))


def _short_edge(size: tuple[int, int], edge: int) -> list[int]:
    """The size whose shorter edge is ``edge``; the longer one rounds down, as torchvision's ``Resize`` does."""
    width, height = size
    return [int(edge * height / width), edge] if width <= height else [edge, int(edge * width / height)]


def _keep_ratio(size: tuple[int, int], target: Sequence[int], longest: bool) -> list[int]:
    """The size that fits in (``longest``) or covers ``target``, rounded as timm's ``ResizeKeepRatio`` does."""
    width, height = size
    ratios = (height / target[0], width / target[1])
    ratio = max(ratios) if longest else min(ratios)
    return [round(height / ratio), round(width / ratio)]


def _crop_or_pad(image: Image.Image, size: Sequence[int], fill: int | tuple[int, ...]) -> Image.Image:
    """Takes (height, width) pixels about the centre. Where the image is smaller, the odd pixel goes right and below."""
    height, width = size
    pad_left, pad_top = max(0, (width - image.width) // 2), max(0, (height - image.height) // 2)
    padded_size = (max(width, image.width), max(height, image.height))
    if padded_size != image.size:
        padded = Image.new(image.mode, padded_size, fill)
        padded.paste(image, (pad_left, pad_top))
        image = padded
    left = round((image.width - width) / 2)
    top = round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
