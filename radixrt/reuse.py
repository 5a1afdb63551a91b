"""What an earlier run of the same command made is taken again, and the user is told what was."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from typing_extensions import Self

import radixrt
from radixrt import __version__
from radixrt.engines.cache.results import StageCache, default_root, stage_key

if TYPE_CHECKING:
    import torch

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


class Reuse:
    """Finds the results of earlier stages. A context manager.

    Args:
        fresh: take nothing from earlier runs.
        root: where results are kept.

    Attributes:
        taken: the stages whose result was found, in the order in which they were asked for.
        forms: the file of measured forms; None is the user's own.
    """

    def __init__(self, *, fresh: bool = False, root: Path | None = None) -> None:
        self._stack = ExitStack()
        root = root or default_root()
        self.forms: Path | None = None
        # A fresh run, or one whose home cannot be written to, keeps its results only while it lasts.
        if fresh or not _writable(root):
            root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="radixrt-")))
            self.forms = root / "forms.json"
        self._cache = self._stack.enter_context(StageCache(root))
        self.taken: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cache.prune(max_bytes=LARGEST_CACHE)
        self._stack.close()

    def key(self, stage: str, *, inputs: Mapping[str, str], options: object = None) -> str:
        """The address of a stage's result; the versions of the libraries are part of it."""
        versions = {**library_versions(), "source": source_sha256()}
        return stage_key(stage, inputs=inputs, options=options, versions=versions)

    def once(self) -> str:
        """An address that nothing else has: for a result that must not be taken again."""
        return self.key("once", inputs={"nonce": secrets.token_hex(16)})

    def find(self, key: str, stage: str) -> Path | None:
        """The folder with what the stage wrote in an earlier run."""
        found = self._cache.get(key)
        if found is not None:
            self.taken.append(stage)
        return found

    def unfinished(self, key: str) -> Path:
        """Where a stage that may be interrupted keeps what it has done so far."""
        return self._cache.unfinished(key)

    def keep(self, key: str, stage: str, write: Callable[[Path], None]) -> Path:
        """Does a stage and keeps what it writes into the folder that it is given."""
        return self._cache.put(key, stage, write)


def _writable(root: Path) -> bool:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            return True
    except OSError:
        return False
