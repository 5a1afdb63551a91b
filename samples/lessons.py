"""What each kind of sample network learns from: training images, what is to be found on them, and the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from radixrt.calibration.data.images import ImageList
from radixrt.calibration.data.pixels import open_image, shape_image
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.calibration.data.sets.painted import SIDE, paint_cracks, paint_spots, read_plain
from radixrt.calibration.data.source import load_training_data
from radixrt.export.samples.networks import STRIDE
from radixrt.export.samples.sample import LABELS, Sample

SHIFT = 6  # pixels, either way


class Lesson(ABC):
    """Training images of one kind, and what is to be found on them; ``batch`` are shown in one step."""

    batch = 32

    @abstractmethod
    def __len__(self) -> int:
        """How many images an epoch shows."""

    @abstractmethod
    def examples(self, chosen: Tensor, epoch: int, random: torch.Generator) -> tuple[Tensor, Any]:
        """The images of these indices, float32 (N, 1, H, W) on the scale 0..1, and their targets."""

    @abstractmethod
    def loss(self, module: nn.Module, inputs: Tensor, target: Any) -> Tensor:
        """How far the network's answer is from the target."""

    def epoch(self, number: int, random: torch.Generator) -> Iterator[tuple[Tensor, Any]]:
        """Shuffled batches; the last, shorter one is left out, since BatchNorm would weigh its few images too much."""
        order = torch.randperm(len(self), generator=random)
        for start in range(0, len(order) - self.batch + 1, self.batch):
            yield self.examples(order[start : start + self.batch], number, random)


def lesson_of(sample: Sample) -> Lesson:
    """What a sample network learns from.

    Raises:
        UnavailableError: the photographs are not installed.
    """
    images = load_training_data(Preprocess.from_config(sample.data_config))
    lessons: dict[str, Callable[[ImageList], Lesson]] = {"elpv": Classes, "elpv-cracks": Cracks, "elpv-spots": Spots}
    return lessons[sample.data](images)


