"""The Pillow and NumPy preparation is timm's own, bit for bit; hostile files are refused with a reason."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from radixrt.calibration.data import pixels
from radixrt.calibration.data.pixels import ImageUnusableError, open_image, preprocess_image
from radixrt.calibration.data.preprocess import Preprocess
from tests.photographs import png_bomb, write_image

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("interpolation", pixels.INTERPOLATIONS)
@pytest.mark.parametrize("crop_mode", pixels.CROP_MODES)
def test_equals_timm_bit_for_bit(crop_mode: str, interpolation: str) -> None:
    # Odd sizes, both orientations, images smaller than the crop, square and oblong inputs: where roundings differ.
    random = np.random.default_rng(1)
    cases = itertools.product(
        [(97, 64), (64, 97), (33, 40), (64, 64)], [(64, 64), (80, 48)], (0.875, 0.95, 1.0), (3, 1)
    )
    for (width, height), target, crop_pct, channels in cases:
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image = image if channels == 3 else image.convert("L")
        mean, std = (values[:channels] for values in IMAGENET)
        preprocess = Preprocess(
            input_size=(channels, *target),
            mean=mean,
            std=std,
            crop_pct=crop_pct,
            crop_mode=crop_mode,
            interpolation=interpolation,
        )
        reference = create_transform(**preprocess.model_dump(exclude={"layout", "dtype"}), is_training=False)(
            image
        ).numpy()
        prepared = preprocess_image(image, preprocess)
        assert prepared.dtype == np.float32
        assert prepared.shape == (channels, *target)
        np.testing.assert_array_equal(prepared, reference)


def test_grayscale_file_becomes_three_equal_channels_or_one(tmp_path: Path) -> None:
    path = write_image(tmp_path / "gray.png", mode="L")
    rgb, gray = np.asarray(open_image(path, 3)), np.asarray(open_image(path, 1))
    assert gray.ndim == 2
    for channel in range(3):
        np.testing.assert_array_equal(rgb[:, :, channel], gray)


def test_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = write_image(tmp_path / "really_a.png").rename(tmp_path / "photo.jpg")
    assert open_image(path).size == (20, 24)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no image"),
        (b"not an image at all", "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "EPS"),
        (png_bomb(30_000, 30_000), "pixels"),
        (png_bomb(10_000, 9_000), "pixels"),
        (png_bomb(20, 20), "truncated"),
    ],
    ids=["empty", "text", "postscript", "bomb", "bomb that Pillow only warns of", "no data"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_file_is_refused_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(ImageUnusableError, match=reason):
        open_image(path)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_pixels_are_refused_where_pillow_would_clip_them(tmp_path: Path, dtype: type) -> None:
    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((8, 8), 30_000, dtype=dtype)).save(path)
    with pytest.raises(ImageUnusableError, match="more than 8 bits"):
        open_image(path)


def test_truncated_and_missing_files_are_refused(tmp_path: Path) -> None:
    whole = write_image(tmp_path / "whole.jpg", size=(64, 64)).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageUnusableError, match="truncated"):
        open_image(tmp_path / "half.jpg")
    with pytest.raises(ImageUnusableError, match="No such file"):
        open_image(tmp_path / "missing.png")


@pytest.mark.parametrize("step", [1, 7, 40])
def test_a_damaged_png_never_escapes_as_another_error(tmp_path: Path, step: int) -> None:
    # Whatever byte is damaged, the file either decodes or is refused: nothing else may reach the pipeline.
    whole = write_image(tmp_path / "whole.png", size=(8, 8)).read_bytes()
    path, refused = tmp_path / "damaged.png", 0
    for position in range(0, len(whole), step):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            open_image(path)
        except ImageUnusableError:
            refused += 1
    assert refused


def test_travels_alone_on_python_3_8() -> None:
    # The file lies beside a bundle's run.py: nothing but the standard library, NumPy and Pillow, and no newer syntax.
    source = Path(pixels.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 8))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules <= {"__future__", "math", "typing", "numpy", "PIL"}
