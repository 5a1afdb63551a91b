"""Masks of classes, pixel by pixel, that lie beside images.

==========================================  ===================================================================
``images/a.jpg`` and ``masks/a.png``        also ``labels/`` or ``annotations/``; halves inside each, or around both
``a.jpg`` and ``a_mask.png``                in one folder
``a.jpg`` and ``a.png``                     in one folder, where every image has such a mask
==========================================  ===================================================================

A mask is a PNG (or another file without loss) of class indices, gray or with a palette. 255 is no class: such a pixel
is left out. Where a data set holds nothing but 0 and 255, 255 is class 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radixrt.calibration.data.pixels import MAX_PIXELS, ImageUnusableError, shape_image
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.errors import InputError

IGNORED = 255
IMAGE_FOLDERS, MASK_FOLDERS = ("images", "image", "imgs"), ("masks", "mask", "labels", "annotations")
LOSSLESS = frozenset((".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm"))
_FIRST = 64
_ENDINGS = ("_mask", "-mask", ".mask", "_label", "_labels")


def mask_folders(subfolders: Mapping[str, Path]) -> tuple[Path, Path] | None:
    """The folder of images and that of their masks, where a folder holds such two and nothing else."""
    images = next((subfolders[name] for name in IMAGE_FOLDERS if name in subfolders), None)
    masks = next((subfolders[name] for name in MASK_FOLDERS if name in subfolders), None)
    return (images, masks) if images is not None and masks is not None and len(subfolders) == 2 else None


def pair_folders(images: Sequence[Path], image_root: Path, masks: Sequence[Path], mask_root: Path) -> dict[Path, Path]:
    """The mask of each image by its name below the two folders, suffix and ``_mask`` left aside.

    Raises:
        InputError: an image has no mask.
    """
    by_name = {_bare(path.relative_to(mask_root)): path for path in masks}
    missing = [path for path in images if _bare(path.relative_to(image_root)) not in by_name]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(images)} images in {image_root} have no mask in {mask_root}, the first is "
            f"{missing[0].name}: give each a mask of its name, such as {missing[0].stem}.png"
        )
    return {path: by_name[_bare(path.relative_to(image_root))] for path in images}


def pair_beside(files: Sequence[Path]) -> dict[Path, Path]:
    """The mask of each image, where files of one folder are images and their masks; empty where they are not.

    Raises:
        InputError: some images have a mask and others none.
    """
    named = {path for path in files if path.stem.endswith(_ENDINGS) and path.suffix.lower() in LOSSLESS}
    if named:
        images = [path for path in files if path not in named]
        return pair_folders(images, files[0].parent, sorted(named), files[0].parent) if images else {}
    masks = {path.stem: path for path in files if path.suffix.lower() == ".png"}
    images = [path for path in files if path.suffix.lower() != ".png"]
    if len(masks) != len(files) - len(images) or {path.stem for path in images} != set(masks):
        return {}
    return {path: masks[path.stem] for path in images}


def read_mask(file: Path, preprocess: Preprocess, *, two_levels: bool = False) -> NDArray[np.uint8]:
    """A mask as the network sees its image: resized without mixing classes, cropped alike.

    Args:
        file: the mask.
        preprocess: how its image is prepared.
        two_levels: 255 is class 1.

    Returns:
        uint8, (H, W); 255 where a pixel has no class, or lies outside the photograph.

    Raises:
        ImageUnusableError: the file is missing, damaged, or no mask of class indices.
    """
    indices = _decoded(file)
    if two_levels:
        if not np.isin(indices, (0, IGNORED)).all():
            raise ImageUnusableError(f"its mask {file.name} holds other numbers than 0 and 255, and other masks do not")
        indices = (indices == IGNORED).astype(np.uint8)
    nearest = preprocess.model_copy(update={"interpolation": "nearest"})
    return np.asarray(shape_image(Image.fromarray(indices), nearest, fill=IGNORED))


def two_levels(masks: Sequence[Path]) -> bool:
    """Whether masks hold nothing but 0 and 255, as far as the first few of them tell.

    Raises:
        InputError: one of them cannot be used.
    """
    found: set[int] = set()
    for file in masks[:_FIRST]:
        found |= set(np.unique(_checked(file)).tolist())
        if found - {0, IGNORED}:
            return False
    return found == {0, IGNORED}


def check_masks(pairs: Sequence[tuple[Path, Path]], classes: int) -> None:
    """Refuses masks that are not of their images' size, or hold classes that a head does not have.

    Args:
        pairs: each image with its mask.
        classes: how many classes the head has; 0 looks at the sizes alone.

    Raises:
        InputError: the first mask that cannot be used, and what is wrong with it.
    """
    for image, mask in pairs:
        try:
            with Image.open(image) as picture, Image.open(mask) as found:
                sizes = picture.size, found.size
        except Exception as error:
            if image.exists() and not mask.exists():
                raise InputError(f"the mask {mask} is missing: give each image one") from error
            continue  # an image that cannot be read is left out later, and named
        if sizes[0] != sizes[1]:
            (width, height), (mask_width, mask_height) = sizes
            raise InputError(
                f"the mask {mask} is {mask_width} x {mask_height} pixels and its image {width} x {height}: a mask must "
                "be of its image's size"
            )
    if not classes or two_levels([mask for _, mask in pairs]):
        return
    for _, mask in pairs:
        indices = _checked(mask)
        named = indices[indices != IGNORED]
        if named.size and int(named.max()) >= classes:
            raise InputError(
                f"the mask {mask} holds the class {int(named.max())}, and the network has {classes} classes (0 to "
                f"{classes - 1}): write class indices, and 255 where a pixel has none"
            )


def _checked(file: Path) -> NDArray[np.uint8]:
    try:
        return _decoded(file)
    except ImageUnusableError as error:
        raise InputError(f"the mask {file} cannot be used: {error}") from error


def _decoded(file: Path) -> NDArray[np.uint8]:
    """The class indices of a mask, (H, W)."""
    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageUnusableError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
            pixels = np.asarray(image)
    except ImageUnusableError:
        raise
    except Exception as error:  # Pillow's decoders raise all sorts for damaged files
        raise ImageUnusableError(f"its mask {file.name} cannot be decoded ({error})") from error
    if pixels.ndim != 2:
        raise ImageUnusableError(f"its mask {file.name} is a colour picture: save class indices, one number a pixel")
    if pixels.dtype.kind not in "biu" or int(pixels.max(initial=0)) > IGNORED:
        raise ImageUnusableError(f"its mask {file.name} holds {pixels.dtype} up to {pixels.max():g}: at most 255")
    return pixels.astype(np.uint8)


def _bare(path: Path) -> str:
    stem = path.with_suffix("").as_posix()
    ending = next((ending for ending in _ENDINGS if stem.endswith(ending)), "")
    return stem.removesuffix(ending)
