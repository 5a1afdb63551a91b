"""Other heads on the trained body of ``resnest-nano-elpv``: several labels, a number, an embedding. Nothing is trained.

``python -m samples.heads FOLDER`` writes what the pages on tasks are made from: the photographs, a CSV file for each
task and the heads' weights. The factories are named on the command line as ``samples/heads.py:defects``.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from radixrt.calibration.data.sets.elpv import read_elpv
from radixrt.calibration.data.splits import mixed
from radixrt.export.samples.sample import SAMPLES

IMAGES = 300


class Defects(nn.Module):
    """N x 2: defective, and polycrystalline; logits of independent answers, from those of the four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = SAMPLES[0].load()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mono, mono_bad, poly, poly_bad = self.body(x).unbind(1)
        bad = torch.logaddexp(mono_bad, poly_bad) - torch.logaddexp(mono, poly)
        many = torch.logaddexp(poly, poly_bad) - torch.logaddexp(mono, mono_bad)
        return torch.stack([bad, many], 1)


class Probability(nn.Module):
    """N x 1: how likely a cell is defective."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Defects()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.head(x)[:, :1])


def defects() -> nn.Module:
    """For ``--task multilabel``."""
    return Defects().eval()


def probability() -> nn.Module:
    """For ``--task regress``."""
    return Probability().eval()


def embedding() -> nn.Module:
    """N x 256, what the classifier's last layer reads; for ``--task embed``."""
    body = SAMPLES[0].load()
    body.fc = nn.Identity()
    return body.eval()


def write(folder: Path) -> None:
    """Writes photographs, CSV files and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = find_spec("elpv_dataset")
    elpv = read_elpv()
    assert spec is not None and spec.submodule_search_locations
    table = Path(spec.submodule_search_locations[0]) / "data" / "labels.csv"
    said = {Path(line.split()[0]).name: line.split()[1:] for line in table.read_text().splitlines()}
    rows = []
    for half, entries in (("calibration", elpv.calibration), ("test", mixed(elpv.test)[:IMAGES])):
        for entry in entries:
            shutil.copy(entry.path, folder / entry.name)
            likely, kind = said[entry.name]
            labels = [*(["defective"] if float(likely) >= 0.5 else []), *(["poly"] if kind == "poly" else [])]
            rows.append(
                (entry.name, ";".join(labels), f"{float(likely):.4f}", elpv.labels[int(entry.target or 0)], half)
            )
    for name, column, index in (("defects", "labels", 1), ("probability", "value", 2), ("embedding", "label", 3)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("path", column, "split"))
            writer.writerows((row[0], row[index], row[4]) for row in rows)
    for factory in (defects, probability, embedding):
        torch.save(factory().state_dict(), folder / f"{factory.__name__}.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the data and the weights for the pages on tasks.")
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
