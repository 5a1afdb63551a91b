"""Arrays that somebody else prepared, one for each input of a network.

==============================================  =============================================================
a ``.npz`` file                                 its keys are the inputs' names, its first axis the samples; ``targets``
                                                or ``labels`` beside them is what each sample is labelled with
a ``.npy`` file                                 the one input
a folder with ``calibration.npz``, ``test.npz``  these two
a ``.json`` file                                what ``polygraphy run --save-inputs`` wrote
``pkg.module:factory``, ``file.py:factory``     called without arguments; see next
an object in Python                             a PyTorch ``Dataset``, a list, or anything that can be iterated, of
                                                ``(inputs, target)`` or of inputs alone, of single samples or batches
==============================================  =============================================================

Inputs are a mapping by name, a tuple or list in the network's order, or the one array. A target is a class index, an
array of numbers, of zeros and ones for each label, or (H, W) of class indices, or a text. Data that has targets is
split as images are (:mod:`radixrt.calibration.data.splits`); without them all samples calibrate, and judge as well.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from radixrt.calibration.arrays.saved import is_saved_inputs, read_inputs
from radixrt.calibration.arrays.stores import FileStore, ObjectStore, Sample, Store
from radixrt.calibration.data.batch import Batch, Samples
from radixrt.calibration.data.splits import CALIBRATION_SHARE, position
from radixrt.calibration.data.targets import Target, TargetKind
from radixrt.errors import InputError, first_line
from radixrt.export.feed import Array
from radixrt.export.spec import InputSpec

CALIBRATION, TEST = "calibration", "test"
_HASHED = 512
"""More samples than this are read once only, so they are not hashed and nothing of them is taken from earlier runs."""


class ArraySource:
    """Arrays that were named, before it is known what the network takes of them.

    Args:
        spec: what the user wrote, for messages.
        calibration: the samples; some of them test where ``test`` is absent and they have targets.
        test: samples of their own.
    """

    def __init__(self, spec: str, calibration: Store, test: Store | None = None) -> None:
        self.spec, self._calibration, self._test = spec, calibration, test

    def example(self, arity: int) -> Any:
        """The inputs of the first sample as the data has them: a mapping, a tuple, or an array, without a batch axis.

        Args:
            arity: how many inputs the network takes at the least.

        Raises:
            InputError: there is none, or it is nothing of these.
        """
        return self._calibration.first(arity).inputs

    def split(self, inputs: Sequence[InputSpec], limit: int) -> tuple[ArrayList, ArrayList | None]:
        """The samples that calibrate, and those that test.

        Args:
            inputs: what the network takes.
            limit: at most so many calibrate.

        Raises:
            InputError: an input is missing, or has another shape or type; before anything but the first sample is read.
        """
        stores = [store for store in (self._calibration, self._test) if store is not None]
        for store in stores:
            named(store.first(len(inputs)).inputs, inputs, store.name)
        if self._test is not None:
            return (
                ArrayList(self._calibration, inputs, _spread(range(len(self._calibration)), limit)),
                ArrayList(self._test, inputs, range(len(self._test))),
            )
        store, every = self._calibration, range(len(self._calibration))
        if store.first(len(inputs)).target is None or len(store) < 2:
            return ArrayList(store, inputs, _spread(every, limit)), None
        order = sorted(every, key=lambda index: position(str(index)))
        count = sum(position(str(index)) < CALIBRATION_SHARE for index in every)
        count = min(max(count, 1), len(order) - 1)
        return ArrayList(store, inputs, sorted(order[:count][:limit])), ArrayList(store, inputs, sorted(order[count:]))


class ArrayList(Samples):
    """Some of the samples of a store, in its order."""

    def __init__(self, store: Store, inputs: Sequence[InputSpec], chosen: Sequence[int]) -> None:
        self._store, self._inputs, self._chosen = store, tuple(inputs), tuple(chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"#{index}" for index in self._chosen)

    @cached_property
    def targets(self) -> tuple[Target, ...] | None:
        found = self._store.labels()
        return None if found is None else tuple(int(found[index]) for index in self._chosen)

    @cached_property
    def kind(self) -> TargetKind | None:
        """What the targets are, as the first one shows."""
        return kind_of(self._store.first(len(self._inputs)).target)

    def classes_below(self, count: int) -> bool:
        """Whether the targets are class indices below ``count``, as far as that shows without reading every sample."""
        found = self.targets or (self._store.first(len(self._inputs)).target,)
        return self.kind is TargetKind.CLASSES and min(found) >= 0 and max(found) < count

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256(repr([self._inputs, self._chosen]).encode())
        if self._store.sha256 is not None:
            digest.update(self._store.sha256.encode())
        elif len(self) > _HASHED:
            digest.update(uuid.uuid4().bytes)
        else:
            for batch in self.batches(self.together()):
                for array in batch.inputs.values():
                    digest.update(array.tobytes())
                digest.update(repr(batch.targets).encode())
        return digest.hexdigest()

    @property
    def prepared_sha256(self) -> str:
        return self.sha256

    @cached_property
    def sample_bytes(self) -> int:
        first = named(self._store.first(len(self._inputs)).inputs, self._inputs, self._store.name)
        return sum(array.nbytes for array in first.values())

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        if size < 1:
            raise ValueError(f"a batch of {size} samples")
        chosen = self._chosen if limit is None else _spread(self._chosen, limit)
        # Where sides are free, samples of one size make a batch.
        alike: dict[tuple[tuple[int, ...], ...], list[tuple[int, dict[str, Array], Any]]] = {}
        for index, sample in zip(chosen, self._store.rows(chosen, len(self._inputs)), strict=True):
            arrays = named(sample.inputs, self._inputs, f"{self._store.name}, sample {index}")
            held = alike.setdefault(key := tuple(array.shape for array in arrays.values()), [])
            held.append((index, arrays, sample.target))
            if len(held) == size:
                yield _batch(alike.pop(key))
        for held in alike.values():
            yield _batch(held)


def _batch(held: Sequence[tuple[int, dict[str, Array], Any]]) -> Batch:
    inputs = {name: np.stack([arrays[name] for _, arrays, _ in held]) for name in held[0][1]}
    targets = tuple(_told(target) for _, _, target in held)
    return Batch(
        inputs=inputs,
        targets=None if any(target is None for target in targets) else targets,
        names=tuple(f"#{index}" for index, _, _ in held),
    )


def kind_of(target: Any) -> TargetKind | None:
    """What a target is: a whole number is a class, other numbers are numbers, a map of whole numbers is a mask."""
    if target is None:
        return None
    if isinstance(target, (bool, int)):
        return TargetKind.CLASSES
    if isinstance(target, str):
        return TargetKind.TEXTS
    if isinstance(target, Mapping) or hasattr(target, "boxes"):
        return TargetKind.BOXES
    array = np.asarray(target)
    if array.ndim == 2 and array.dtype.kind in "iub":
        return TargetKind.MASKS
    if array.ndim > 1:
        return None
    return TargetKind.NUMBERS if array.dtype.kind == "f" else TargetKind.LABELS


def _told(target: Any) -> Any:
    """A target as :data:`Target` has it."""
    match kind_of(target):
        case TargetKind.MASKS:
            return np.asarray(target).astype(np.uint8)
        case TargetKind.NUMBERS:
            return tuple(np.asarray(target, np.float64).reshape(-1).tolist())
        case TargetKind.LABELS:  # a zero or one for each label
            return tuple(np.flatnonzero(target).tolist())
        case _:
            return target


def _spread(indices: Sequence[int], limit: int) -> Sequence[int]:
    """At most ``limit`` of the indices, evenly: files are often sorted by what they show."""
    if limit >= len(indices):
        return indices
    return [indices[i * len(indices) // limit] for i in range(limit)]


def named(inputs: Any, specs: Sequence[InputSpec], where: str) -> dict[str, Array]:
    """One sample's inputs by the network's names, in its types.

    Args:
        inputs: a mapping by name, a tuple or list in the network's order, or the one array.
        specs: what the network takes.
        where: whose they are, to begin a sentence with.

    Raises:
        InputError: an input is missing, or has another shape or type.
    """
    names = [spec.name for spec in specs]
    if isinstance(inputs, Mapping):
        if missing := [name for name in names if name not in inputs]:
            raise InputError(
                f"{where} lacks the input {missing[0]} (it has {', '.join(map(str, inputs))}): the network takes "
                f"{', '.join(map(str, specs))}"
            )
        arrays = [inputs[name] for name in names]
    else:
        arrays = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
        if len(arrays) != len(specs):
            raise InputError(f"{where} has {len(arrays)} inputs: the network takes {', '.join(map(str, specs))}")
    return {spec.name: _fitting(np.asarray(array), spec, where) for spec, array in zip(specs, arrays, strict=True)}


def _fitting(array: Array, spec: InputSpec, where: str) -> Array:
    wanted = np.dtype(spec.dtype)
    if not spec.takes(array.shape):
        shape = " x ".join(map(str, ("N", *array.shape)))
        raise InputError(f"{where} has {spec.name} of {shape}, and the network takes {spec}: give it that shape")
    kinds = {"u": "i"}
    if kinds.get(array.dtype.kind, array.dtype.kind) != kinds.get(wanted.kind, wanted.kind):
        raise InputError(
            f"{where} has {spec.name} as {array.dtype}, and the network takes {spec}: convert it"
            f"{', normalised,' if wanted.kind == 'f' else ''} first"
        )
    found = array.astype(wanted, copy=False)
    if wanted.kind in "iu" and not np.array_equal(found, array):
        raise InputError(f"{where} has numbers in {spec.name} that {wanted} cannot hold: mend the data")
    if wanted.kind == "f" and not np.isfinite(found).all():
        raise InputError(f"{where} has NaN or infinite numbers in {spec.name}: mend the data")
    return found


def example_specs(inputs: Any) -> list[InputSpec]:
    """What a sample shows of inputs that it names; nothing where it does not name them."""
    if not isinstance(inputs, Mapping):
        return []
    return [
        InputSpec(str(name), (None, *np.shape(array)), np.asarray(array).dtype.name) for name, array in inputs.items()
    ]


def open_arrays(data: object) -> ArraySource | None:
    """Finds the arrays that somebody named.

    Args:
        data: a path, a factory's name, or an object; None for nothing.

    Returns:
        None where it names images.

    Raises:
        InputError: the files are damaged, or the factory fails.
    """
    if data is None:
        return None
    if not isinstance(data, (str, Path)):
        return ArraySource(f"a {type(data).__name__}", ObjectStore(data, f"the {type(data).__name__}"))
    path = Path(data).expanduser()
    if path.is_dir():
        halves = [next(iter(sorted(path.glob(f"{half}.np[yz]"))), None) for half in (CALIBRATION, TEST)]
        if halves == [None, None]:
            return None
        if halves[0] is None:
            raise InputError(f"{path} holds test.npz but no calibration.npz: add it, or name the file itself")
        test = FileStore(halves[1]) if halves[1] is not None else None
        return ArraySource(str(data), FileStore(halves[0]), test)
    if path.suffix.lower() in (".npz", ".npy"):
        if not path.is_file():
            raise InputError(f"there is no data at {path}: name a .npz file of arrays")
        return ArraySource(str(data), FileStore(path))
    if path.suffix.lower() == ".json" and path.is_file() and is_saved_inputs(path):
        return ArraySource(str(data), ObjectStore(read_inputs(path), str(path)))
    if not path.exists() and ":" in str(data):
        return ArraySource(str(data), ObjectStore(_made(str(data)), str(data)))
    return None


def _made(reference: str) -> object:
    from radixrt.export.source.user_code import load_function

    factory = load_function(reference, "that makes the data")
    try:
        return factory()
    except Exception as error:  # the factory is the user's
        raise InputError(f"{reference} does not make the data: {type(error).__name__}: {first_line(error)}") from error


__all__ = ["ArrayList", "ArraySource", "Sample", "named", "open_arrays"]
