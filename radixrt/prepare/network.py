"""What all targets of one build share: the network, its images, its graph, and the answers it is held against."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from radixrt.calibration.arrays.source import ArraySource, open_arrays
from radixrt.calibration.data.batch import Samples
from radixrt.calibration.data.preparation import Preparation
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.calibration.data.source import DataSource, load_arrays, load_data
from radixrt.calibration.data.targets import Reading, TargetKind
from radixrt.calibration.placement.own import OwnPairs, own_pairs
from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.bundle.pins import PinOptions
from radixrt.errors import InputError
from radixrt.export.graph.hash import graph_sha256
from radixrt.export.graph.output_kind import Head, OutputKind, output_kinds
from radixrt.export.sides import Sides
from radixrt.export.source.load import LoadedModel, from_module, load
from radixrt.export.source.module_inputs import ModuleInputs
from radixrt.export.source.names import resolve
from radixrt.export.spec import BatchSpec, FileChoice, InputSpec, Pairs
from radixrt.fields import as_path
from radixrt.options import DataOptions, ModelChoice
from radixrt.prepare.captured import Statistics, captured, reference_of
from radixrt.prepare.inputs import (
    asked_inputs,
    asked_sides,
    asked_size,
    image_input,
    module_inputs,
    resolve_preprocess,
    specs_of,
)
from radixrt.prepare.reference import Reference
from radixrt.progress import Stages
from radixrt.reuse import Reuse, weights_sha256
from radixrt.validate.answers.ctc import read_characters
from radixrt.validate.schema import Finding
from radixrt.validate.taken_for import Images, UserCode, taken_for
from radixrt.validate.tasks.base import Interface
from radixrt.validate.tasks.choose import Chosen, kind_read_by, refuse_unknown

IMAGES_WITHOUT_LABELS = 64
# Photographs of solar cells, which the sample networks were trained on.
LENT = "elpv"
# Code that a user brings may compute something else tomorrow with the same weights, so its capture is never reused.
PINNED_KINDS = ("timm", "resnest", "sample")


@dataclass(frozen=True)
class Prepared:
    """A network ready to be compiled for any target.

    Attributes:
        graph: its simplified graph, float32; ``graph_sha256`` is its hash.
        own_pairs: those of a quantised file that are to be kept.
        inputs: how a module is called; None for an ONNX file.
        preparation: how each image is prepared, and who says so; None where the data is arrays.
        sides: the sizes of the image, where they stay free; None where they are fixed.
        network: what it puts out.
        task: what that is taken for, and why.
        data: calibration and test images.
        kinds: what the numbers of its outputs are, by name, where that is known.
        labels: the names of the head's classes; empty where nobody knows them.
        labelled: the test's targets are such as the task is judged by and the weights are trained, so its metrics can
            be measured.
        pins: the hashes of its weights and images.
        capture_error: largest difference of an output between PyTorch and the captured graph, on real images.
        findings: what a reader must know of the images: nobody said how they are prepared, or they are not the user's.
        reused: what was taken from an earlier run.
    """

    model: LoadedModel
    inputs: ModuleInputs | None
    preparation: Preparation | None
    sides: Sides | None
    data: DataSource
    reference: Reference
    graph: ir.Model
    graph_sha256: str
    kinds: Mapping[str, OutputKind]
    network: Interface
    task: Chosen
    labels: tuple[str, ...]
    labelled: bool
    pins: PinOptions
    capture_error: float | None
    findings: tuple[Finding, ...] = ()
    reused: tuple[str, ...] = ()
    own_pairs: OwnPairs | None = None

    @property
    def preprocess(self) -> Preprocess | None:
        """How each image is prepared; None where the data is arrays."""
        return None if self.preparation is None else self.preparation.values

    def test_images(self, choice: DataOptions) -> int:
        """How many images judge the engine: all where accuracy can be measured, else enough for parity."""
        available = len(self.test)
        wanted = choice.test_images or (available if self.labelled else IMAGES_WITHOUT_LABELS)
        return min(wanted, available)

    @property
    def head(self) -> Head:
        """The first output, the one that classifies."""
        return Head(self.labels, self.kinds[self.graph.graph.outputs[0].name or ""])

    @property
    def on_outputs(self) -> list[str]:
        """Which output was taken for the logits, where there are several, and what its numbers are, where no logits."""
        kind = self.head.kind
        first, *others = [value.name or "" for value in self.graph.graph.outputs]
        if self.task.task.name != "classify":
            return []
        said = []
        if others:
            rest = ", ".join(others)
            said.append(f"Of the network's outputs {first} was taken for the {kind.value}; the others are {rest}.")
        if kind is not OutputKind.LOGITS:
            said.append(f"The network ends in {kind.value}: they are compared and shown as they are.")
        return said

    @property
    def test(self) -> Samples:
        """The images that judge; data without a test (a flat folder) lends those that calibrated, for parity only."""
        return self.data.test if self.data.test is not None else self.data.calibration


def prepare(
    choice: ModelChoice,
    data: DataOptions,
    batch: BatchSpec | None,
    stages: Stages,
    reuse: Reuse,
    bundle: Bundle | None = None,
) -> Prepared:
    """Loads a network and its images, captures its graph and holds it against the original.

    Args:
        choice: the network.
        data: the images.
        batch: the batch sizes the graph must take; ``None`` leaves those of an ONNX file.
        stages: where progress is shown.
        reuse: where an earlier capture of the same weights may lie.
        bundle: says how images are prepared where nobody else does.

    Raises:
        InputError: the network, its weights, the images, the graph or the task cannot be used; or nobody named images,
            and there are none that go without saying.
    """
    refuse_unknown(choice.task)
    code = UserCode.read(choice.metric, choice.decode)
    with stages.stage("Loading the network and its data"):
        opened = _open(choice, data, batch, stages, bundle)
    model, images = opened.model, opened.images
    with stages.stage("Capturing the graph"):
        statistics = Statistics(model, opened.inputs, images.calibration)
        kept = captured(statistics, batch or BatchSpec(), choice.logits, opened.sides, reuse if opened.pinned else None)
    graph, reference = kept.value.graph, reference_of(statistics, choice.logits)
    with stages.stage("Looking at the task and its labels"):
        seen = Images(images, opened.lent, opened.read)
        taken = taken_for(choice.task, code, model, graph.graph, seen, reference.answer)
    return Prepared(
        model=model,
        inputs=opened.inputs,
        preparation=opened.preparation,
        sides=opened.sides,
        data=taken.images,
        reference=reference,
        graph=graph,
        graph_sha256=graph_sha256(graph),
        kinds=output_kinds(graph.graph),
        network=taken.network,
        task=taken.task,
        labels=taken.labels,
        labelled=taken.labelled and model.weights != "random",
        pins=opened.pins,
        capture_error=kept.value.error,
        findings=opened.findings,
        reused=kept.reused,
        own_pairs=own_pairs(model.foreign.graph) if choice.own_pairs == Pairs.KEEP and model.foreign else None,
    )


@dataclass(frozen=True)
class _Opened:
    """A network and its images as somebody named them; nobody has run it yet.

    Attributes:
        pinned: equal weights mean an equal network.
        lent: nobody named the images.
        read: reads the images anew, their targets as a kind.
    """

    model: LoadedModel
    pinned: bool
    inputs: ModuleInputs | None
    preparation: Preparation | None
    sides: Sides | None
    lent: bool
    read: Callable[[TargetKind | None], DataSource]
    images: DataSource
    pins: PinOptions
    findings: tuple[Finding, ...]


def _open(
    choice: ModelChoice, data: DataOptions, batch: BatchSpec | None, stages: Stages, bundle: Bundle | None
) -> _Opened:
    """Loads a network and its images; arguments and errors are those of :func:`prepare`."""
    arrays = open_arrays(data.data)
    asked = asked_inputs(choice, arrays, bundle)
    ranges = asked_sides(data, bundle)
    size = asked_size(data) or (bundle.image_size if bundle is not None else None)
    keep = choice.own_pairs == Pairs.KEEP
    free = ranges.height, ranges.width
    file = FileChoice(batch, choice.logits, size, *free, asked.given, asked.examples, keep_pairs=keep)
    model, pinned = _loaded(choice, file)
    if keep and model.foreign is None:
        raise InputError(f"{choice.name} is no ONNX file, so it has no pairs to keep: leave --own-pairs out")
    if choice.characters is not None:
        model = replace(model, characters=read_characters(Path(choice.characters)))
    for text in model.remarks:
        stages.note(text)
    lent = images_lent(choice, data)
    preparation = None if arrays is not None else resolve_preprocess(model, choice, data, bundle)
    if preparation is not None and (named := ranges.of(preparation.values.input_size)) is not None:
        preparation = preparation.with_options(input_size=(preparation.values.input_size[0], *named.middle))
    inputs = None if model.module is None else module_inputs(model.module, asked, arrays, preparation)
    sides = ranges.left_free(model, inputs)
    inputs = inputs.freed(sides) if inputs is not None and sides is not None else inputs
    findings = () if preparation is None else tuple(_findings(model, preparation, lent))
    for finding in findings:
        stages.note(finding.text)
    specs = specs_of(model, inputs, sides)

    def read(kind: TargetKind | None) -> DataSource:
        return _read_data(model, data, arrays or preparation, specs, kind, sides)

    images = read(kind_read_by(choice.task))
    pins = _pins(model, images)
    choice.check(pins)
    return _Opened(model, pinned, inputs, preparation, sides, lent, read, images, pins, findings)


def _read_data(
    model: LoadedModel,
    data: DataOptions,
    source: ArraySource | Preparation | None,
    specs: Sequence[InputSpec],
    kind: TargetKind | None,
    sides: Sides | None,
) -> DataSource:
    """The samples with their targets, read as ``kind`` where the data could be of several."""
    if isinstance(source, ArraySource):
        return load_arrays(source, specs, calibration_limit=data.calibration_images, classes=model.num_classes)
    assert source is not None
    images = load_data(
        (model.photographs or LENT) if data.data is None else str(data.data),
        source.values,
        calibration_limit=data.calibration_images,
        reading=Reading(tuple(model.labels), kind),
        workers=2,
        input_name=image_input(specs, model.source),
    )
    # Ranges must hold at every size; all else is measured at the middle one.
    return images if sides is None else replace(images, calibration=images.calibration.at(*sides.calibrated))


def _pins(model: LoadedModel, images: DataSource) -> PinOptions:
    """What the network and the images are, before anybody has run it."""
    if model.module is not None:
        weights = weights_sha256(model.module)
    else:
        assert model.foreign is not None
        weights = graph_sha256(model.foreign.graph)
    seen = f"{images.calibration.sha256} {images.test.sha256 if images.test is not None else ''}"
    return PinOptions(model_sha256=weights, data_sha256=hashlib.sha256(seen.encode()).hexdigest())


def images_lent(choice: ModelChoice, data: DataOptions) -> bool:
    """Whether a network of known architecture is tried on the sample networks' photographs, which nobody named.

    Raises:
        InputError: nobody named images, and the network is one that only its owner has images for.
    """
    if data.data is not None:
        return False
    kind = "factory" if choice.module is not None else resolve(choice.name).kind
    if choice.checkpoint is None and kind in PINNED_KINDS:
        return kind != "sample"
    what = choice.name if choice.checkpoint is None else f"the checkpoint {choice.checkpoint}"
    raise InputError(
        f"{what} needs images like those it was trained on: name them with --data (data= in Python), a folder of class "
        "folders, a flat folder, or a CSV file of path,label"
    )


def _findings(model: LoadedModel, preparation: Preparation, lent: bool) -> Iterator[Finding]:
    if assumed := preparation.assumed:
        said = {field.name: field.spelt for field in preparation.fields}
        values = "; ".join(f"{name} {said[name]}" for name in assumed)
        yield Finding.doubt(
            "preprocessing was assumed",
            f"Nobody said how images are prepared for {model.name}: assumed {values}. If that is not how it was "
            "trained, every figure of accuracy is wrong, of the original as well; give --preprocess FILE or "
            f"{', '.join('--' + name.replace('_', '-') for name in assumed)}.",
        )
    if lent:
        text = f"No images were named for {model.name}: photographs of solar cells (elpv) calibrate and judge it"
        if model.weights == "random":
            yield Finding(severity="remark", text=f"{text}, which is enough to try its random weights.")
        else:
            yield Finding.doubt(
                "calibrated on images of another kind",
                f"{text}, and its {model.weights} weights were trained on others; give --data.",
            )


def _loaded(choice: ModelChoice, file: FileChoice) -> tuple[LoadedModel, bool]:
    """The network, and whether equal weights mean an equal network."""
    if choice.module is not None:
        return from_module(choice.module, choice.name), False
    ref = resolve(choice.name)
    model = load(
        ref,
        checkpoint=as_path(choice.checkpoint),
        num_classes=choice.num_classes,
        seed=choice.seed,
        file=file,
    )
    return model, ref.kind in PINNED_KINDS
