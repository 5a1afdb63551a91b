"""What all targets of one build share: the network, its images, its graph, and the answers it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from radixrt.calibration.data.source import DataSource, ImageList, Preprocess, load_data
from radixrt.export.graph.hash import graph_sha256
from radixrt.export.source.load import LoadedModel, from_module, load
from radixrt.export.source.names import resolve
from radixrt.export.spec import BatchSpec
from radixrt.options import DataChoice, ModelChoice
from radixrt.progress import Stages
from radixrt.reference import Reference, onnx_reference, torch_reference
from radixrt.reuse import Reuse, weights_sha256

BATCH_FOR_STATISTICS = 16
IMAGES_FOR_STATISTICS = 64
IMAGES_HELD_AGAINST = 2
IMAGES_WITHOUT_LABELS = 64
# Code that a user brings may compute something else tomorrow with the same weights, so its capture is never reused.
PINNED_KINDS = ("timm", "resnest", "sample")


@dataclass(frozen=True)
class Prepared:
    """A network ready to be compiled for any target.

    Attributes:
        graph: its simplified graph, float32; ``graph_sha256`` is its hash.
        data: calibration and test images.
        labels: the names of the head's classes; empty where nobody knows them.
        labelled: the test's labels are classes of this head and the weights are trained, so accuracy can be measured.
        capture_error: largest difference of an output between PyTorch and the captured graph, on real images.
    """

    model: LoadedModel
    preprocess: Preprocess
    data: DataSource
    reference: Reference
    graph: ir.Model
    graph_sha256: str
    labels: tuple[str, ...]
    labelled: bool
    capture_error: float | None

    def test_images(self, choice: DataChoice) -> int:
        """How many images judge the engine: all where accuracy can be measured, else enough for parity."""
        available = len(self.test)
        wanted = choice.test_images or (available if self.labelled else IMAGES_WITHOUT_LABELS)
        return min(wanted, available)

    @property
    def on_outputs(self) -> list[str]:
        """A sentence on which output was taken for the logits, where there are several."""
        first, *others = [value.name or "" for value in self.graph.graph.outputs]
        if not others:
            return []
        return [f"Of the network's outputs {first} was taken for the logits; the others are {', '.join(others)}."]

    @property
    def test(self) -> ImageList:
        """The images that judge; data without a test (a flat folder) lends those that calibrated, for parity only."""
        return self.data.test if self.data.test is not None else self.data.calibration


def prepare(choice: ModelChoice, data: DataChoice, batch: BatchSpec | None, stages: Stages, reuse: Reuse) -> Prepared:
    """Loads a network and its images, captures its graph and holds it against the original.

    Args:
        choice: the network.
        data: the images.
        batch: the batch sizes the graph must take; ``None`` leaves those of an ONNX file.
        stages: where progress is shown.
        reuse: where an earlier capture of the same weights may lie.

    Raises:
        InputError: the network, its weights, the images or the graph cannot be used.
    """
    with stages.stage("Loading the network and its images"):
        ref = None if choice.module is not None else resolve(choice.name)
        if ref is None:
            assert choice.module is not None
            model = from_module(choice.module, choice.name)
        else:
            model = load(
                ref,
                checkpoint=choice.checkpoint,
                num_classes=choice.num_classes,
                seed=choice.seed,
                batch=batch,
                logits=choice.logits,
            )
        for text in model.remarks:
            stages.note(text)
        preprocess = resolve_preprocess(model, choice, data)
        images = load_data(
            data.source,
            preprocess,
            calibration_limit=data.calibration_images,
            labels=model.labels or None,
            workers=2,
        )

    with stages.stage("Capturing the graph"):
        ready = _Statistics(model, images.calibration)
        if model.module is None:
            assert model.foreign is not None
            graph, error = model.foreign.simplified, None
        else:
            pinned = ref is not None and ref.kind in PINNED_KINDS
            graph, error = _captured(ready, preprocess, batch or BatchSpec(), reuse, choice.logits, pinned)
    if model.module is None:
        assert model.foreign is not None
        reference = onnx_reference(model.foreign.graph)
    else:
        reference = torch_reference(model.module, choice.logits, ready.fit)
    labelled = images.test is not None and _labels_fit(images.labels, model, graph)
    return Prepared(
        model=model,
        preprocess=preprocess,
        data=images,
        reference=reference,
        graph=graph,
        graph_sha256=graph_sha256(graph),
        labels=tuple(model.labels or (images.labels if labelled else ())),
        labelled=labelled and model.weights != "random",
        capture_error=error,
    )


def resolve_preprocess(model: LoadedModel, choice: ModelChoice, data: DataChoice) -> Preprocess:
    """What timm resolves, then the JSON beside the checkpoint, then a JSON the user names, then single options.

    Raises:
        InputError: a value is not one that preprocessing can use.
    """
    preprocess = Preprocess.from_config(model.data_config)
    if choice.checkpoint is not None:
        preprocess = preprocess.beside(choice.checkpoint)
    if data.preprocess_file is not None:
        preprocess = preprocess.with_file(data.preprocess_file)
    return preprocess.with_overrides(
        input_size=data.input_size,
        mean=data.mean,
        std=data.std,
        crop_pct=data.crop_pct,
        interpolation=data.interpolation,
    )


class _Statistics:
    """Fits the BatchNorm statistics of random weights the first time that somebody runs the network."""

    def __init__(self, model: LoadedModel, images: ImageList) -> None:
        self.model, self.images = model, images
        self._done = model.weights != "random" or model.module is None

    def fit(self) -> None:
        if self._done:
            return
        from radixrt.export.source.randomise import fit_statistics

        assert self.model.module is not None
        batches = self.images.batches(BATCH_FOR_STATISTICS, min(len(self.images), IMAGES_FOR_STATISTICS))
        fit_statistics(self.model.module, (batch.images for batch in batches))
        self._done = True


def _captured(
    statistics: _Statistics, preprocess: Preprocess, batch: BatchSpec, reuse: Reuse, logits: str | None, pinned: bool
) -> tuple[ir.Model, float]:
    from radixrt.export.reader.simplify import simplify, write_onnx
    from radixrt.export.source.capture import capture
    from radixrt.export.source.reference import hold_against

    model, images = statistics.model, statistics.images
    assert model.module is not None
    key = reuse.key(
        "capture",
        inputs={
            "weights": weights_sha256(model.module),
            "statistics": images.prepared_sha256 if model.weights == "random" else "",
        },
        options={"source": model.source, "input_size": preprocess.input_size, "batch": str(batch), "logits": logits},
    )
    found = reuse.find(key, "capture") if pinned else None
    if found is None:

        def write(folder: Path) -> None:
            statistics.fit()
            assert model.module is not None
            graph = simplify(capture(model.module, preprocess.input_size, batch, logits=logits))
            few = next(images.batches(IMAGES_HELD_AGAINST)).images
            error = hold_against(model.module, graph, few, logits=logits)
            write_onnx(graph, folder / "graph.onnx")
            (folder / "error.txt").write_text(repr(error))

        found = reuse.keep(key if pinned else reuse.once(), "capture", write)
    return ir.load(found / "graph.onnx"), float((found / "error.txt").read_text())


def _labels_fit(data: Sequence[str], model: LoadedModel, graph: ir.Model) -> bool:
    """Whether the data's labels are classes of the head: the names agree, or their number where it has none."""
    shape = graph.graph.outputs[0].shape
    if not data or shape is None:
        return False
    return tuple(data) == tuple(model.labels) if model.labels else len(data) == shape[-1]
