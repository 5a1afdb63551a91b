"""Some samples of the data, read: what the network takes of each, and what is known about them."""

from __future__ import annotations

from dataclasses import dataclass

from radixrt.calibration.data.targets import Target
from radixrt.export.feed import Feed


@dataclass(frozen=True)
class Batch:
    """Samples that were read together.

    Attributes:
        inputs: each input by name, (N, ...); an image is float32 (N, C, H, W), or (N, H, W, C) where its file says so.
        targets: what each sample is labelled with, a mask read as uint8 (H, W); None where the data has none.
        names: what reports call the samples.
    """

    inputs: Feed
    targets: tuple[Target, ...] | None
    names: tuple[str, ...]
