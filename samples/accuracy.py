"""Prints the accuracy in FP32 of the sample networks that classify: ``python -m samples.accuracy``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from radixrt.calibration.data.preprocess import Preprocess
from radixrt.calibration.data.source import DataSource, load_data
from radixrt.errors import RadixRTError
from radixrt.export.feed import IMAGE_INPUT
from radixrt.export.samples.sample import SAMPLES, Sample


@dataclass(frozen=True)
class Accuracy:
    """Shares of 1: ``balanced`` is the mean of the classes' recalls, ``defect`` top-1 with the type of cell ignored."""

    samples: int
    top1: float
    balanced: float
    defect: float
    majority: float


def evaluate(sample: Sample, data: DataSource, limit: int | None = None) -> Accuracy:
    """Runs a sample network in PyTorch over the test split.

    Raises:
        InputError: its weights are not there, or the data has no labelled test.
    """
    module = sample.load()
    predicted, expected = [], []
    assert data.test is not None
    with torch.inference_mode():
        for batch in data.test.batches(64, limit):
            assert batch.targets is not None
            predicted.append(module(torch.from_numpy(batch.inputs[IMAGE_INPUT])).argmax(dim=1).numpy())
            expected.append(np.asarray(batch.targets))
    answer, truth = np.concatenate(predicted), np.concatenate(expected)
    recalls = [(answer[truth == label] == label).mean() for label in np.unique(truth)]
    return Accuracy(
        samples=len(truth),
        top1=float((answer == truth).mean()),
        balanced=float(np.mean(recalls)),
        defect=float((answer % 2 == truth % 2).mean()),  # odd classes are the defective ones
        majority=float(np.bincount(truth).max() / len(truth)),
    )


def main() -> None:
    """Prints one table."""
    console = Console()
    table = Table("network", "weights", "images", "top-1 %", "balanced", "defect", "largest", title="FP32, test split")
    try:
        for sample in (sample for sample in SAMPLES if sample.data == "elpv"):
            found = evaluate(sample, load_data("elpv", Preprocess.from_config(sample.data_config)))
            parameters = sum(tensor.numel() for tensor in sample.build(len(sample.labels)).parameters())
            figures = (found.top1, found.balanced, found.defect, found.majority)
            table.add_row(
                sample.name, f"{parameters:,}", str(found.samples), *(f"{100 * value:.2f}" for value in figures)
            )
    except RadixRTError as error:
        console.print(str(error))
        raise SystemExit(error.exit_code) from error
    console.print(table)


if __name__ == "__main__":
    main()
