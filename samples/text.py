"""Writes text rendered with Pillow's own font, whose labels are exact: ``python -m samples.text FOLDER``.

It is data for PaddleOCR's networks, which the package ``rapidocr`` carries:

- ``lines/``: images of 320 x 48 with one line each, and ``lines.csv`` of path,text, for the recogniser.
- ``pages/``: images of 320 x 320 with several lines, and masks of the same names, for the detector: 1 on the kernel of
  each line, which that network is trained to find (its box, shrunk as Liao et al. 2020 say), else 0. ``overlap`` is a
  metric for it: ``--metric samples/text.py:overlap`` holds what the engine finds against what the original finds.
- ``angles/``: images of 192 x 48, upright or upside down, in a folder for each, for the classifier of angles.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cyclopts import run
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from rich.console import Console
from rich.progress import track

SEED = 2026
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
MARKS = "-.,:/+&%"
LINE, PAGE, ANGLE = (320, 48), (320, 320), (192, 48)
#: A kernel is a box whose sides moved inwards by area * (1 - SHRINK**2) / perimeter.
SHRINK = 0.4

#: PaddleOCR takes for text what scores more than this.
FOUND = 0.3

Box = tuple[float, float, float, float]


def overlap(original: NDArray[np.float32], engine: NDArray[np.float32], labels: object) -> float:
    """The intersection over union of what two detectors find on pages, of scores (N, 1, H, W) each; labels unread.

    It is 1 where neither finds anything.
    """
    one, other = original > FOUND, engine > FOUND
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def words(random: np.random.Generator, count: int) -> str:
    """So many words of letters and digits, now and then with a mark at the end."""
    made = ["".join(random.choice(list(CHARACTERS), int(random.integers(2, 8)))) for _ in range(count)]
    return " ".join(word + str(random.choice(list(MARKS))) if random.random() < 0.2 else word for word in made)


def paper(random: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, int]:
    """An empty image whose brightness falls to one side, and a shade of ink that stands out on it."""
    light, fall = float(random.uniform(150, 235)), float(random.uniform(-40, 40))
    across = np.linspace(-0.5, 0.5, size[0])[None, :].repeat(size[1], axis=0)
    pixels = light + fall * across
    ink = int(random.integers(0, 70))
    if random.random() < 0.3:  # light on dark
        pixels, ink = 255 - pixels, 255 - ink
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), ink


def worn(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """The image as a camera would give it: a little soft, and noisy."""
    soft = image.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 0.9))))
    noisy = np.asarray(soft, dtype=np.float32) + random.normal(0, random.uniform(1, 8), (image.height, image.width))
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)).convert("RGB")


def draw_line(image: Image.Image, text: str, at: tuple[float, float], room: tuple[float, float], ink: int) -> Box:
    """Writes a text as large as its room allows; ``at`` is its left and middle, ``room`` the width and height.

    Returns:
        Left, top, right, bottom of what was written.
    """
    pen = ImageDraw.Draw(image)
    size = room[1]
    width = pen.textlength(text, font=ImageFont.load_default(size))
    font = ImageFont.load_default(min(size, size * room[0] / width))
    pen.text(at, text, fill=ink, font=font, anchor="lm")
    return pen.textbbox(at, text, font=font, anchor="lm")


def line(random: np.random.Generator, size: tuple[int, int] = LINE) -> tuple[Image.Image, str]:
    """An image with one line, and what it says."""
    image, ink = paper(random, size)
    text = words(random, int(random.integers(1, 4)))
    draw_line(image, text, (random.uniform(2, 8), size[1] / 2), (size[0] - 12, random.uniform(26, 36)), ink)
    return worn(image.rotate(random.uniform(-1.2, 1.2), fillcolor=int(np.asarray(image).mean())), random), text


def page(random: np.random.Generator, size: tuple[int, int] = PAGE) -> tuple[Image.Image, Image.Image]:
    """An image with three to eight lines, and the mask of their kernels."""
    image, ink = paper(random, size)
    mask = Image.new("L", size, 0)
    pen, top = ImageDraw.Draw(mask), float(random.uniform(8, 30))
    while top < size[1] - 24:
        height = float(random.uniform(14, 30))
        left = float(random.uniform(6, 120))
        text = words(random, int(random.integers(1, 4)))
        box = draw_line(image, text, (left, top + height / 2), (size[0] - left - 8, height * 0.9), ink)
        wide, high = box[2] - box[0], box[3] - box[1]
        inwards = wide * high * (1 - SHRINK**2) / (2 * (wide + high))
        pen.rectangle((box[0] + inwards, box[1] + inwards, box[2] - inwards, box[3] - inwards), fill=1)
        top += height + float(random.uniform(6, 34))
    return worn(image, random), mask


def write(folder: Path, lines: int, pages: int, angles: int) -> Sequence[Path]:
    """Writes the three sets and says where each is."""
    random = np.random.default_rng(SEED)
    sets = (folder / "lines", folder / "pages", folder / "angles")
    for name in ("lines", "pages/images", "pages/masks", "angles/0", "angles/180"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = ["path,text"]
    for number in track(range(lines), "Lines"):
        image, text = line(random)
        image.save(sets[0] / f"{number:04}.png")
        rows.append(f'{number:04}.png,"{text}"')
    (sets[0] / "lines.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for number in track(range(pages), "Pages"):
        image, mask = page(random)
        image.save(sets[1] / "images" / f"{number:04}.png")
        mask.save(sets[1] / "masks" / f"{number:04}.png")
    for number in track(range(angles), "Angles"):
        image, _ = line(random, ANGLE)
        turned = bool(number % 2)
        (image.transpose(Image.Transpose.ROTATE_180) if turned else image).save(
            sets[2] / ("180" if turned else "0") / f"{number:04}.png"
        )
    return sets


def main(folder: Path, *, lines: int = 600, pages: int = 200, angles: int = 400) -> None:
    """Renders text for PaddleOCR's three networks.

    Args:
        folder: takes the three sets.
        lines: images of one line.
        pages: images of several lines.
        angles: images that are upright or not.
    """
    for path in write(folder, lines, pages, angles):
        Console().print(f"{path}")


if __name__ == "__main__":
    run(main)
