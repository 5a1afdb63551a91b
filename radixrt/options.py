"""What a user asks for: one frozen object per subject, so that every entry point asks for the same things."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from radixrt.calibration.spec import CalibrationOptions, MaxDrop, Recovery
from radixrt.engines.base import BuildOptions
from radixrt.errors import InputError
from radixrt.export.spec import BatchSpec, Precision
from radixrt.validate.gates import GateLimits
from radixrt.validate.rivals import Rivals

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "resnest-nano-elpv"


@dataclass(frozen=True)
class ModelChoice:
    """Which network: a name that ``radixrt models`` lists or a path, and where its weights come from.

    ``seed`` is for weights that no one trained; ``num_classes`` for a head that no checkpoint decides. ``module`` is a
    network in memory, which ``name`` then only names. ``logits`` names the output that is the logits, where a network
    has several and it is not the first of two dimensions.
    """

    name: str = DEFAULT_MODEL
    checkpoint: Path | None = None
    num_classes: int | None = None
    seed: int = 0
    module: torch.nn.Module | None = None
    logits: str | None = None

    @property
    def slug(self) -> str:
        """The network's name as part of a folder's."""
        from radixrt.export.source.names import resolve

        return self.name if self.module is not None else resolve(self.name).name


@dataclass(frozen=True)
class DataChoice:
    """Which images, how they are prepared, and how many are used.

    Attributes:
        source: ``elpv``, a folder or a CSV.
        preprocess: overrides of what timm resolves, as ``Preprocess.with_overrides`` takes them; text as typed.
        preprocess_file: a JSON file with such overrides.
        calibration_images: at most so many images choose the ranges.
        test_images: at most so many images judge the engine; all where ``None`` and the labels fit the head, else 64.
    """

    source: str = "elpv"
    input_size: str | None = None
    mean: str | None = None
    std: str | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    preprocess_file: Path | None = None
    calibration_images: int = 256
    test_images: int | None = None


@dataclass(frozen=True)
class EngineRequest:
    """Everything that decides what ``radixrt engine`` makes."""

    model: ModelChoice = field(default_factory=ModelChoice)
    data: DataChoice = field(default_factory=DataChoice)
    build: BuildOptions = field(default_factory=lambda: BuildOptions(precision=Precision.INT8))
    targets: tuple[str, ...] = ("auto",)
    grouped_conv: str = "auto"
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    recovery: bool = True
    gates: GateLimits = field(default_factory=GateLimits)
    latency_rounds: int = 30
    rivals: Rivals = field(default_factory=Rivals)
    output: Path | None = None
    fresh: bool = False
    sign_key: Path | None = None
    command: str = ""

    @property
    def precision(self) -> Precision:
        return self.build.precision

    @property
    def batch(self) -> BatchSpec:
        return self.build.batch

    def recover(self, labelled: bool) -> Recovery:
        """How accuracy is brought back; a limit on the drop that the user gave decides what stays in float."""
        points = self.gates.max_drop
        return Recovery(self.recovery, None if points is None else MaxDrop(points, self.gates.strict, labelled))

    def bundle_path(self, target: str, bundles: int) -> Path:
        """Where a target's bundle goes: ``--output`` itself where there is one bundle, a folder inside it for more."""
        name = f"{self.model.slug}-{self.precision.value}-{target}"
        if self.output is None:
            return Path("build") / name
        return self.output if bundles == 1 else self.output / name


@dataclass(frozen=True)
class ValidateRequest:
    """Everything that decides what ``radixrt validate`` does.

    Attributes:
        engine: a bundle, or a plain ``.onnx``, OpenVINO ``.xml`` or TensorRT ``.plan``.
        reference: the original network, as ``radixrt engine --model`` takes it; a bundle knows its own.
        checkpoint: the original's trained weights.
        data: the images, how the original reads them where timm knows it wrongly, and how many judge.
        gates: the limits.
        rivals: what else is timed, and at which batch sizes.
        logits: the original's output that is the logits, where it has several; the first of two dimensions where
            absent, or the one that the bundle was compiled with.
        output: a folder that takes ``report.json``, ``report.md`` and ``report.html``; none are written without it.
        command: what the report says it was made by.
    """

    engine: Path
    reference: str | None = None
    checkpoint: Path | None = None
    data: DataChoice = field(default_factory=DataChoice)
    gates: GateLimits = field(default_factory=GateLimits)
    rivals: Rivals = field(default_factory=Rivals)
    logits: str | None = None
    output: Path | None = None
    command: str = "radixrt.validate"


@dataclass(frozen=True)
class SensitivityRequest:
    """Everything that decides what ``radixrt sensitivity`` measures.

    Attributes:
        model: a network, or a bundle's folder, whose network, preprocessing and target are taken.
        images: calibration images that each layer is measured on.
        target: the bundle's or ONNX Runtime where absent.
    """

    model: ModelChoice = field(default_factory=ModelChoice)
    data: DataChoice = field(default_factory=DataChoice)
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    images: int = 16
    target: str | None = None


def positive(what: str, value: int | None) -> None:
    """Refuses a count that is not one.

    Raises:
        InputError: the value is below 1.
    """
    if value is not None and value < 1:
        raise InputError(f"{what} is {value}: it must be 1 or more")
