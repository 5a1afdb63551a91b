"""The original network: what an engine's answers are held against, and what its times stand beside."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from radixrt.calibration.arrays.saved import Row, read_outputs
from radixrt.calibration.arrays.source import ArrayList
from radixrt.calibration.data.batch import Batch, Samples
from radixrt.engines.base import BuildOptions
from radixrt.engines.registry import stand_in
from radixrt.engines.runners import Outputs, OutputsRunner, in_batches, session_outputs
from radixrt.errors import InputError
from radixrt.export.feed import Feed, shapes
from radixrt.export.spec import BatchSpec, Precision

if TYPE_CHECKING:
    import torch

    from radixrt.export.source.module_inputs import ModuleInputs

LARGEST_ANSWERS = 256_000_000


@dataclass
class Reference:
    """The original network, and its answers, each computed once for all targets.

    Attributes:
        name: how the report calls the runner.
        short: how it calls the network: what it is.
        run: takes inputs by name for any N, images normalised, and gives every output by name, the logits first.
        timed: opens the same call as somebody would run it who knows no compiler, with so many threads; 0 lets the
            runtime choose.
        remark: what a reader of its times must know, once they were taken.
    """

    name: str
    short: str
    run: OutputsRunner
    timed: Callable[[int], AbstractContextManager[OutputsRunner]]
    remark: str = ""
    _answers: dict[tuple[str, ...], Outputs] = field(default_factory=dict)
    _held: int = 0

    def answer(self, batch: Batch) -> Outputs:
        """The outputs for a batch of the test."""
        key = (*batch.names, shapes(batch.inputs))
        if key in self._answers:
            return self._answers[key]
        found = self.run(batch.inputs)
        size = sum(array.nbytes for array in found.values())
        # An output may be as large as a feature map: what does not fit is computed again for the next target.
        if self._held + size <= LARGEST_ANSWERS:
            self._answers[key] = found
            self._held += size
        return found


def torch_reference(
    module: torch.nn.Module, inputs: ModuleInputs, logits: str | None, ready: Callable[[], None]
) -> Reference:
    """A module in PyTorch, called with ``inputs``; ``ready`` is called before each run."""
    from radixrt.export.source.reference import torch_outputs

    outputs = torch_outputs(module, inputs, logits)

    def run(feed: Feed) -> Outputs:
        ready()
        return outputs(feed)

    @contextmanager
    def timed(threads: int) -> Iterator[OutputsRunner]:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            yield run
        finally:
            torch.set_num_threads(before)

    return Reference("PyTorch eager", "PyTorch", run, timed)


def onnx_reference(graph: ir.Model) -> Reference:
    """An ONNX file in ONNX Runtime: its answers are those of the graph as it stands, its times those of an engine."""
    from radixrt.export.graph.session import onnx_outputs

    shape = graph.graph.inputs[0].shape
    size = shape[0] if shape is not None and isinstance(shape[0], int) else None
    run = onnx_outputs(graph)

    @contextmanager
    def timed(threads: int) -> Iterator[OutputsRunner]:
        target = stand_in()
        with tempfile.TemporaryDirectory(prefix="radixrt-original-") as folder:
            options = BuildOptions(Precision.FP32, threads=threads)
            try:
                session = target.open_graph(graph, Path(folder), options)
            except InputError:  # what an engine must not be, an original may: one that the runtime's optimiser breaks
                ir.save(graph, file := Path(folder, "original.onnx"))
                session = target.open(file, threads=threads)
            with session:
                reference.remark = session.remark
                yield session_outputs(session, BatchSpec(size, size)) if size else lambda feed: session.run(dict(feed))

    name, short = "ONNX Runtime, original graph", "ONNX original"
    reference = Reference(name, short, in_batches(run, BatchSpec(size, size)) if size else run, timed)
    return reference


def is_saved(reference: str | None) -> bool:
    """Says whether a reference is a file of results rather than a network."""
    return reference is not None and reference.endswith(".json")


@dataclass(frozen=True)
class SavedResults:
    """What Polygraphy saved as a network's answers to the inputs of one run, in their order; to no others."""

    file: Path
    answers: Sequence[Row]

    @classmethod
    def read(cls, reference: str | None) -> SavedResults | None:
        """Reads what ``polygraphy run --save-outputs`` wrote; None where the reference is a network.

        Raises:
            InputError: there is no such file, or it holds no results.
            UnavailableError: Polygraphy is not installed.
        """
        if reference is None or not is_saved(reference):
            return None
        file = Path(reference)
        if not file.is_file():
            raise InputError(f"there are no results at {file}: name what `polygraphy run --save-outputs` wrote")
        return cls(file, read_outputs(file))

    def reference(self, samples: Samples, graph: Reference) -> Reference:
        """These answers as the original's.

        Args:
            samples: the inputs of the same run.
            graph: the engine's own graph, which is timed beside the engine: saved results have no times that hold here.

        Raises:
            InputError: the data is something else than what these results answer.
        """
        if not isinstance(samples, ArrayList):
            raise InputError(f"{self.file} answers saved inputs: name them with --data, as --save-inputs wrote them")
        known = dict[str, Row]()
        for batch in samples.batches(samples.together()):
            for row, index in enumerate(int(one.removeprefix("#")) for one in batch.names):
                if index >= len(self.answers):
                    raise InputError(
                        f"{self.file} has {len(self.answers)} answers, and the data more samples: save both in one run"
                    )
                known[_digest(batch.inputs, row)] = self.answers[index]

        def run(feed: Feed) -> Outputs:
            rows = [known.get(_digest(feed, row)) for row in range(len(next(iter(feed.values()))))]
            found = [row for row in rows if row is not None]
            if len(found) < len(rows):
                raise InputError(f"{self.file} has no answer to a sample: save inputs and outputs in one run")
            return {name: np.stack([row[name] for row in found]) for name in found[0]}

        remark = f"{self.file.name} has no times: those beside the engine are of its own graph, by {graph.name}."
        return Reference(f"saved results, timed by {graph.name}", "saved results", run, graph.timed, remark)


def _digest(feed: Feed, row: int) -> str:
    digest = hashlib.sha256()
    for name in sorted(feed):
        digest.update(np.ascontiguousarray(feed[name][row]).tobytes())
    return digest.hexdigest()
