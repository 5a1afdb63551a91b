"""How far the engine's outputs lie from the reference's, over all images, in one pass over batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.int8 import power_ratio_db
from radixrt.errors import InputError
from radixrt.export.graph.output_kind import Head
from radixrt.validate.schema import SQNR_CAP_DB, OutputParity, Parity, WorstImage

Floats = NDArray[np.floating[Any]]
WORST_IMAGES = 8
_UNKNOWN = Head()


@dataclass(frozen=True)
class Distances:
    """One batch of one output, flat and in float64, zero where ``engine`` is not finite; per image the rest.

    The cosine is NaN where an image has one number: it would be that number's sign.
    """

    reference: NDArray[np.float64]
    engine: NDArray[np.float64]
    finite: NDArray[np.bool_]
    cosine: NDArray[np.float64]
    largest: NDArray[np.float64]


def reported_db(signal_power: float, noise_power: float) -> float:
    """Signal over noise in decibels as a report holds it, within ±200 dB; equality is 200."""
    return min(max(power_ratio_db(signal_power, noise_power), -SQNR_CAP_DB), SQNR_CAP_DB)


def check_pair(reference: Floats, engine: Floats) -> None:
    """Refuses arrays that are not two sets of logits of the same images.

    Raises:
        InputError: they are not both of shape (images, classes), or hold no image.
    """
    if reference.shape != engine.shape or reference.ndim != 2 or 0 in reference.shape:
        raise InputError(
            f"the reference's output has shape {reference.shape} and the engine's {engine.shape}: "
            "both must be (images, classes), the same, and not empty"
        )


def top_k(logits: Floats, k: int) -> NDArray[np.intp]:
    """The indices of the ``k`` largest of each row, best first; equal values in index order, so that ties agree."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :k]


class OutputAccumulator:
    """Gathers how close one output is, batch by batch, whatever its shape.

    Args:
        name: the output's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.images = self.nonfinite = 0
        self._shape: tuple[int, ...] = ()
        self._values = self._equal = 0
        self._integers = False
        self._max_abs = self._sum_abs = self._signal = self._noise = 0.0
        self._cosine_min, self._cosine_sum, self._cosines = 1.0, 0.0, 0

    def add(self, reference: Floats, engine: Floats, names: Sequence[str]) -> Distances:
        """Adds a batch of two arrays (images, ...); one image's alone may have rows in another number.

        Raises:
            InputError: the shapes differ, there is no value, or the reference itself is not finite.
        """
        if len(names) == 1:
            reference, engine = _padded(reference, engine)
        if reference.shape != engine.shape or reference.ndim < 1 or 0 in reference.shape:
            raise InputError(
                f"the reference's output {self.name} has shape {reference.shape} and the engine's {engine.shape}: both "
                "must be (images, ...), the same, and not empty"
            )
        self._integers = not np.issubdtype(reference.dtype, np.floating)
        self._equal += int((reference == engine).sum())
        ref = reference.reshape(len(reference), -1).astype(np.float64)
        eng = engine.reshape(len(engine), -1).astype(np.float64)
        if not np.isfinite(ref).all():
            bad = int(np.flatnonzero(~np.isfinite(ref).all(axis=1))[0])
            raise InputError(
                f"the reference's output {self.name} for {names[bad]} is not finite: look for NaN or overflow in its "
                "weights"
            )
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(eng).all(axis=1))
        eng = np.where(finite[:, None], eng, 0.0)
        error = np.where(finite[:, None], eng - ref, 0.0)
        norms = np.linalg.norm(ref, axis=1) * np.linalg.norm(eng, axis=1)
        cosine = np.clip(np.divide((ref * eng).sum(axis=1), norms, out=np.zeros(len(ref)), where=norms > 0), -1, 1)
        cosine[finite & ~ref.any(axis=1) & ~eng.any(axis=1)] = 1.0
        if ref.shape[1] == 1:
            cosine[:] = np.nan
        else:
            self._cosine_sum += float(cosine.sum())
            self._cosine_min = min(self._cosine_min, float(cosine.min()))
            self._cosines += len(ref)
        self._shape = reference.shape[1:]
        self.images += len(ref)
        self.nonfinite += int((~finite).sum())
        self._values += int(finite.sum()) * ref.shape[1]
        self._max_abs = max(self._max_abs, float(np.abs(error).max()))
        self._sum_abs += float(np.abs(error).sum())
        self._signal += float(np.square(ref[finite]).sum())
        self._noise += float(np.square(error).sum())
        return Distances(ref, eng, finite, cosine, np.abs(error).max(axis=1))

    def result(self) -> OutputParity:
        """The figures of everything added.

        Raises:
            InputError: nothing was added.
        """
        if not self.images:
            raise InputError("no images to compare: give test images")
        return OutputParity(
            name=self.name,
            shape=list(self._shape),
            cosine_min=self._cosine_min if self._cosines else None,
            cosine_mean=self._cosine_sum / self._cosines if self._cosines else None,
            max_abs=self._max_abs,
            mean_abs=self._sum_abs / max(self._values, 1),
            sqnr_db=reported_db(self._signal, self._noise) if self.images > self.nonfinite else -SQNR_CAP_DB,
            nonfinite=self.nonfinite,
            agreement=self._equal / max(self._values, 1) if self._integers else None,
        )


def _padded(left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Two arrays (1, rows, ...) with as many rows, at least one: a network may have found more, or nothing at all."""
    if left.ndim != right.ndim or left.ndim < 2:
        return left, right
    rows = max(left.shape[1], right.shape[1], 1)

    def padded(array: Floats) -> Floats:
        return np.pad(array, [(0, 0), (0, rows - array.shape[1]), *[(0, 0)] * (array.ndim - 2)])

    return padded(left), padded(right)


