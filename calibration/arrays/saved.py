"""What Polygraphy saved: ``--save-inputs`` as samples, ``--save-outputs`` or ``--save-results`` as answers to them.

A file of inputs is a list of iterations, each a mapping from names to arrays with the batch axis first; a file of
results has the same iterations for each runner. So inputs and answers belong together row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from radixrt.errors import InputError, UnavailableError, first_line
from radixrt.export.feed import Array

Row: TypeAlias = dict[str, Array]
"""One sample, or one answer: arrays by name, without a batch axis."""


def is_saved_inputs(path: Path) -> bool:
    """Says whether a JSON file may be one of inputs: it is a list, as nothing else is that names data."""
    with path.open("rb") as stream:
        return stream.read(64).lstrip().startswith(b"[")


def read_inputs(path: Path) -> list[Row]:
    """The samples of a file that ``polygraphy run --save-inputs`` wrote.

    Raises:
        UnavailableError: Polygraphy is not installed.
        InputError: the file holds no arrays by name.
    """
    found = _load(path)
    return list(_rows(path, found if isinstance(found, list) else ()))


def read_outputs(path: Path) -> list[Row]:
    """The answers of the first runner in a file that ``polygraphy run --save-outputs`` wrote.

    Raises:
        UnavailableError: Polygraphy is not installed.
        InputError: the file holds no results.
    """
    runners = getattr(_load(path), "lst", [])
    return list(_rows(path, runners[0][1] if runners else ()))


def _load(path: Path) -> Any:
    try:
        from polygraphy.json import load_json
    except ImportError as error:
        hint = 'Install it: `pip install "radixrt[polygraphy]"`.'
        raise UnavailableError("polygraphy", f"{path} is in its format, and it is not installed", hint) from error
    try:
        return load_json(str(path))
    except Exception as error:  # JSON, base64 and NumPy's own, each with its errors
        raise InputError(f"{path} is not what Polygraphy saves ({first_line(error)}): save it again") from error


def _rows(path: Path, iterations: Iterable[Any]) -> Iterator[Row]:
    """Every sample of every iteration."""
    held = False
    for iteration in iterations:
        arrays = _arrays(iteration)
        counts = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
        if len(counts) != 1 or min(counts) < 1 or any(array.dtype.kind not in "fiub" for array in arrays.values()):
            break
        held = True
        for row in range(counts.pop()):
            yield {name: array[row] for name, array in arrays.items()}
    else:
        if held:
            return
    raise InputError(
        f"{path} does not hold numbers by name, the first axis the samples: save it with `polygraphy run` and "
        "--save-inputs, or --save-outputs for results"
    )


def _arrays(iteration: Any) -> Row:
    """An iteration's arrays; nothing where it maps no names."""
    if not isinstance(iteration, Mapping) and not hasattr(iteration, "items"):
        return {}
    # Polygraphy keeps what is large on disk until it is asked for.
    return {str(name): np.asarray(getattr(one, "load", lambda one=one: one)()) for name, one in iteration.items()}
