"""What the outputs of a network answer, by its task: the same code judges an engine and runs beside ``run.py``.

The file imports nothing of the project and keeps to Python 3.8, so that it can travel with a bundle as it stands.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Sequence

import numpy as np

MOST_CLASSES = 5
#: The score from which a box is shown.
SURE = 0.3
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
    for row in answered.get("boxes", []):
        said.append("{:7.2%}  {}  {}".format(row["score"], row["label"], ", ".join(f"{v:.4g}" for v in row["box"])))
    if "text" in answered:
        said.append(repr(answered["text"]))
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


def read_text(scores: np.ndarray, classes: Sequence[str]) -> str:
    """The text of one image by the best path of CTC (Graves et al. 2006).

    Args:
        scores: (T, C), the larger the likelier; a step that is not finite counts as a blank.
        classes: what each class stands for, the empty text for the blank.
    """
    blank = list(classes).index("")
    finite = np.isfinite(scores).all(axis=1)
    best = np.where(finite, np.where(finite[:, None], scores, 0).argmax(axis=1), blank)
    new = np.concatenate([[True], best[1:] != best[:-1]])
    return "".join(classes[index] for index in best[new])


class Columns:
    """Which outputs of a detector hold boxes, scores and labels, one row for each box.

    A network that gives one tensor (N, K, 6), as YOLOv10 and EfficientDet do, has ``joined`` alone. ``count`` is how
    many of the K are meant, where the network says so.
    """

    def __init__(self, boxes: str = "", scores: str = "", labels: str = "", joined: str = "", count: str = "") -> None:
        self.boxes, self.scores, self.labels, self.joined, self.count = boxes, scores, labels, joined, count

    @classmethod
    def find(cls, shapes: Mapping[str, Sequence[object]], floats: Sequence[str]) -> Columns | str:
        """Recognises them by shape and type, and by name where several are alike; a text says why there are none."""
        ranks = {name: len(shape) for name, shape in shapes.items()}
        fours = [n for n, shape in shapes.items() if ranks[n] in (2, 3) and n in floats and shape[-1] == 4]
        sixes = [n for n, shape in shapes.items() if ranks[n] in (2, 3) and n in floats and shape[-1] == 6]
        if not fours and len(sixes) == 1:
            return cls(joined=sixes[0])
        boxes = _named(fours, "box")
        if boxes is None:
            return "it has no output of boxes, K x 4 for each image"
        flat = [n for n in shapes if n != boxes and ranks[n] == ranks[boxes] - 1]
        counts = [n for n in shapes if n not in floats and "num" in n.lower()]
        scores = _named([n for n in flat if n in floats and not _called(n, "label", "class")], "score", "conf")
        labels = _named([n for n in flat if n not in (scores, *counts)], "label", "class")
        if scores is None or labels is None:
            lacking = "scores" if scores is None else "labels"
            return f"it has boxes ({boxes}) but no output of {lacking}, one for each box"
        return cls(boxes, scores, labels, count=next(iter(counts), ""))

    def rows(self, outputs: Mapping[str, np.ndarray], images: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Boxes (K, 4), scores (K,) and labels (K,) of each image, as they stand.

        Raises:
            ValueError: one image alone was run, and the outputs are of several.
        """
        if self.joined:
            found = [(row[:, :4], row[:, 4], row[:, 5]) for row in _by_image(outputs[self.joined], 3, images)]
        else:
            ranks = {self.boxes: 3, self.scores: 2, self.labels: 2}
            found = list(zip(*(_by_image(outputs[name], rank, images) for name, rank in ranks.items())))
        if not self.count:
            return found
        kept = np.asarray(outputs[self.count]).reshape(-1).tolist()
        return [(boxes[:n], scores[:n], labels[:n]) for (boxes, scores, labels), n in zip(found, kept)]


def _by_image(array: np.ndarray, rank: int, images: int) -> list[np.ndarray]:
    """An output by image; one that has no axis of images, as torchvision's detectors have it, is of one image."""
    if array.ndim == rank - 1:
        array = array[None]
    if len(array) != images:
        raise ValueError(f"an output is of {len(array)} images, and {images} were given")
    return list(array)


def _called(name: str, *words: str) -> bool:
    return any(word in name.lower() for word in words)


def _named(names: Sequence[str], *words: str) -> str | None:
    """The one that is called so, else the one that there is."""
    return next((name for name in names if _called(name, *words)), names[0] if len(names) == 1 else None)


def _text(outputs: Mapping[str, np.ndarray], head: Head) -> Answer:
    scores = outputs[head.output]
    return {"text": read_text(scores[0] if len(scores) == 1 else scores[:, 0], head.labels)}


def _detect(outputs: Mapping[str, np.ndarray], head: Head) -> Answer:
    floats = [name for name, array in outputs.items() if array.dtype.kind == "f"]
    columns = Columns.find({name: array.shape for name, array in outputs.items()}, floats)
    if isinstance(columns, str):
        return _held(outputs, head)
    ((boxes, scores, labels),) = columns.rows(outputs, 1)
    rows = [
        {
            "class": int(labels[i]),
            "label": head.label(int(labels[i])),
            "score": round(float(scores[i]), 6),
            "box": [round(float(number), 3) for number in boxes[i]],
        }
        for i in np.argsort(-scores, kind="stable").tolist()
        if scores[i] > SURE
    ]
    return {"boxes": rows}


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
    "detect": _detect,
    "text": _text,
    "regress": _regress,
    "embed": _embed,
}
