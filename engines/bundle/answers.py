"""What the outputs of a network answer, by its task: the same code judges an engine and runs beside ``run.py``.

The file imports nothing of the project and keeps to Python 3.8, so that it can travel with a bundle as it stands.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence  # noqa: UP035 - Python 3.8

import numpy as np


def class_maps(values: np.ndarray, kind: Optional[str] = None) -> np.ndarray:  # noqa: UP045
    """The class of each pixel.

    Args:
        values: (N, C, H, W) numbers for each class; (N, 1, H, W) of one class against the rest; (N, H, W) the classes
            themselves.
        kind: what the numbers are; ``scores`` and ``probabilities`` lie between 0 and 1.

    Returns:
        int64, (N, H, W).
    """
    if values.ndim == 3:
        return values.astype(np.int64)
    if values.shape[1] == 1:
        threshold = 0.5 if kind in ("scores", "probabilities") else 0.0
        return np.asarray(values[:, 0] > threshold).astype(np.int64)
    return np.asarray(values.argmax(axis=1)).astype(np.int64)


def sureness(values: np.ndarray, kind: Optional[str] = None) -> np.ndarray:  # noqa: UP045
    """How sure the network is of each label, from 0 to 1: (N, C), of (N, C) or (N, C, 1, 1).

    Numbers that are not such already, by their ``kind``, are logits, of which a sigmoid makes them.
    """
    numbers = values.reshape(len(values), -1).astype(np.float64)
    if kind in ("scores", "probabilities"):
        return numbers
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(numbers, -60, 60))))


def shares_of_classes(classes: np.ndarray, labels: Sequence[str] = ()) -> List[Dict[str, Any]]:  # noqa: UP006
    """The share of the pixels of one class map (H, W) that each class has, the largest first."""
    found, counts = np.unique(classes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        {
            "class": int(found[i]),
            "label": labels[found[i]] if found[i] < len(labels) else str(found[i]),
            "share": round(float(counts[i]) / classes.size, 6),
        }
        for i in order
    ]
