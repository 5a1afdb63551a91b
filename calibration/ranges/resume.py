"""An interrupted calibration continues: what the observers hold, in one .npz beside its place.

The file names the graph it belongs to and how many images were read; a file of another graph is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radixrt.calibration.ranges.observers import Histogram, TensorObserver
from radixrt.files import replacing


@dataclass
class CollectState:
    """How far a calibration came.

    Attributes:
        model_sha256: the graph.
        images: how many images were read.
        data_sum: the sum of the images' SHA-256, modulo 2**256: a content hash that order does not change.
        observers: in the graph's order.
    """

    model_sha256: str
    observers: list[TensorObserver]
    images: int = 0
    data_sum: int = 0

    @property
    def data_sha256(self) -> str:
        return f"{self.data_sum:064x}"


def save_state(state: CollectState, path: Path) -> None:
    """Writes the state, whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        "model_sha256": np.array(state.model_sha256),
        "images": np.array(state.images),
        "data_sum": np.array(state.data_sha256),
        "names": np.array([o.name for o in state.observers]),
        "exponents": np.array([o.histogram.exponent for o in state.observers]),
        "zeros": np.array([o.histogram.zeros for o in state.observers]),
        "counts": np.stack([o.histogram.counts for o in state.observers]),
        "channels": np.array([o.maximum.size for o in state.observers]),
        "maximum": np.concatenate([o.maximum for o in state.observers]),
        "minimum": np.concatenate([o.minimum for o in state.observers]),
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_state(path: Path, fresh: CollectState) -> CollectState:
    """The state at ``path`` if it belongs to ``fresh``'s graph and tensors, else ``fresh`` itself."""
    try:
        with np.load(path, allow_pickle=False) as data:
            names = [str(n) for n in data["names"]]
            if str(data["model_sha256"]) != fresh.model_sha256 or names != [o.name for o in fresh.observers]:
                return fresh
            edges = np.cumsum(data["channels"])[:-1]
            columns = zip(
                names,
                data["exponents"],
                data["zeros"],
                data["counts"],
                np.split(data["maximum"], edges),
                np.split(data["minimum"], edges),
                strict=True,
            )
            observers = [
                TensorObserver(
                    name=name,
                    maximum=high,
                    minimum=low,
                    histogram=Histogram(exponent=int(exponent), counts=counts.astype(np.int64), zeros=int(zeros)),
                )
                for name, exponent, zeros, counts, high, low in columns
            ]
            return CollectState(
                model_sha256=fresh.model_sha256,
                observers=observers,
                images=int(data["images"]),
                data_sum=int(str(data["data_sum"]), 16),
            )
    except Exception:  # a damaged archive makes zipfile, zlib and NumPy raise a dozen kinds
        return fresh