class ParityAccumulator:
    """Gathers parity batch by batch, so that the outputs over a large test set need not be held.

    Args:
        head: the classes and their numbers.
        main: the name of the main output, which the images that lie furthest apart are chosen by.
        classify: the main output is that head's, whose answers are compared as well (:meth:`add`).
    """

    def __init__(self, head: Head = _UNKNOWN, main: str = "logits", *, classify: bool = True) -> None:
        self._head, self._kind = head, head.kind
        self._main = OutputAccumulator(main)
        self._others: dict[str, OutputAccumulator] = {}
        self._classify = classify
        self._agreements = 0
        self._divergence = self._top5 = 0.0
        self._worst: list[WorstImage] = []

    def add(self, reference: Floats, engine: Floats, names: Sequence[str] | None = None) -> None:
        """Adds a batch of logits.

        Args:
            reference: logits (images, classes).
            engine: logits of the same images.
            names: the images' names; their positions where there are none.

        Raises:
            InputError: the shapes do not fit, or the reference itself is not finite.
        """
        check_pair(reference, engine)
        names = names if names is not None else [f"#{self._main.images + i}" for i in range(len(reference))]
        found = self._main.add(reference, engine, names)
        ref, eng, finite = found.reference, found.engine, found.finite
        k = min(5, ref.shape[1])
        best_ref, best_eng = top_k(ref, k), top_k(eng, k)
        agree = (best_ref[:, 0] == best_eng[:, 0]) & finite
        sure_ref, sure_eng = self._kind.confidences(ref), self._kind.confidences(eng)
        shared = (best_ref[:, :, None] == best_eng[:, None, :]).any(axis=2).mean(axis=1)
        self._agreements += int(agree.sum())
        self._top5 += float(shared[finite].sum())
        self._divergence += float(self._kind.divergence(ref, eng)[finite].sum())

        def answers(i: int) -> dict[str, Any]:
            return {
                "reference": self._head.name(int(best_ref[i, 0])),
                "engine": self._head.name(int(best_eng[i, 0])) if finite[i] else "not finite",
                "reference_confidence": float(sure_ref[i].max()),
                "engine_confidence": float(sure_eng[i].max()) if finite[i] else 0.0,
            }

        self._remember(found, names, answers)

    def add_output(self, name: str, reference: Floats, engine: Floats, names: Sequence[str]) -> None:
        """Adds a batch of an output whose values are no logits, (images, ...).

        Raises:
            InputError: the shapes do not fit, or the reference itself is not finite.
        """
        if name == self._main.name:
            self._remember(self._main.add(reference, engine, names), names, lambda i: {})
        else:
            self._others.setdefault(name, OutputAccumulator(name)).add(reference, engine, names)

    def add_outputs(self, reference: Mapping[str, Floats], engine: Mapping[str, Floats], names: Sequence[str]) -> None:
        """Adds a batch of every output of the reference, by its name: see :meth:`add_output`."""
        for name, truth in reference.items():
            self.add_output(name, truth, engine[name], names)

    def _remember(self, found: Distances, names: Sequence[str], answers: Callable[[int], dict[str, Any]]) -> None:
        """Keeps the images of a batch that lie furthest apart."""
        cosine = [None if np.isnan(one) else float(one) for one in found.cosine]
        self._worst += [
            WorstImage(image=names[i], cosine=cosine[i], max_abs=float(found.largest[i]), **answers(i))
            for i in map(int, np.lexsort((-found.largest, found.cosine))[:WORST_IMAGES])
        ]
        self._worst = sorted(self._worst, key=lambda w: (1.0 if w.cosine is None else w.cosine, -w.max_abs))[
            :WORST_IMAGES
        ]

    def result(self) -> Parity:
        """The parity of everything added.

        Raises:
            InputError: nothing was added.
        """
        main = self._main.result()
        images = self._main.images
        answered: dict[str, float] = {}
        if self._classify:
            answered = {
                "top1_agreement": self._agreements / images,
                "top5_agreement": self._top5 / images,
                "softmax_kl": max(0.0, self._divergence / max(images - main.nonfinite, 1)),
            }
        return Parity(
            samples=images,
            cosine_min=main.cosine_min,
            cosine_mean=main.cosine_mean,
            max_abs=main.max_abs,
            mean_abs=main.mean_abs,
            sqnr_db=main.sqnr_db,
            **answered,
            kind=self._kind,
            nonfinite=main.nonfinite,
            worst=self._worst,
            outputs=[main, *(other.result() for other in self._others.values())],
        )


def parity(
    reference: Floats,
    engine: Floats,
    *,
    names: Sequence[str] | None = None,
    head: Head = _UNKNOWN,
) -> Parity:
    """The parity of two arrays (images, classes) of one kind.

    Raises:
        InputError: the shapes do not fit, or the reference itself is not finite.
    """
    gathered = ParityAccumulator(head)
    gathered.add(reference, engine, names)
    return gathered.result()
