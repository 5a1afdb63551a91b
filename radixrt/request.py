"""What was asked for, as it was understood: one frozen object for each of the long jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from radixrt.calibration.spec import CalibrationOptions, MaxDrop, Method, Recovery
from radixrt.engines.base import BuildOptions, PlanOptions
from radixrt.errors import InputError
from radixrt.export.spec import BatchSpec, Pairs, Precision
from radixrt.fields import as_path, part, words
from radixrt.options import (
    AUTO,
    CompileOptions,
    DataOptions,
    ModelChoice,
    SensitivityOptions,
    TaskOptions,
    ValidateOptions,
)
from radixrt.remote.device import Device
from radixrt.validate.gates import GateLimits
from radixrt.validate.rivals import Rivals
from radixrt.validate.tasks.base import Interface, Task

if TYPE_CHECKING:
    from torch.nn import Module


def rivals_of(options: CompileOptions | ValidateOptions) -> Rivals:
    """What is timed beside the engine.

    Raises:
        InputError: a limit speaks of an earlier bundle, and none is named.
    """
    rivals, limits = options.rivals(), options.limits()
    asked = [limits.max_regression_p50, limits.max_regression_drop]
    if asked != [None, None] and not rivals.bundles:
        raise InputError("a limit on regression needs an earlier bundle: name it with --against")
    return rivals


def devices_of(given: str | Device | Sequence[str | Device]) -> tuple[Device, ...]:
    """The devices that were named, each once.

    Raises:
        InputError: a name is no address, or two devices have one name.
    """
    several = words(given) if isinstance(given, str) else (given,) if isinstance(given, Device) else given
    try:
        found = tuple(dict.fromkeys(Device.of(one) if isinstance(one, str) else one for one in several))
    except ValueError as error:
        raise InputError(str(error)) from error
    names = [device.name for device in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two devices are called {min(twice)}: give each a name in a recipe's [device.NAME]")
    return found


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """Everything that decides what ``radixrt engine`` makes; ``options`` is what the user wrote."""

    model: ModelChoice
    data: DataOptions
    build: BuildOptions
    any_precision: bool
    targets: tuple[str, ...]
    grouped_conv: str
    calibration: CalibrationOptions
    recovery: bool
    gates: GateLimits
    latency_rounds: int
    rivals: Rivals
    streams: int
    output: Path | None
    devices: tuple[Device, ...] = ()
    fresh: bool
    sign_key: Path | None
    options: CompileOptions
    command: str

    @classmethod
    def of(cls, options: CompileOptions, command: str = "radixrt.compile") -> EngineRequest:
        """Understands what a user wrote.

        Args:
            options: what was asked for.
            command: what the report says it was made by.

        Raises:
            InputError: a value cannot be used.
        """
        module = None if isinstance(options.model, (str, Path)) else options.model
        asked = AUTO if options.precision == AUTO else Precision.parse(options.precision).value
        if options.own_pairs == Pairs.KEEP and asked != Precision.INT8.value:
            raise InputError(f"a file's own pairs are INT8, and {asked} was asked for: ask for int8, or drop the pairs")
        return cls(
            model=part(
                options,
                ModelChoice,
                name=str(options.model) if module is None else type(module).__name__,
                module=module,
            ),
            data=part(options, DataOptions),
            build=part(
                part(options, PlanOptions),
                BuildOptions,
                precision=Precision.INT8 if options.precision == AUTO else Precision.parse(options.precision),
                batch=BatchSpec.parse(str(options.batch)),
                compute_capabilities=words(options.compute_capability),
            ),
            any_precision=options.precision == AUTO,
            targets=words(options.target),
            grouped_conv=options.grouped_conv,
            calibration=CalibrationOptions(Method.parse(options.method)),
            recovery=options.recovery,
            gates=options.limits(),
            latency_rounds=options.latency_rounds,
            rivals=rivals_of(options),
            streams=options.streams,
            output=as_path(options.output),
            devices=devices_of(options.on),
            fresh=options.fresh,
            sign_key=as_path(options.sign_key),
            options=options,
            command=command,
        )

    @property
    def precision(self) -> Precision:
        return self.build.precision

    @property
    def precision_name(self) -> str:
        """The precision as the user named it."""
        return AUTO if self.any_precision else self.precision.value

    @property
    def batch(self) -> BatchSpec:
        return self.build.batch

    def recover(self, labelled: bool, task: tuple[Task, Interface] | None = None) -> Recovery:
        """How the outputs that a task aims at are brought back; a limit on the drop keeps layers in float.

        Args:
            labelled: the images' labels are such as the task is judged by, and the weights are trained.
            task: what the network that it judges is taken for; classes of the first output where absent.
        """
        points, aims = self.gates.max_drop, task[0].aims(task[1]) if task else ()
        limit = None if points is None else MaxDrop(points, self.gates.strict, labelled, task)
        return Recovery(self.recovery, limit, aims)

    def bundle_path(self, target: str, bundles: int, device: str = "") -> Path:
        """Where a target's bundle goes: ``--output`` itself where there is one bundle, a folder inside it for more."""
        name = "-".join(filter(None, (self.model.slug, self.precision_name, target, device)))
        if self.output is None:
            return Path("build") / name
        return self.output if bundles == 1 else self.output / name


