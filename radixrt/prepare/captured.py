"""An original network becomes a graph, and answers for itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from radixrt.calibration.data.batch import Samples
from radixrt.export.graph.save import write_onnx
from radixrt.export.sides import Sides
from radixrt.export.source.load import LoadedModel
from radixrt.export.source.module_inputs import ModuleInputs
from radixrt.export.spec import BatchSpec
from radixrt.prepare.reference import Reference, onnx_reference, torch_reference
from radixrt.reuse import Codec, Kept, Reuse, Step, weights_sha256

BATCH_FOR_STATISTICS = 16
IMAGES_FOR_STATISTICS = 64
IMAGES_HELD_AGAINST = 2


class Statistics:
    """Fits the BatchNorm statistics of random weights the first time that somebody runs the network."""

    def __init__(self, model: LoadedModel, inputs: ModuleInputs | None, images: Samples) -> None:
        self.model, self.inputs, self.images = model, inputs, images
        self._done = model.weights != "random" or model.module is None

    def fit(self) -> None:
        if self._done:
            return
        from radixrt.export.source.randomise import fit_statistics

        assert self.model.module is not None and self.inputs is not None
        batches = self.images.batches(BATCH_FOR_STATISTICS, min(len(self.images), IMAGES_FOR_STATISTICS))
        fit_statistics(self.model.module, self.inputs, (batch.inputs for batch in batches))
        self._done = True


@dataclass(frozen=True)
class Captured:
    """A network's graph; ``error`` is the largest difference of its outputs from a module's, on real images."""

    graph: ir.Model
    error: float | None


def captured(
    statistics: Statistics, batch: BatchSpec, logits: str | None, sides: Sides | None, reuse: Reuse | None
) -> Kept[Captured]:
    """The graph of an ONNX file, or of a module; ``reuse`` is where an earlier capture of that may lie."""
    from radixrt.export.reader.simplify import simplify
    from radixrt.export.source.capture import capture, refuse_module_sides
    from radixrt.export.source.reference import hold_against

    model, module, inputs = statistics.model, statistics.model.module, statistics.inputs
    if module is None:
        assert model.foreign is not None
        return Kept(Captured(model.foreign.simplified, None))
    assert inputs is not None

    def make() -> Captured:
        if sides is not None:
            refuse_module_sides(module, inputs, sides)
        statistics.fit()
        graph = simplify(capture(module, inputs, batch, logits=logits, sides=sides), sides=sides)
        few = next(statistics.images.batches(IMAGES_HELD_AGAINST)).inputs
        return Captured(graph, hold_against(module, inputs, graph, few, logits=logits))

    if reuse is None:
        return Kept(make())
    step = Step(
        "capture",
        Codec(_write, _read),
        inputs={
            "weights": weights_sha256(module),
            "statistics": statistics.images.prepared_sha256 if model.weights == "random" else "",
        },
        options={"source": model.source, "inputs": repr(inputs), "batch": str(batch), "logits": logits},
    )
    return reuse.step(step, make)


def reference_of(statistics: Statistics, logits: str | None) -> Reference:
    """What answers for the original: the module, or the ONNX file as it came."""
    model, inputs = statistics.model, statistics.inputs
    if model.module is None:
        assert model.foreign is not None
        return onnx_reference(model.foreign.graph)
    assert inputs is not None
    return torch_reference(model.module, inputs, logits, statistics.fit)


def _write(captured: Captured, folder: Path) -> None:
    write_onnx(captured.graph, folder / "graph.onnx")
    (folder / "error.txt").write_text(repr(captured.error))


def _read(folder: Path) -> Captured:
    return Captured(ir.load(folder / "graph.onnx"), float((folder / "error.txt").read_text()))
