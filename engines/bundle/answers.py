"""What the outputs of a network answer, by its task: the same code judges an engine and runs beside ``run.py``.

The file imports nothing of the project and keeps to Python 3.8, so that it can travel with a bundle as it stands.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Sequence

import numpy as np

MOST_CLASSES = 5
Answer = Dict[str, Any]
"""What one image's outputs say: text, numbers, and lists of them, and arrays where an answer is one (a mask)."""


class Head:
    """The output that answers: its name, what its numbers are (as the manifest says), and the names of its classes."""

    def __init__(self, output: str, kind: str | None = None, labels: Sequence[str] = ()) -> None:
        self.output, self.kind, self.labels = output, kind, labels

    def label(self, index: int) -> str:
        """What a class is called; its number where nobody knows."""
        return self.labels[index] if 0 <= index < len(self.labels) else str(index)


def answer(task: str, outputs: Mapping[str, np.ndarray], head: Head) -> Answer:
    """What one image's outputs, (1, ...) each by name, answer."""
    of_task: Callable[..., Answer] = _ANSWERS.get(task, _held)
    return of_task(outputs, head)


def plain(answered: Answer) -> Answer:
    """The same for JSON: a list for a row of numbers; an array of more dimensions, such as a mask, is left out."""
    found = {}
    for name, value in answered.items():
        if not isinstance(value, np.ndarray):
            found[name] = value
        elif value.ndim == 1:
            found[name] = [round(float(number), 6) for number in value]
    return found


def lines(answered: Answer) -> list[str]:
    """The same for a terminal."""
    sure = answered.get("top5") or answered.get("labels") or []
    said = ["{:7.2%}  {}".format(row["probability"], row["label"]) for row in sure]
    shares = answered.get("classes") or []
    said += ["{:7.2%} of the pixels  {}".format(row["share"], row["label"]) for row in shares]
    if "numbers" in answered:
        said.append(", ".join(f"{float(number):.6g}" for number in answered["numbers"]))
    if "embedding" in answered:
        row = answered["embedding"]
        shown = ", ".join(f"{float(number):.4g}" for number in row[:4])
        said.append(f"{len(row)} numbers of length {float(np.linalg.norm(row)):.4g}: {shown}, ...")
    for name, seen in answered.get("outputs", {}).items():
        shape = " x ".join(map(str, seen["shape"]))
        said.append("{}  {}  {min:.4g} to {max:.4g}, mean {mean:.4g}".format(name, shape, **seen))
    return said or ["nothing"]


def class_maps(values: np.ndarray, kind: str | None = None) -> np.ndarray:
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


def sureness(values: np.ndarray, kind: str | None = None) -> np.ndarray:
    """How sure the network is of each label, from 0 to 1: (N, C), of (N, C) or (N, C, 1, 1).

    Numbers that are not such already, by their ``kind``, are logits, of which a sigmoid makes them.
    """
    numbers = values.reshape(len(values), -1).astype(np.float64)
    if kind in ("scores", "probabilities"):
        return numbers
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(numbers, -60, 60))))


def confidences(values: np.ndarray, kind: str | None = None) -> np.ndarray:
    """How sure each class of one image is, from 0 to 1, of numbers that are logits where ``kind`` says nothing else."""
    numbers = values.astype(np.float64)
    if kind in ("probabilities", "scores"):
        return numbers
    if kind == "log-probabilities":
        return np.asarray(np.exp(numbers))
    shares = np.exp(numbers - numbers.max())
    return np.asarray(shares / shares.sum())


def _classify(outputs: Mapping[str, np.ndarray], head: Head) -> Answer:
    shares = confidences(outputs[head.output].reshape(-1), head.kind)  # N x C, or N x C x 1 x 1
    best = np.argsort(-shares, kind="stable")[:MOST_CLASSES].tolist()
    rows = [{"class": i, "label": head.label(i), "probability": round(float(shares[i]), 6)} for i in best]
    return {"top5": rows}


def _multilabel(outputs: Mapping[str, np.ndarray], head: Head) -> Answer:
    sure = sureness(outputs[head.output], head.kind)[0]
    order = [i for i in np.argsort(-sure, kind="stable").tolist() if sure[i] > 0.5]
    rows = [{"class": i, "label": head.label(i), "probability": round(float(sure[i]), 6)} for i in order]
    return {"labels": rows}


def _segment(outputs: Mapping[str, np.ndarray], head: Head) -> Answer:
    mask = class_maps(outputs[head.output], head.kind)[0]
    found, counts = np.unique(mask, return_counts=True)
    rows = [
        {"class": int(found[i]), "label": head.label(int(found[i])), "share": round(float(counts[i]) / mask.size, 6)}
        for i in np.argsort(-counts, kind="stable")
    ]
    return {"classes": rows, "mask": mask}


def _regress(outputs: Mapping[str, np.ndarray], head: Head) -> Answer:
    return {"numbers": outputs[head.output].reshape(-1)}


def _embed(outputs: Mapping[str, np.ndarray], head: Head) -> Answer:
    return {"embedding": outputs[head.output].reshape(-1)}


def _held(outputs: Mapping[str, np.ndarray], head: Head) -> Answer:
    """What each output holds, where nobody says what it means."""
    seen = {}
    for name, array in outputs.items():
        low, mean, high = (float(figure) for figure in (array.min(), array.mean(), array.max()))
        seen[name] = {"shape": list(array.shape[1:]), "min": low, "mean": mean, "max": high}
    return {"outputs": seen}


_ANSWERS: dict[str, Callable[[Mapping[str, np.ndarray], Head], Answer]] = {
    "classify": _classify,
    "multilabel": _multilabel,
    "segment": _segment,
    "regress": _regress,
    "embed": _embed,
}
