"""Where the samples of arrays lie: in a file, in an object that is indexed, or in one that is only iterated.

Whatever it is, a sample is read when it is wanted and the memory does not grow with their number. An object that can
only be iterated is written to a temporary folder once, because samples are wanted more than once.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np

from radixrt.errors import InputError, first_line
from radixrt.export.feed import Array
from radixrt.files import sha256_of

Data: TypeAlias = Any
"""An object that gives samples: see :class:`ObjectStore`."""

TARGETS = ("labels", "label", "targets", "target")
"""Keys of a file that are no inputs unless the network has an input of that name."""
LARGEST_ITERATED = 16_384
"""So many samples of an object that can only be iterated are read: it may have no end."""


@dataclass(frozen=True)
class Sample:
    """One sample as the data has it: ``inputs`` is a mapping, a tuple or an array; ``target`` is None without one."""

    inputs: Any
    target: Any = None


class Store(ABC):
    """Samples that can be read again and again, in rising order; ``name`` begins sentences on them."""

    name: str
    sha256: str | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def rows(self, wanted: Sequence[int], arity: int) -> Iterator[Sample]:
        """The samples of these rising numbers; ``arity`` is how many inputs the network takes."""

    def labels(self) -> Array | None:
        """Every sample's class index; None where there are none, or finding out would take reading every sample."""
        return None

    def first(self, arity: int) -> Sample:
        """The first sample.

        Raises:
            InputError: there is none.
        """
        found = next(self.rows([0], arity), None) if len(self) else None
        if found is None:
            raise InputError(f"{self.name} holds no samples: give it some")
        return found


