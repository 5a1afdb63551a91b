"""What a user may ask for, said once: the command line and the Python calls are both derived from these objects.

Each field has its type, its default, its bounds and its help. An object for a command gathers those of its subjects;
a subject's title is the first sentence of its docstring. Fields take what a user writes (``"int8"``, ``"1..8"``); what
was understood is a request (``radixrt.request``). Options of an engine's build and its limits are declared where
they are used: ``PlanOptions`` and ``GateLimits``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from typing_extensions import Doc

from radixrt.calibration.spec import Method
from radixrt.engines.base import PlanOptions
from radixrt.engines.bundle.pins import PinOptions
from radixrt.engines.bundle.triton import ServingOptions
from radixrt.engines.registry import DEFAULT
from radixrt.errors import InputError
from radixrt.export.spec import Pairs, Precision
from radixrt.fields import as_path, words
from radixrt.remote.device import Device
from radixrt.validate.gates import GateLimits, read_gates
from radixrt.validate.rivals import Rivals

if TYPE_CHECKING:
    from torch.nn import Module

    from radixrt.calibration.arrays.stores import Data
else:
    Module = Data = Any  # the library is too heavy to load for a type, and data may be any object

DEFAULT_MODEL = "resnest-nano-elpv"
MODEL_HELP = (
    "A name from `radixrt models`, timm:NAME, resnest:NAME, pkg.module:factory, file.py:factory (both run that code), "
    "or a path to an .onnx file."
)
COMPILE_HELP = f"{MODEL_HELP} Or a recipe, .toml or .json."

PrecisionName = Annotated[
    Precision | Literal["fp32", "fp16", "bf16", "int8"],
    BeforeValidator(lambda value: Precision.parse(value) if isinstance(value, str) else value),
    Doc("fp32, fp16, bf16 (openvino) or int8."),
]
AUTO = "auto"
AnyPrecision = Annotated[
    str | Precision,
    BeforeValidator(lambda value: Precision.parse(value) if isinstance(value, str) and value != AUTO else value),
    Doc("fp32, fp16, bf16 (openvino), int8, or auto: the quickest that keeps the gates."),
]
MethodName = Annotated[
    Method | Literal["minmax", "percentile", "entropy", "mse"],
    BeforeValidator(lambda value: Method.parse(value) if isinstance(value, str) else value),
    Doc("How ranges are chosen: minmax, percentile, entropy or mse."),
]
Batch = Annotated[str | int, Doc("Batch sizes: one (8) or a range (1..8).")]
CalibrationImages = Annotated[int, Field(ge=1), Doc("At most so many images calibrate.")]
TestImages = Annotated[int | None, Field(ge=1), Doc("At most so many images judge. Default: all.")]
PairsChoice = Annotated[
    Pairs | Literal["drop", "keep"],
    Doc("An ONNX file that is quantised already: drop its Q/DQ pairs, or keep them, with their scales, in int8."),
]
ComputeCapability = Annotated[str | Sequence[str], Doc("tensorrt-rtx: such as 8.6,8.9,12.0.")]
JUnit = Annotated[Path | str | None, Doc("Also write the gates as JUnit XML.")]
GraphFile = Annotated[Path, Doc("An .onnx file.")]
OutputFile = Annotated[Path, Doc("The file to write.")]
InputSize = Annotated[str | Sequence[int] | None, Doc("Channels, height, width: 3,128,128.")]
Height = Annotated[str | int | None, Doc("Heights that stay free in the engine: 320..960:32, or one.")]
Width = Annotated[str | int | None, Doc("Widths that stay free: lowest, highest and step, 320..960:32, or one.")]
GroupedConv = Annotated[str, Doc("Grouped convolutions: keep, split, merge, dense or auto (measured).")]
OneTarget = Annotated[str, Doc("onnxruntime, openvino, tensorrt or tensorrt-rtx.")]
Numbers = str | Sequence[float]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The network's weights and outputs."""

    checkpoint: Annotated[Path | str | None, Doc("Trained weights: .pth, .pt or .safetensors.")] = None
    num_classes: Annotated[int | None, Field(ge=1), Doc("Classes of the head, where no checkpoint decides.")] = None
    seed: Annotated[int, Doc("Seed of weights that no one trained.")] = 0
    logits: Annotated[
        str | None, Doc("The output that is the logits, where a network has several. Default: the first N x classes.")
    ] = None
    input: Annotated[
        str | Sequence[str],
        Doc(
            "NAME=1x3x320x320:float32, once for each input of a PyTorch module, or for inputs whose sides an ONNX file "
            "leaves free. Default: one image, or as the data has them."
        ),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What the outputs mean."""

    task: Annotated[
        str | None,
        Doc(
            "classify, multilabel, regress, embed, segment, detect, text, or tensors (parity alone). Default: read off "
            "the network and the data."
        ),
    ] = None
    metric: Annotated[
        Path | str | None,
        Doc("Your own figure: file.py:function of the original's answers, the engine's, the labels; -file.py: lower."),
    ] = None
    decode: Annotated[
        Path | str | None, Doc("Your own file.py:function that turns all outputs by name into what the task reads.")
    ] = None
    characters: Annotated[
        Path | str | None,
        Doc("text: the characters of the network's classes, one a line. Default: those that an ONNX file carries."),
    ] = None


@dataclass(frozen=True)
class ModelChoice(ModelOptions, TaskOptions, PinOptions):
    """A network: a name that ``radixrt models`` lists, a path, or ``module`` in memory, which ``name`` only names."""

    name: str = DEFAULT_MODEL
    module: Module | None = None
    own_pairs: PairsChoice = Pairs.DROP

    @property
    def slug(self) -> str:
        """The network's name as part of a folder's."""
        from radixrt.export.source.names import resolve

        return self.name if self.module is not None else resolve(self.name).name


@dataclass(frozen=True, kw_only=True)
class PreprocessOptions:
    """The images, and how they are prepared."""

    data: Annotated[
        Path | str | Data | None,
        Doc(
            "Images: elpv, a folder of class folders, a flat folder, or a CSV of path,label. Arrays: a .npz by the "
            "inputs' names, a folder of calibration.npz and test.npz, a .json of Polygraphy's inputs, or "
            "pkg.module:factory or file.py:factory of (inputs, target), whose code is run; in Python also the Dataset "
            "itself. Default: elpv, for the sample networks and for architectures by name without a checkpoint; all "
            "others must name their images."
        ),
    ] = None
    input_size: InputSize = None
    height: Height = None
    width: Width = None
    mean: Annotated[Numbers | None, Doc("Mean per channel, on the scale 0 to 1.")] = None
    std: Annotated[Numbers | None, Doc("Standard deviation per channel, on the scale 0 to 1.")] = None
    crop_pct: Annotated[float | None, Doc("Share of the resized image that the centre crop keeps.")] = None
    interpolation: Annotated[str | None, Doc("bilinear, bicubic, nearest, ...")] = None
    preprocess: Annotated[Path | str | None, Doc("A JSON file with the preprocessing.")] = None


@dataclass(frozen=True, kw_only=True)
class DataOptions(PreprocessOptions):
    """The images, how they are prepared, and how many are used."""

    calibration_images: CalibrationImages = 256
    test_images: TestImages = None


@dataclass(frozen=True, kw_only=True)
class GateOptions(GateLimits):
    """Limits that the engine must keep."""

    gates: Annotated[Path | str | GateLimits | None, Doc("A gates.toml; options take precedence.")] = None

    def limits(self) -> GateLimits:
        """The limits of the file or object, with the options in the place of its own.

        Raises:
            InputError: the file cannot be used.
        """
        own = {field.name: getattr(self, field.name) for field in fields(GateLimits)}
        own["strict"] = self.strict or None
        if isinstance(self.gates, GateLimits):
            theirs = {field.name: getattr(self.gates, field.name) for field in fields(GateLimits)}
            return GateLimits(**{name: theirs[name] if value is None else value for name, value in own.items()})
        return read_gates(as_path(self.gates), **own)


@dataclass(frozen=True, kw_only=True)
class TimingOptions:
    """What is timed."""

    latency_rounds: Annotated[int, Field(ge=1), Doc("Timed rounds per batch size; at least 10 are taken.")] = 20
    against: Annotated[
        str | Path | Sequence[str | Path], Doc("Also time `compile` (torch.compile, minutes) or an earlier BUNDLE.")
    ] = ()
    batch_sweep: Annotated[str | Sequence[int], Doc("Batch sizes to time, where the engine takes them: 1,2,4,8.")] = ()

    def rivals(self) -> Rivals:
        """What is timed beside the engine and its original.

        Raises:
            InputError: a size is not a positive number, or a path is no bundle whose files are as its manifest says.
        """
        given = self.batch_sweep if isinstance(self.batch_sweep, str) else ",".join(map(str, self.batch_sweep))
        try:
            sizes = [int(size) for size in given.split(",")] if given else []
        except ValueError as error:
            raise InputError(f"the batch sweep is {given!r}: give sizes from 1 up, such as 1,2,4,8") from error
        return Rivals.of(words(self.against), sizes)


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """What is shown while it runs; the command line always shows it."""

    progress: Annotated[bool, Doc("Show the stages on standard error.")] = False


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """What is printed, and what a program is told; from Python a call returns it."""

    quiet: Annotated[bool, Doc("Print one line for each engine, and errors.")] = False
    json: Annotated[Path | None, Doc("Write verdict, figures and paths as a JSON object, - to standard output.")] = None


@dataclass(frozen=True, kw_only=True)
class CompileOptions(
    ModelOptions,
    TaskOptions,
    DataOptions,
    PlanOptions,
    GateOptions,
    TimingOptions,
    PinOptions,
    ShowOptions,
    AnswerOptions,
):
    """What is compiled, for what, and where it goes."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: Annotated[str | Path | Module, Doc(COMPILE_HELP)] = field(default=DEFAULT_MODEL, kw_only=False)
    precision: AnyPrecision = "int8"
    target: Annotated[
        str | Sequence[str], Doc("auto, fastest, or targets with commas or one by one: onnxruntime,openvino.")
    ] = "auto"
    batch: Batch = 1
    output: Annotated[
        Path | str | None,
        Doc("The bundle's folder, or the folder of several bundles. Default: build/MODEL-PRECISION-TARGET."),
    ] = None
    method: MethodName = "minmax"
    own_pairs: PairsChoice = Pairs.DROP
    recovery: Annotated[bool, Doc("Bring INT8's accuracy back; without, ranges and biases stay as calibrated.")] = True
    grouped_conv: GroupedConv = "auto"
    compute_capability: ComputeCapability = ()
    on: Annotated[
        str | Device | Sequence[str | Device],
        Doc("A device, user@host or a Host of ssh_config, that measures the engine, and builds it where it is a plan."),
    ] = ()
    streams: Annotated[
        int, Field(ge=0), Doc("Also measure images per second with so many requests at once; 0 leaves it out.")
    ] = 0
    junit: JUnit = None
    sign_key: Annotated[Path | str | None, Doc("An Ed25519 private key: sign the bundle.")] = None
    fresh: Annotated[bool, Doc("Take nothing from earlier runs.")] = False


@dataclass(frozen=True, kw_only=True)
class ValidateOptions(TaskOptions, PreprocessOptions, GateOptions, TimingOptions, ShowOptions, AnswerOptions):
    """What is judged, and where the report goes."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    engine: Annotated[Path | str, Doc("A bundle, or somebody else's .onnx, .xml, .plan or .engine file.")] = field(
        kw_only=False
    )
    reference: Annotated[
        str | Module | None,
        Doc("The original network; a bundle knows its own. Or its answers to --data, a .json of Polygraphy's."),
    ] = None
    checkpoint: Annotated[Path | str | None, Doc("The original's trained weights.")] = None
    logits: Annotated[
        str | None, Doc("The original's output that is the logits, where it has several; a bundle knows its own.")
    ] = None
    test_images: TestImages = None
    output: Annotated[Path | str | None, Doc("The report's folder. On the command line: validation.")] = None
    junit: JUnit = None


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions(ModelOptions, TaskOptions, PreprocessOptions):
    """What is measured, and what is shown."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: Annotated[
        str, Doc(f"A bundle, whose network, preprocessing and target are taken; or a network. {MODEL_HELP}")
    ] = field(kw_only=False)
    target: Annotated[str | None, Doc(f"Default: the bundle's, or {DEFAULT}.")] = None
    method: MethodName = "minmax"
    calibration_images: CalibrationImages = 256
    images: Annotated[int, Field(ge=1), Doc("Calibration images that each layer is measured on.")] = 16
    top: Annotated[int | None, Field(ge=1), Doc("Print only so many layers, the most sensitive ones.")] = None
    json: Annotated[Path | None, Doc("Write the table as JSON, - for the terminal.")] = None
    html: Annotated[Path | None, Doc("Write the table and its plot as one self-contained page.")] = None


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ModelOptions, PreprocessOptions):
    """What is captured, and where it goes."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: Annotated[str, Doc(MODEL_HELP)] = field(kw_only=False)
    output: OutputFile
    batch: Batch = 1


@dataclass(frozen=True, kw_only=True)
class RewriteFileOptions:
    """What is rewritten, for what, and where it goes."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    graph: GraphFile = field(kw_only=False)
    output: OutputFile
    report: Annotated[Path | None, Doc("Where to write what was done, as JSON.")] = None
    target: OneTarget = DEFAULT
    precision: PrecisionName = "fp32"
    grouped_conv: GroupedConv = "auto"
    input_size: InputSize = None
    height: Height = None
    width: Width = None


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(PreprocessOptions):
    """What is calibrated, and where the table goes."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    graph: GraphFile = field(kw_only=False)
    output: OutputFile = Path("calibration.json")
    method: MethodName = "minmax"
    calibration_images: CalibrationImages = 256
    to_cache: Annotated[
        Path | None, Doc("Also write the ranges as a TensorRT calibration cache, for TensorRT <= 10 and DLA.")
    ] = None
    from_cache: Annotated[
        Path | None, Doc("A TensorRT calibration cache of this graph, whose ranges are taken instead.")
    ] = None
    tensorrt_version: Annotated[str, Doc("With --to-cache: the TensorRT that will read it.")] = "8.5.2"


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """What is quantised, and where it goes."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    graph: GraphFile = field(kw_only=False)
    output: OutputFile
    table: Annotated[Path | None, Doc("The calibration table, for int8.")] = None
    precision: PrecisionName = "int8"
    target: OneTarget = DEFAULT


@dataclass(frozen=True, kw_only=True)
class BundleOptions(ServingOptions):
    """What is done with the bundle."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    source: Annotated[Path, Doc("A bundle: the folder that `radixrt engine` left.")] = field(kw_only=False)
    sign: Annotated[Path | None, Doc("Sign it with this Ed25519 private key.")] = None
    triton: Annotated[Path | None, Doc("Write it as a model into this Triton model repository.")] = None
    polygraphy: Annotated[
        Path | None, Doc("Write test inputs and the original's outputs here, as Polygraphy reads them.")
    ] = None
    data: Annotated[Path | None, Doc("--polygraphy: the images, where none go without saying.")] = None
    checkpoint: Annotated[Path | None, Doc("--polygraphy: the original's trained weights.")] = None


@dataclass(frozen=True, kw_only=True)
class EngineBuildOptions(PlanOptions):
    """What is built, and where it goes."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    graph: Annotated[Path, Doc("A deploy graph, an .onnx file.")] = field(kw_only=False)
    output: Annotated[Path, Doc("The folder that takes the engine's files.")]
    target: OneTarget = DEFAULT
    precision: PrecisionName = "fp32"
    batch: Batch = 1
    compute_capability: ComputeCapability = ()