@dataclass(frozen=True, kw_only=True)
class ValidateRequest:
    """Everything that decides what ``radixrt validate`` does.

    Attributes:
        engine: a bundle, or a plain ``.onnx``, OpenVINO ``.xml`` or TensorRT ``.plan``.
        reference: the original network, as ``radixrt engine`` takes it; a bundle knows its own.
        module: the original network itself, in memory.
        checkpoint: the original's trained weights.
        data: the images, how the original reads them where timm knows it wrongly, and how many judge.
        gates: the limits.
        latency_rounds: timed rounds per batch size.
        rivals: what else is timed, and at which batch sizes.
        task: what the outputs mean; as the bundle says, or read off, where that was not named.
        logits: the original's output that is the logits, where it has several; the first of two dimensions where
            absent, or the one that the bundle was compiled with.
        output: a folder that takes ``report.json``, ``report.md`` and ``report.html``; none are written without it.
        command: what the report says it was made by.
    """

    engine: Path
    reference: str | None
    module: Module | None
    checkpoint: Path | None
    data: DataOptions
    gates: GateLimits
    latency_rounds: int
    rivals: Rivals
    task: TaskOptions
    logits: str | None
    output: Path | None
    command: str

    @classmethod
    def of(cls, options: ValidateOptions, command: str = "radixrt.validate") -> ValidateRequest:
        """Understands what a user wrote, as :meth:`EngineRequest.of` does."""
        return cls(
            engine=Path(options.engine),
            reference=options.reference if isinstance(options.reference, str) else None,
            module=None if isinstance(options.reference, str) else options.reference,
            checkpoint=as_path(options.checkpoint),
            data=part(options, DataOptions),
            gates=options.limits(),
            latency_rounds=options.latency_rounds,
            rivals=rivals_of(options),
            task=part(options, TaskOptions),
            logits=options.logits,
            output=as_path(options.output),
            command=command,
        )


@dataclass(frozen=True, kw_only=True)
class SensitivityRequest:
    """Everything that decides what ``radixrt sensitivity`` measures.

    Attributes:
        model: a network, or a bundle's folder, whose network, preprocessing and target are taken.
        images: calibration images that each layer is measured on.
        target: the bundle's or the default one where absent.
    """

    model: ModelChoice
    data: DataOptions
    calibration: CalibrationOptions
    images: int
    target: str | None

    @classmethod
    def of(cls, options: SensitivityOptions) -> SensitivityRequest:
        """Understands what a user wrote, as :meth:`EngineRequest.of` does."""
        return cls(
            model=part(options, ModelChoice, name=options.model),
            data=part(options, DataOptions),
            calibration=CalibrationOptions(Method.parse(options.method)),
            images=options.images,
            target=options.target,
        )