class FileStore(Store):
    """A ``.npz`` or ``.npy`` file, read row by row: neither is decompressed or mapped as a whole."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, str(path)
        try:
            self._heads = self._read_heads()
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is not a .npz file of numbers ({first_line(error)}): use numpy.savez") from error
        for key, (shape, _, dtype) in self._heads.items():
            if not shape or dtype.kind not in "fiub":
                what = "a single number" if not shape else str(dtype)
                raise InputError(f"{path}: {key} is {what}: give numbers, the first axis the samples")
        counts = {key: shape[0] for key, (shape, _, _) in self._heads.items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{key} {count}" for key, count in counts.items())
            raise InputError(f"{path}: its arrays have different numbers of samples ({said}): mend the file")
        self._count = next(iter(counts.values()), 0)
        if not self._count:
            raise InputError(f"{path} holds no samples: give it some")

    def __len__(self) -> int:
        return self._count

    @cached_property
    def sha256(self) -> str:  # type: ignore[override]
        return sha256_of(self.path)

    @property
    def _target(self) -> str | None:
        return next((key for key in TARGETS if key in self._heads and len(self._heads) > 1), None)

    def rows(self, wanted: Sequence[int], arity: int) -> Iterator[Sample]:
        target = self._target
        streams = {key: self._rows_of(key, wanted) for key in self._heads}
        for _ in wanted:
            row = {key: next(stream) for key, stream in streams.items()}
            answer = row.pop(target) if target else None
            inputs: Any = row if self.path.suffix.lower() == ".npz" and set(row) != {"arr_0"} else row.popitem()[1]
            yield Sample(inputs, answer.item() if answer is not None and answer.ndim == 0 else answer)

    def labels(self) -> Array | None:
        target = self._target
        if target is None:
            return None
        shape, _, dtype = self._heads[target]
        if len(shape) != 1 or dtype.kind not in "iu":
            return None
        return np.asarray([row.item() for row in self._rows_of(target, range(len(self)))])

    def _read_heads(self) -> dict[str, tuple[tuple[int, ...], bool, np.dtype[Any]]]:
        if self.path.suffix.lower() == ".npy":
            with self.path.open("rb") as stream:
                return {"arr_0": _head(stream)}
        heads = {}
        with zipfile.ZipFile(self.path) as archive:
            for member in archive.namelist():
                with archive.open(member) as stream:
                    heads[member.removesuffix(".npy")] = _head(stream)
        if not heads:
            raise InputError(f"{self.path} holds nothing: write one array for each input with numpy.savez")
        return heads

    def _rows_of(self, key: str, wanted: Sequence[int]) -> Iterator[Array]:
        shape, fortran, dtype = self._heads[key]
        if fortran:  # rows do not lie together there
            loaded = np.load(self.path, allow_pickle=False)
            array = loaded if isinstance(loaded, np.ndarray) else loaded[key]
            yield from (np.ascontiguousarray(array[index]) for index in wanted)
            return
        length = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        with self._opened(key) as stream:
            _head(stream)
            at = 0
            for index in wanted:
                _skip(stream, (index - at) * length)
                content = stream.read(length)
                if len(content) != length:
                    raise InputError(f"{self.path} ends within {key}: it is truncated, write it again")
                at = index + 1
                yield np.frombuffer(content, dtype).reshape(shape[1:])

    def _opened(self, key: str) -> Any:
        if self.path.suffix.lower() == ".npy":
            return self.path.open("rb")
        return zipfile.ZipFile(self.path).open(f"{key}.npy")


def _head(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return shape, fortran, dtype


def _skip(stream: IO[bytes], count: int) -> None:
    if stream.seekable() and not isinstance(stream, zipfile.ZipExtFile):
        stream.seek(count, 1)
        return
    while count > 0:
        count -= len(stream.read(min(count, 1 << 20))) or count


class ObjectStore(Store):
    """A PyTorch ``Dataset``, a list, or anything that can be iterated."""

    def __init__(self, data: Any, name: str) -> None:
        self._data, self.name = data, name
        self._spool: _Spool | None = None
        indexed = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (Mapping, str))
        if not indexed and not hasattr(data, "__iter__"):
            raise InputError(f"{name} is no data: give a Dataset, a list or an iterable of (inputs, target)")
        if isinstance(data, Mapping):
            raise InputError(f"{name} maps names to arrays: give one mapping for each sample, or a .npz file")
        if not indexed:
            self._spool = _Spool(self._iterated())

    def __len__(self) -> int:
        return len(self._data) if self._spool is None else len(self._spool)

    def rows(self, wanted: Sequence[int], arity: int) -> Iterator[Sample]:
        for index in wanted:
            yield _sample(self._item(index), arity)

    def labels(self) -> Array | None:
        return None

    def _item(self, index: int) -> Any:
        if self._spool is not None:
            return self._spool[index]
        try:
            return _plain(self._data[index])
        except Exception as error:  # the data is the user's own code
            raise InputError(
                f"{self.name} fails at sample {index}: {type(error).__name__}: {first_line(error)}"
            ) from error

    def _iterated(self) -> Iterator[Any]:
        batched = getattr(self._data, "batch_size", None) is not None
        try:
            for item in self._data:
                plain = _plain(item)
                yield from (_unbatched(plain) if batched else [plain])
        except InputError:
            raise
        except Exception as error:  # the data is the user's own code
            raise InputError(f"{self.name} fails: {type(error).__name__}: {first_line(error)}") from error


class _Spool:
    """Items in a temporary folder, one file each; the folder goes when this goes."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="radixrt-samples-")
        digest = hashlib.sha256()
        self._count = 0
        import pickle

        for item in items:
            content = pickle.dumps(item, protocol=5)
            digest.update(content)
            Path(self._folder.name, f"{self._count}").write_bytes(content)
            self._count += 1
            if self._count == LARGEST_ITERATED:
                break
        self.sha256 = digest.hexdigest()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        import pickle

        return pickle.loads(Path(self._folder.name, f"{index}").read_bytes())


def _plain(item: Any) -> Any:
    """The same with arrays in the place of tensors."""
    if isinstance(item, Mapping):
        return {str(key): _plain(value) for key, value in item.items()}
    if isinstance(item, (tuple, list)):
        return tuple(_plain(value) for value in item)
    if hasattr(item, "detach"):
        return item.detach().cpu().numpy()
    return item


def _unbatched(item: Any) -> Iterator[Any]:
    """The samples of a batch as a ``DataLoader`` gives it."""

    def length(part: Any) -> int:
        if isinstance(part, Mapping):
            return length(next(iter(part.values())))
        return length(part[0]) if isinstance(part, tuple) else len(part)

    def pick(part: Any, index: int) -> Any:
        if isinstance(part, Mapping):
            return {key: pick(value, index) for key, value in part.items()}
        return tuple(pick(value, index) for value in part) if isinstance(part, tuple) else part[index]

    for index in range(length(item)):
        yield pick(item, index)


def _sample(item: Any, arity: int) -> Sample:
    """Tells the inputs of an item from its target, where it has one."""
    if isinstance(item, tuple) and len(item) == 2:
        first, second = item
        if isinstance(first, (Mapping, tuple)) or arity == 1:
            return Sample(first, _target(second))
    elif isinstance(item, tuple) and arity == 1 and len(item) == 1:
        return Sample(item[0])
    return Sample(item)


def _target(value: Any) -> Any:
    return value.item() if isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0 else value
