"""Opens what an engine is timed against beside the original."""

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

from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.runners import Logits, Runner, session_runner
from radixrt.errors import InputError
from radixrt.export.feed import Feed, part, shapes
from radixrt.export.spec import BatchSpec
from radixrt.validate.measure.latency import EARLIER
from radixrt.validate.rivals import COMPILE

if TYPE_CHECKING:
    import torch

    from radixrt.export.source.module_inputs import ModuleInputs

COMPILE_SECONDS = 300.0


@dataclass
class Opponents:
    """Open runners by name, and what is to be said of those that could not be opened."""

    runners: dict[str, Runner] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@contextmanager
def opponents(
    names: Sequence[str],
    module: torch.nn.Module | None,
    inputs: ModuleInputs | None,
    samples: Feed,
    sizes: Sequence[int],
    threads: int,
) -> Iterator[Opponents]:
    """Opens the runners that are to be timed beside the engine, and closes them.

    Args:
        names: as in :class:`Rivals`.
        module: the original network; absent where it is an ONNX file.
        inputs: what it is called with.
        samples: what they will be timed on.
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
                theirs, ours = (i.shape[1:] for i in bundle.manifest.inputs), (a.shape[1:] for a in samples.values())
                if sorted(theirs) != sorted(ours):
                    raise InputError(f"{name} does not take samples of {shapes(samples)}: compare like with like")
                session = stack.enter_context(bundle.open(threads=threads))
                # Builds of one network often lie in folders of one name: the path tells them apart.
                title = name if folders.count(Path(name).name) > 1 else Path(name).name
                found.runners[f"{EARLIER}{title}"] = session_runner(session, BatchSpec(*bundle.manifest.batch))
            elif module is None or inputs is None:
                found.notes.append("torch.compile was not timed: the original is an ONNX file.")
            else:
                try:
                    found.runners["torch.compile"] = compiled(module, inputs, samples, sizes)
                except Exception as error:  # the compiler raises whatever its backends raise
                    lines = str(error).strip().splitlines()
                    why = f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
                    found.notes.append(f"torch.compile was not timed: it failed ({why}).")
        yield found


def compiled(module: torch.nn.Module, inputs: ModuleInputs, samples: Feed, sizes: Sequence[int]) -> Runner:
    """The network through ``torch.compile``, compiled for each batch size before it is timed.

    Raises:
        TimeoutError: compiling took longer than ``COMPILE_SECONDS``.
    """
    import torch

    from radixrt.export.source.outputs import named_outputs

    quick = torch.compile(module.eval(), dynamic=False)

    def run(feed: Feed) -> Logits:
        with torch.no_grad():
            named = named_outputs(inputs.call(quick, feed), taken=feed)
        # Every output comes out, as it does of the runners that it is timed against.
        found = {name: tensor.numpy() for name, tensor in named.tensors.items()}
        return found[named.main]

    with _at_most(COMPILE_SECONDS):
        for size in sizes:
            run(part(samples, 0, size))
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
