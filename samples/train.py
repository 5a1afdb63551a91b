"""Trains the sample networks: ``python -m samples.train [NAME ...]``.

The seed, the single thread and deterministic kernels make a run repeatable: the same versions on the same kind of
processor give the same weights. Each network leaves ``samples/<name>.safetensors`` and, beside it,
``samples/<name>.json``.
"""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated

import torch
from cyclopts import Parameter, run, validators
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import nn

from radixrt.calibration.data.preprocess import Preprocess
from radixrt.errors import InputError
from radixrt.export.samples.sample import SAMPLES, Sample, find
from samples.lessons import Lesson, lesson_of


@dataclass(frozen=True)
class Recipe:
    """What a training run depends on, besides the data and the versions of the libraries."""

    seed: int = 2026
    epochs: int = 30
    learning_rate: float = 4e-3
    weight_decay: float = 0.05


def train(sample: Sample, lesson: Lesson, recipe: Recipe, progress: Progress) -> nn.Module:
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
    steps = recipe.epochs * (len(lesson) // lesson.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps, pct_start=0.2)
    task = progress.add_task(sample.name, total=steps, loss=float("nan"))
    for epoch in range(recipe.epochs):
        for images, target in lesson.epoch(epoch, random):
            inputs = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
            loss = lesson.loss(module, inputs, target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
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
            lesson = lesson_of(sample)
            save(sample, train(sample, lesson, recipe, progress), len(lesson), recipe)
    console.print("Their accuracy: python -m samples.accuracy")


if __name__ == "__main__":
    run(main)
