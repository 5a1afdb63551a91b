"""Trains the sample networks: ``python -m samples.train [NAME ...]``.

The seed, the single thread and deterministic kernels make a run repeatable: the same versions on the same kind of
processor give the same weights. Each network leaves ``samples/<name>.safetensors`` and, beside it,
``samples/<name>.json``.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated

import numpy as np
import torch
from cyclopts import Parameter, run, validators
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from radixrt.calibration.data.pixels import open_image, shape_image
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.calibration.data.source import load_training_data
from radixrt.errors import InputError
from radixrt.export.source.samples import LABELS, SAMPLES, Sample, find

BATCH = 32
SHIFT = 6  # pixels, either way


@dataclass(frozen=True)
class Recipe:
    """What a training run depends on, besides the data and the versions of the libraries."""

    seed: int = 2026
    epochs: int = 30
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1


@dataclass(frozen=True)
class Photographs:
    """The training images, decoded once: uint8 of shape (N, 1, H, W), and their labels, int64 of shape (N,)."""

    pixels: Tensor
    labels: Tensor

    @classmethod
    def read(cls, preprocess: Preprocess) -> Photographs:
        images = load_training_data(preprocess)
        pixels = [np.asarray(shape_image(open_image(path, channels=1), preprocess)) for path in images.paths]
        return cls(torch.from_numpy(np.stack(pixels)[:, None]), torch.tensor(images.targets))

    def epoch(self, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches; the last, shorter one is left out, since BatchNorm would weigh its few images too much."""
        order = torch.randperm(len(self.labels), generator=random)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            yield augment(self.pixels[chosen], random), self.labels[chosen]


def augment(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Flips, shifts and changes the exposure of each image: what differs between shots of one cell.

    Args:
        pixels: uint8 of shape (N, 1, H, W).
        random: the source of every choice.

    Returns:
        float32 of the same shape, on the scale 0..1.
    """
    images = pixels.float() / 255
    count, _, height, width = images.shape
    for axis in (2, 3):
        flipped = torch.rand(count, generator=random) < 0.5
        images[flipped] = images[flipped].flip(axis)
    padded = F.pad(images, (SHIFT,) * 4, mode="reflect")
    offsets = torch.randint(0, 2 * SHIFT + 1, (count, 2), generator=random).tolist()
    images = torch.stack([padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(offsets)])
    gain = 1 + 0.2 * (2 * torch.rand(count, 1, 1, 1, generator=random) - 1)
    offset = 0.1 * (2 * torch.rand(count, 1, 1, 1, generator=random) - 1)
    return (images * gain + offset).clamp(0, 1)


def class_weights(labels: Tensor) -> Tensor:
    """Weights by the inverse square root of a class's share: half way between its share and equal say.

    Plain shares leave the defective cells, the ones that matter, under-reported; fully inverse ones cost more
    functional cells than they save.
    """
    counts = torch.bincount(labels, minlength=len(LABELS)).float()
    weights = counts.rsqrt()
    return weights / weights.mean()


def train(sample: Sample, photographs: Photographs, recipe: Recipe, progress: Progress) -> nn.Module:
    """Trains one network from its seed; returns it in eval mode."""
    torch.manual_seed(recipe.seed)
    random = torch.Generator().manual_seed(recipe.seed)
    preprocess = Preprocess.from_config(sample.data_config)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (preprocess.mean, preprocess.std))
    module = sample.build(len(sample.labels)).to(memory_format=torch.channels_last).train()
    decayed = [p for p in module.parameters() if p.ndim > 1]
    other = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": other, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    steps = recipe.epochs * (len(photographs.labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.2)
    loss_of = nn.CrossEntropyLoss(class_weights(photographs.labels), label_smoothing=recipe.label_smoothing)
    task = progress.add_task(sample.name, total=steps, loss=float("nan"))
    for _ in range(recipe.epochs):
        for images, labels in photographs.epoch(random):
            inputs = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
            loss = loss_of(module(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.update(task, advance=1, loss=loss.item())
    return module.to(memory_format=torch.contiguous_format).eval()


def save(sample: Sample, module: nn.Module, images: int, recipe: Recipe) -> None:
    """Writes the weights and their record."""
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, sample.weights)
    record = {
        "name": sample.name,
        "family": sample.family,
        "labels": list(sample.labels),
        "data_config": dict(sample.data_config),
        "training": {
            "seed": recipe.seed,
            "epochs": recipe.epochs,
            "images": images,
            "versions": {name: version(name) for name in ("torch", "timm", "pillow", "elpv-dataset")},
            "machine": platform.machine(),
        },
    }
    sample.weights.with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main(
    *names: Annotated[str, Parameter(help="Sample networks; all of them when none is named.")],
    epochs: Annotated[int, Parameter(validator=validators.Number(gte=1))] = Recipe.epochs,
    seed: Annotated[int, Parameter(validator=validators.Number(gte=0))] = Recipe.seed,
) -> None:
    """Trains the sample networks on the training split of ELPV."""
    console = Console()
    chosen = [find(name) for name in names] if names else list(SAMPLES)
    samples = [sample for sample in chosen if sample is not None]
    if len(samples) != len(chosen):
        known = ", ".join(sample.name for sample in SAMPLES)
        console.print(f"unknown sample network among {', '.join(names)}: choose from {known}")
        sys.exit(InputError.exit_code)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # sums over several threads depend on their number
    recipe = Recipe(seed=seed, epochs=epochs)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for sample in samples:
            photographs = Photographs.read(Preprocess.from_config(sample.data_config))
            save(sample, train(sample, photographs, recipe, progress), len(photographs.labels), recipe)
    console.print("Their accuracy: python -m samples.accuracy")


if __name__ == "__main__":
    run(main)
