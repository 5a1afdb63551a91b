"""What an engine is timed against beside the original: ``torch.compile``, and engines of earlier bundles.

Both are asked for by name, because compiling takes minutes and an earlier bundle must be there.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.bundle.manifest import MANIFEST_NAME
from radixrt.errors import InputError
from radixrt.export.spec import BatchSpec
from radixrt.files import sha256_of
from radixrt.judge.batching import Logits, Runner, session_runner

if TYPE_CHECKING:
    import torch

COMPILE = "compile"
COMPILE_SECONDS = 300.0


@dataclass(frozen=True)
class Rivals:
    """Which runners take part in the timing, and at which batch sizes.

    Attributes:
        names: ``compile``, or paths of bundles.
        sweep: batch sizes; the engine's smallest and largest where empty.
    """

    names: tuple[str, ...] = ()
    sweep: tuple[int, ...] = ()

    @classmethod
    def parse(cls, against: Sequence[str], sweep: str | None) -> Rivals:
        """Reads what was typed, and refuses what cannot be before anything long starts.

        Args:
            against: ``compile`` or paths of bundles, each also several with commas between them.
            sweep: sizes with commas between them.

        Raises:
            InputError: a size is not a positive number, or a path is no bundle whose files are as its manifest says.
        """
        names = [name.strip() for text in against for name in text.split(",") if name.strip()]
        try:
            sizes = [int(size) for size in sweep.split(",")] if sweep else []
        except ValueError as error:
            raise InputError(
                f"--batch-sweep is {sweep!r}: give sizes from 1 up with commas, such as 1,2,4,8"
            ) from error
        return cls.of(names, sizes)

    @classmethod
    def of(cls, names: Sequence[str], sizes: Sequence[int]) -> Rivals:
        """Takes names and sizes as they are, each once, and refuses what cannot be.

        Raises:
            InputError: a size is below 1, or a path is no bundle whose files are as its manifest says.
        """
        for name in names:
            if name != COMPILE:
                Bundle.read(Path(name))
        if any(size < 1 for size in sizes):
            given = ",".join(str(size) for size in sizes)
            raise InputError(f"the batch sweep is {given}: give sizes from 1 up, such as 1,2,4,8")
        return cls(tuple(dict.fromkeys(names)), tuple(sorted(set(sizes))))

    def identity(self) -> tuple[str, ...]:
        """What they are, so that times of others are not taken again for these."""
        return tuple(n if n == COMPILE else f"{n} {sha256_of(Path(n) / MANIFEST_NAME)}" for n in self.names)

    def sizes(self, batch: BatchSpec) -> tuple[tuple[int, ...], list[str]]:
        """The batch sizes to time, and a sentence on those that the engine does not take."""
        fit = tuple(size for size in self.sweep if batch.min <= size <= batch.max)
        left = [str(size) for size in self.sweep if size not in fit]
        said = f"Not timed at batch {', '.join(left)}: the engine takes {batch.min} to {batch.max}."
        return fit or tuple(sorted({batch.min, batch.max})), [said] if left else []


@dataclass
class Opponents:
    """Open runners by name, and what is to be said of those that could not be opened."""

    runners: dict[str, Runner] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@contextmanager
def opponents(
    names: Sequence[str],
    module: torch.nn.Module | None,
    images: NDArray[np.float32],
    sizes: Sequence[int],
    threads: int,
) -> Iterator[Opponents]:
    """Opens the runners that are to be timed beside the engine, and closes them.

    Args:
        names: as in :class:`Rivals`.
        module: the original network; absent where it is an ONNX file.
        images: what they will be timed on, (N, C, H, W).
        sizes: the batch sizes.
        threads: threads of an earlier bundle's engine.

    Raises:
        InputError: a bundle takes images of another shape.
        UnavailableError: a bundle's engine cannot run here.
    """
    found = Opponents()
    folders = [Path(name).name for name in names]
    with ExitStack() as stack:
        for name in names:
            if name != COMPILE:
                bundle = Bundle.read(Path(name))
                shape = bundle.manifest.inputs[0].shape[1:]
                if shape != images.shape[1:]:
                    raise InputError(f"{name} takes images of {shape}, not {images.shape[1:]}: compare like with like")
                session = stack.enter_context(bundle.open(threads=threads))
                # Builds of one network often lie in folders of one name: the path tells them apart.
                title = name if folders.count(Path(name).name) > 1 else Path(name).name
                found.runners[f"bundle {title}"] = session_runner(session, BatchSpec(*bundle.manifest.batch))
            elif module is None:
                found.notes.append("torch.compile was not timed: the original is an ONNX file.")
            else:
                try:
                    found.runners["torch.compile"] = compiled(module, images, sizes)
                except Exception as error:  # the compiler raises whatever its backends raise
                    lines = str(error).strip().splitlines()
                    why = f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
                    found.notes.append(f"torch.compile was not timed: it failed ({why}).")
        yield found


def compiled(module: torch.nn.Module, images: NDArray[np.float32], sizes: Sequence[int]) -> Runner:
    """The network through ``torch.compile``, compiled for each batch size before it is timed.

    Raises:
        TimeoutError: compiling took longer than ``COMPILE_SECONDS``.
    """
    import torch

    from radixrt.export.source.outputs import heads_of

    quick = torch.compile(module.eval(), dynamic=False)

    def run(batch: NDArray[np.float32]) -> Logits:
        with torch.no_grad():
            heads = heads_of(quick(torch.from_numpy(np.ascontiguousarray(batch))))
        # Every output comes out, as it does of the runners that it is timed against.
        found = {name: tensor.numpy() for name, tensor in heads.tensors.items()}
        return found[heads.logits]

    with _at_most(COMPILE_SECONDS):
        for size in sizes:
            run(images[:size])
    return run


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Interrupts its body after a time. Only the main thread can be interrupted: elsewhere the body is not bounded."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it took more than {math.ceil(seconds)} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
