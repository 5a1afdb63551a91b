"""What an earlier run of the same command made is taken again, and the user is told what was."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import TypeAdapter
from typing_extensions import Self

import radixrt
from radixrt import __version__
from radixrt.engines.cache.results import StageCache, default_root, stage_key
from radixrt.progress import LOGGER

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_JSON = "result.json"

# The libraries whose change could change what a stage makes.
LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime", "numpy")

# Weights are kept several times over, so a cache that only grew would fill a disk in a week of trials.
LARGEST_CACHE = 8_000_000_000


def library_versions() -> dict[str, str]:
    """The versions that decide what a build makes."""
    return {"radixrt": __version__, **{name: version(name) for name in LIBRARIES}}


@cache
def source_sha256() -> str:
    """A hash of RadixRT's own code, which changes between two releases where somebody works on it."""
    digest = hashlib.sha256()
    root = Path(radixrt.__file__).parent
    # Four packages are reached through links, which rglob does not follow.
    files = (Path(folder, name) for folder, _, names in os.walk(root, followlinks=True) for name in names)
    for path in sorted(path for path in files if path.suffix == ".py"):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def weights_sha256(module: torch.nn.Module) -> str:
    """A hash of a network's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Codec(Generic[T]):
    """How a result is kept: ``write`` puts it into an empty folder, ``read`` gives it back as it was."""

    write: Callable[[T, Path], None]
    read: Callable[[Path], T]


def as_json(kind: Any) -> Codec[Any]:
    """Keeps what pydantic can write and read: a model, a dataclass, or a dictionary of them."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)

    def write(value: Any, folder: Path) -> None:
        (folder / _JSON).write_bytes(adapter.dump_json(value))

    return Codec(write, lambda folder: adapter.validate_json((folder / _JSON).read_bytes()))


@dataclass(frozen=True)
class Step(Generic[T]):
    """Work whose result may be taken from an earlier run.

    Attributes:
        name: what the user reads of it, such as ``calibration``.
        codec: how its result is kept.
        inputs: the hashes of what it works on, by role.
        options: all else that decides the result, as :func:`radixrt.engines.cache.results.stage_key` takes it.
    """

    name: str
    codec: Codec[T]
    inputs: Mapping[str, str]
    options: object = None


@dataclass(frozen=True)
class Kept(Generic[T]):
    """A step's result; ``reused`` names the step where the result was taken from an earlier run."""

    value: T
    reused: tuple[str, ...] = ()


class Reuse:
    """Finds the results of earlier runs, and keeps new ones. A context manager.

    Args:
        fresh: take nothing from earlier runs.
        root: where results are kept.

    Attributes:
        forms: the file of measured forms; None is the user's own.
    """

    def __init__(self, *, fresh: bool = False, root: Path | None = None) -> None:
        self._stack = ExitStack()
        root = root or default_root()
        self.forms: Path | None = None
        self._for_later = set[str]()
        # A fresh run, or one whose home cannot be written to, keeps its results only while it lasts.
        if fresh or not _writable(root):
            root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="radixrt-")))
            self.forms = root / "forms.json"
        self._cache = self._stack.enter_context(StageCache(root))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cache.prune(max_bytes=LARGEST_CACHE)
        self._stack.close()

    def step(self, step: Step[T], make: Callable[[], T], *, for_later: bool = False) -> Kept[T]:
        """Takes a step's result from an earlier run, or makes it and keeps it for the next.

        What is made ``for_later`` is nothing of an earlier run to who asks for it in this one.

        Raises:
            InputError: the disk is full or not writable.
        """
        key = self._key(step)
        # Whoever makes the same thing at this moment is waited for: what builds share is made once.
        with self._cache.making(key):
            folder = self._cache.get(key)
            LOGGER.debug("%s: %s %s", step.name, "made anew as" if folder is None else "taken from", key)
            if folder is not None:
                return Kept(step.codec.read(folder), () if key in self._for_later else (step.name,))
            value = make()
            if for_later:
                self._for_later.add(key)
            self._cache.put(key, step.name, lambda empty: step.codec.write(value, empty))
            return Kept(value)

    def knows(self, step: Step[Any]) -> bool:
        """Whether a step's result need not be made."""
        return self._cache.get(self._key(step)) is not None

    def unfinished(self, step: Step[T]) -> Path:
        """Where a step that may be interrupted keeps what it has done so far."""
        return self._cache.unfinished(self._key(step))

    def _key(self, step: Step[T]) -> str:
        """The address of a step's result; the versions of the libraries are part of it."""
        versions = {**library_versions(), "source": source_sha256()}
        return stage_key(step.name, inputs=step.inputs, options=step.options, versions=versions)


def _writable(root: Path) -> bool:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return True
    except OSError:
        return False
