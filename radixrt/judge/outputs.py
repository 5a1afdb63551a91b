"""Which output of an engine is which of the original's: by name, and by shape where another tool renamed them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, softmax

from radixrt.engines.runners import Outputs
from radixrt.errors import InputError
from radixrt.export.graph.output_kind import rowless
from radixrt.validate.schema import Finding

_ROUNDING = 0.2
_ENDS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "a softmax": lambda rows: np.asarray(softmax(rows, axis=1)),
    "a log-softmax": lambda rows: np.asarray(log_softmax(rows, axis=1)),
    "a sigmoid": lambda rows: np.asarray(expit(rows)),
}


@dataclass(frozen=True)
class MatchedOutputs:
    """``names``: the engine's name of each output that both networks have. ``findings``: what only one of them has."""

    main: str
    names: dict[str, str]
    findings: list[Finding]


def one_at_a_time(graph: ir.Graph) -> bool:
    """Whether outputs of several samples cannot be put together: one has no row for each, or as many as it finds."""
    first = graph.inputs[0].shape
    if first is None or first[0] != 1:
        return False
    return bool(rowless(graph)) or any(
        not isinstance(side, int) for value in graph.outputs for side in value.shape or ()
    )


def with_samples(outputs: Outputs, alone: Collection[str]) -> Outputs:
    """The outputs of one sample, with an axis of samples in front of those ``alone``; (T, 1, C) becomes (1, T, C)."""
    return {
        name: array
        if name not in alone
        else array.swapaxes(0, 1)
        if array.ndim == 3 and len(array[0]) == 1
        else array[None]
        for name, array in outputs.items()
    }


def uneven_rows(counts: Mapping[str, int], samples: int) -> Iterator[Finding]:
    """Says of each output in how many samples the engine has other rows than the original: boxes that it found more."""
    for name, count in counts.items():
        text = (
            f"The engine's {name} has another number of rows than the original's in {count} of {samples} samples: its "
            "parity compares them in order, with rows of zeros where one has less."
        )
        yield Finding(severity="remark", text=text)


def match_outputs(original: Outputs, engine: Outputs) -> MatchedOutputs:
    """Matches the outputs of one batch.

    Args:
        original: every output by name, the main one first.
        engine: every output by name, in any order.

    Raises:
        InputError: the engine has nothing like the main output, or one network ends in a normalisation of it that the
            other leaves to its user.
    """
    main = next(iter(original))
    names = {name: name for name in original if name in engine and _fits(engine[name].shape, original[name].shape)}
    for name, array in original.items():
        alike = [other for other, found in engine.items() if found.shape == array.shape and other not in names.values()]
        if name not in names and alike:
            names[name] = alike[0]
    if main not in names:
        have = ", ".join(f"{name} {array.shape[1:]}" for name, array in engine.items())
        raise InputError(
            f"the engine's outputs are {have} per image, and none is like the original's main "
            f"output {main} {original[main].shape[1:]}: judge it against the network it was made from"
        )
    _refuse_other_ends(original[main], engine[names[main]])
    lacking = [name for name in original if name not in names]
    more = [name for name in engine if name not in names.values()]
    texts = [f"The engine lacks the original's output {name}: it was not compared." for name in lacking]
    texts += [f"The original lacks the engine's output {name}: it was not compared." for name in more]
    findings = [Finding.doubt("an output was not compared", text) for text in texts]
    return MatchedOutputs(main, {name: names[name] for name in original if name in names}, findings)


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether shapes are the same; of one sample alone, the number of boxes may be another."""
    return found == wanted or (len(found) == len(wanted) > 1 and found[0] == wanted[0] == 1 and found[2:] == wanted[2:])


def _refuse_other_ends(original: NDArray[Any], engine: NDArray[Any]) -> None:
    """Holds the numbers of a classifier's rows against each other: plans do not say what they end in."""
    if original.shape != engine.shape or original.ndim != 2 or original.shape[1] < 2:
        return
    if "f" not in (original.dtype.kind, engine.dtype.kind) or not np.isfinite(engine).all():
        return
    for end, of in _ENDS.items():
        if _alike(of(original), engine) and not _alike(original, engine):
            raise InputError(f"the engine ends in {end} and the original does not: export both with the same end")
        if _alike(of(engine), original) and not _alike(engine, original):
            raise InputError(f"the original ends in {end} and the engine does not: export both with the same end")


def _alike(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Equal but for rounding to INT8, beside how much the numbers differ among themselves."""
    apart, spread = np.sqrt(np.mean((found - expected) ** 2)), float(np.std(expected))
    return bool(apart < _ROUNDING * spread)
