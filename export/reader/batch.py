"""Whether a file's free batch is free: exporters bake a batch into a Reshape and call it dynamic all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from radixrt.errors import InputError, first_line
from radixrt.export.feed import Feed, part
from radixrt.export.graph.session import onnx_outputs, random_samples
from radixrt.export.sides import Size

Run = Callable[[Feed], dict[str, np.ndarray]]

_TRIED = (1, 2, 3, 4, 8, 16, 32, 64)


def fixed_batch(proto: onnx.ModelProto, path: Path, size: Size | None = None) -> int | None:
    """Runs a graph, at two sizes where its batch is free, and of images of ``size`` where their sides are.

    Returns:
        The only size that it can be trusted with, or None where the batch is what the file says: where it is free, two
        images together give what each gives alone.

    Raises:
        InputError: the runtime does not take it, or it runs at no size.
    """
    try:
        run = onnx_outputs(proto)
    except Exception as error:  # the runtime's own errors: it lacks the operator in this type, such as float64
        raise InputError(f"{path} cannot be run by ONNX Runtime ({first_line(error)}): export it in float32") from error
    free = not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    failure: Exception | None = None
    for count in _TRIED if free else (1,):
        try:
            found = run(random_samples(proto, count, size))
            # What is spread over a batch that was baked in has its rows, however many samples go in.
            if free and (rows := _rows(found)) > count and _in_order(random_samples(proto, rows, size), run):
                return rows
        except Exception as error:  # the runtime's own errors
            failure = failure or error
            continue
        return None if not free or (count == 1 and _one_by_one(random_samples(proto, 2, size), run)) else count
    assert failure is not None
    raise InputError(f"{path} does not run on an image: {first_line(failure)}") from failure


def _rows(outputs: dict[str, np.ndarray]) -> int:
    """How many rows all outputs have; 0 where they differ, or one is a single number."""
    counts = {len(found) if found.ndim else 0 for found in outputs.values()}
    return counts.pop() if len(counts) == 1 else 0


def _in_order(samples: Feed, run: Run) -> bool:
    """Whether outputs have a row for each sample, which goes where its sample goes."""
    found = run(samples)
    turned = run({name: value[::-1] for name, value in samples.items()})
    return all(_close(turned[name], value[::-1]) for name, value in found.items())


def _one_by_one(both: Feed, run: Run) -> bool:
    """Whether two samples together give two rows, each what its sample gives alone."""
    try:
        together, first, second = run(both), run(part(both, 0, 1)), run(part(both, 1, 2))
    except Exception:  # the runtime's own errors
        return False
    return all(
        found.shape[:1] == (2,) and _close(found[0], first[name][0]) and _close(found[1], second[name][0])
        for name, found in together.items()
    )


def _close(left: np.ndarray, right: np.ndarray) -> bool:
    # A runtime may choose other kernels for another batch; half precision rounds most.
    largest = float(np.abs(right[np.isfinite(right)]).max(initial=0.0))
    return left.shape == right.shape and np.allclose(left, right, rtol=0.0, atol=1e-2 * largest, equal_nan=True)