class Classes(Lesson):
    """Photographs and their classes."""

    def __init__(self, images: ImageList) -> None:
        pixels = [np.asarray(shape_image(open_image(path, channels=1), images.preprocess)) for path in images.paths]
        self._pixels, self._labels = torch.from_numpy(np.stack(pixels)[:, None]), torch.tensor(images.targets)
        self._loss = nn.CrossEntropyLoss(class_weights(self._labels), label_smoothing=0.1)

    def __len__(self) -> int:
        return len(self._labels)

    def examples(self, chosen: Tensor, epoch: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        return augment(self._pixels[chosen], random), self._labels[chosen]

    def loss(self, module: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        loss: Tensor = self._loss(module(inputs), target)
        return loss


class _Painted(Lesson):
    """Photographs that are painted on anew in each epoch, and turned over; painting 0 is kept for tests."""

    batch = 16

    def __init__(self, images: ImageList) -> None:
        self._plain = [(path.name, read_plain(path)) for path in images.paths]

    def __len__(self) -> int:
        return len(self._plain)


class Cracks(_Painted):
    """Photographs and masks of the cracks on them."""

    def examples(self, chosen: Tensor, epoch: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        painted = [paint_cracks(self._plain[i][1], self._plain[i][0], epoch + 1) for i in chosen.tolist()]
        pixels = torch.from_numpy(np.stack([np.stack([np.asarray(one.image), one.mask]) for one in painted]))
        images, masks = flip(pixels, random).unbind(dim=1)
        return expose(images[:, None].float() / 255, random), masks.long()

    def loss(self, module: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
        # Few pixels are cracked: the overlap of Dice counts those alone.
        logits = module(inputs)
        likely, truth = logits.softmax(dim=1)[:, 1], target.float()
        dice = 1 - (2 * (likely * truth).sum() + 1) / (likely.sum() + truth.sum() + 1)
        loss: Tensor = F.cross_entropy(logits, target) + dice
        return loss


class Spots(_Painted):
    """Photographs and the boxes of the spots on them."""

    def examples(
        self, chosen: Tensor, epoch: int, random: torch.Generator
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        painted = [paint_spots(self._plain[i][1], self._plain[i][0], epoch + 1) for i in chosen.tolist()]
        pixels = torch.from_numpy(np.stack([np.asarray(one.image)[None] for one in painted]))
        targets = [(torch.from_numpy(one.boxes), torch.from_numpy(one.labels)) for one in painted]
        return expose(pixels.float() / 255, random), targets

    def loss(self, module: nn.Module, inputs: Tensor, target: list[tuple[Tensor, Tensor]]) -> Tensor:
        """The focal loss of Law and Deng 2018 on the centres, and the distance of the sides in strides."""
        logits, sides = module.maps(inputs)  # type: ignore[operator]
        truth, wanted, near = map(torch.stack, zip(*(_maps(*one) for one in target), strict=True))
        likely = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
        centre = (truth == 1).float()
        right = centre * (1 - likely) ** 2 * likely.log()
        wrong = (1 - centre) * (1 - truth) ** 4 * likely**2 * (1 - likely).log()
        found = -(right + wrong).sum() / centre.sum().clamp(min=1)
        apart = ((sides - wanted).abs() * near).sum() / near.sum().clamp(min=1) / STRIDE
        loss: Tensor = found + apart
        return loss


def _maps(boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the detector's maps should be for one image.

    Returns:
        Centres (classes, H, W), 1 at a centre and falling around it; sides (4, H, W) in pixels; and where those hold,
        (1, H, W).
    """
    side = SIDE // STRIDE
    at = torch.arange(side) * STRIDE + STRIDE / 2
    centres, sides, near = torch.zeros(2, side, side), torch.zeros(4, side, side), torch.zeros(1, side, side)
    for box, label in zip(boxes, labels, strict=True):
        left, top, right, bottom = box.tolist()
        column, row = (int((low + high) / 2 // STRIDE) for low, high in ((left, right), (top, bottom)))
        spread = max((right - left) / 6, 2.0)
        across, down = (
            torch.exp(-(((at - at[column]) / spread) ** 2) / 2),
            torch.exp(-(((at - at[row]) / spread) ** 2) / 2),
        )
        centres[label] = torch.maximum(centres[label], down[:, None] * across[None])
        rows, columns = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
        y, x = torch.meshgrid(at[rows], at[columns], indexing="ij")
        sides[:, rows, columns] = torch.stack([x - left, y - top, right - x, bottom - y]).clamp(min=0)
        near[:, rows, columns] = 1
    return centres, sides, near


def class_weights(labels: Tensor) -> Tensor:
    """Weights by the inverse square root of a class's share: half way between its share and equal say.

    Plain shares leave the defective cells, the ones that matter, under-reported; fully inverse ones cost more
    functional cells than they save.
    """
    counts = torch.bincount(labels, minlength=len(LABELS)).float()
    weights = counts.rsqrt()
    return weights / weights.mean()


def augment(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Flips, shifts and changes the exposure of each image: what differs between shots of one cell.

    Args:
        pixels: uint8 of shape (N, 1, H, W).
        random: the source of every choice.

    Returns:
        float32 of the same shape, on the scale 0..1.
    """
    images = flip(pixels.float() / 255, random)
    height, width = images.shape[2:]
    padded = F.pad(images, (SHIFT,) * 4, mode="reflect")
    offsets = torch.randint(0, 2 * SHIFT + 1, (len(images), 2), generator=random).tolist()
    return expose(
        torch.stack([padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(offsets)]), random
    )


def flip(images: Tensor, random: torch.Generator) -> Tensor:
    """Turns half of the images (N, C, H, W) over, either way."""
    images = images.clone()
    for axis in (2, 3):
        flipped = torch.rand(len(images), generator=random) < 0.5
        images[flipped] = images[flipped].flip(axis)
    return images


def expose(images: Tensor, random: torch.Generator) -> Tensor:
    """Changes the exposure of images (N, 1, H, W) on the scale 0..1."""
    gain = 1 + 0.2 * (2 * torch.rand(len(images), 1, 1, 1, generator=random) - 1)
    offset = 0.1 * (2 * torch.rand(len(images), 1, 1, 1, generator=random) - 1)
    return (images * gain + offset).clamp(0, 1)
