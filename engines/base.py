"""The one contract every target keeps: what it can do here, how it builds, how it runs."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from typing_extensions import Doc, Self

from radixrt.engines.session import Array, Session
from radixrt.errors import InputError, UnavailableError
from radixrt.export.feed import Feed
from radixrt.export.sides import Sides
from radixrt.export.spec import BatchSpec, Precision, Traits

if TYPE_CHECKING:
    import onnx_ir as ir

    from radixrt.engines.forms.judge import FormJudge
    from radixrt.engines.forms.rules import Rule
    from radixrt.engines.inspection import Inspection, LayerRow
    from radixrt.engines.layer_origin import Origins
    from radixrt.export.attention.forms import AttentionForm
    from radixrt.export.passes.base import Pass

GRAPH_NAME = "deploy.onnx"
"""The deploy graph's file, beside the engine that was built from it."""

Progress = Callable[[str, int, int], bool]
"""Takes a build's phase, steps done and steps in all; returns False to stop the build."""


@dataclass(frozen=True)
class Capability:
    """What a target can do on this machine.

    Attributes:
        target: the target's name.
        builds: an engine can be built here.
        runs: an engine can be executed here.
        version: the library's version, empty where it is missing.
        device: the device in words, empty where there is none.
        reason: why it does not build or does not run; empty where it does both.
        hint: how to make it available.
        graph: where nothing can be built here, a bundle is made all the same: with the graph, for a device that builds.
    """

    target: str
    builds: bool
    runs: bool
    version: str = ""
    device: str = ""
    reason: str = ""
    hint: str = ""
    graph: bool = False

    @property
    def on_device(self) -> bool:
        """Whether the engine is left to the device: here there is only its graph."""
        return self.graph and not self.builds


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """How the engine is built. Its precision and batch sizes are chosen beside this."""

    threads: Annotated[int, Field(ge=0), Doc("CPU threads; 0 lets the runtime choose.")] = 0
    workspace_mb: Annotated[int | None, Field(ge=1), Doc("TensorRT: builder workspace, in MiB.")] = None
    builder_level: Annotated[int | None, Field(ge=0, le=5), Doc("TensorRT: builder optimisation level, 0 to 5.")] = None
    dla_core: Annotated[
        int | None, Doc("TensorRT: the DLA core that takes the layers it can; the GPU takes the rest.")
    ] = None
    refit: Annotated[bool, Doc("TensorRT: a plan whose weights can be replaced.")] = False
    strip_plan: Annotated[bool, Doc("TensorRT: a plan without weights; it takes those of deploy.onnx.")] = False
    version_compatible: Annotated[
        bool, Doc("TensorRT: later versions of the same major one open it with this one's lean runtime.")
    ] = False
    hardware_compatible: Annotated[bool, Doc("TensorRT: every GPU from Ampere on may open it.")] = False

    @property
    def of_plans(self) -> tuple[str, ...]:
        """The options asked for that only TensorRT plans may have, as a user writes them."""
        asked = {
            "--dla-core": self.dla_core is not None,
            "--refit": self.refit,
            "--strip-plan": self.strip_plan,
            "--version-compatible": self.version_compatible,
            "--hardware-compatible": self.hardware_compatible,
        }
        return tuple(name for name, given in asked.items() if given)


@dataclass(frozen=True)
class BuildOptions(PlanOptions):
    """Everything that decides a build.

    A target ignores what only steers another's build (``workspace_mb``, ``builder_level``, ``compute_capabilities``)
    and refuses a property of the engine that it cannot give (``of_plans``).

    Attributes:
        compute_capabilities: the GPUs to compile for, such as ``8.6``; the target's usual ones where empty.
        cache_dir: where timings of kernels are kept between builds; None keeps none.
        sides: the sizes of the image, where the graph leaves them free.
        debug_tensors: tensors of the deploy graph that a run of the plan can show. Marking them changes what is fused,
            so this is for an analysis plan beside the one that is shipped, and never for that one.
    """

    precision: Precision
    batch: BatchSpec = field(default_factory=BatchSpec)
    compute_capabilities: tuple[str, ...] = field(default=(), kw_only=True)
    cache_dir: Path | None = field(default=None, kw_only=True)
    sides: Sides | None = field(default=None, kw_only=True)
    debug_tensors: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class BuiltEngine:
    """Files written by a build, the first of which is the one to open; ``notes`` are sentences for the report."""

    files: tuple[Path, ...]
    seconds: float
    notes: tuple[str, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The record of a build, with its files by name only."""
        names = [file.name for file in self.files]
        return json.dumps({"files": names, "seconds": self.seconds, "notes": self.notes, "facts": self.facts})

    @classmethod
    def from_json(cls, text: str, folder: Path) -> Self:
        """Reads such a record, for files that lie in ``folder``."""
        record = json.loads(text)
        files = tuple(folder / name for name in record["files"])
        return cls(files, record["seconds"], tuple(record["notes"]), record["facts"])


@dataclass(frozen=True)
class Analysis(ABC):
    """A second engine of a deploy graph, built beside the one that is shipped, whose runs show its inside.

    Attributes:
        capability: of the target on this machine.
        options: those of the shipped engine.
    """

    capability: Capability
    options: BuildOptions

    @abstractmethod
    def showing(self, names: Sequence[str]) -> AbstractContextManager[Callable[[Feed], dict[str, Array]]]:
        """Builds the engine and opens it.

        Args:
            names: tensors of the deploy graph.

        Yields:
            What takes inputs by name and returns these tensors by name, with all outputs.

        Raises:
            InputError: the library's version cannot show tensors, or cannot build the engine.
        """


@dataclass(frozen=True)
class TritonBackend:
    """How a Triton inference server takes an engine.

    Attributes:
        name: the backend's.
        platform: of the model's configuration.
        file_name: of the engine in the repository.
        gpu: it runs on a GPU always; otherwise where the user asks for one.
    """

    name: str
    platform: str
    file_name: str
    gpu: bool


class Target(ABC):
    """One engine library, with all that the compiler knows of it.

    Args:
        cache_dir: where a target that compiles when it opens an engine may keep what it made; None keeps nothing.

    Attributes:
        name: what the user writes.
        suffix: of the engine's file.
        traits: what a graph must suit.
        opens: endings of files that somebody else made and that this target opens.
        triton: how a Triton server takes its engines; None where it has no backend for them.
        group_rules: how wide groups of a convolution should be, by precision, where nothing can be measured.
    """

    name: str
    suffix: str
    traits: Traits
    opens: tuple[str, ...] = ()
    triton: TritonBackend | None = None
    group_rules: Mapping[Precision, Rule] = MappingProxyType({})

    def __init__(self, cache_dir: Path | None = None) -> None:
        self._cache_dir = cache_dir
        self._capability: Capability | None = None

    def capability(self) -> Capability:
        """What can be done here; never raises. It is found out once for each object."""
        if self._capability is None:
            self._capability = self._find_capability()
        return self._capability

    @abstractmethod
    def _find_capability(self) -> Capability: ...

    def attention_form(self) -> AttentionForm:
        """The form of attention that is written where nothing can be measured."""
        from radixrt.export.attention.forms import AttentionForm

        return AttentionForm()

    def passes(self, precision: Precision) -> tuple[Pass, ...]:
        """The passes that are for this target alone, in order; they run after all others."""
        return ()

    def computes_in(self, precision: Precision) -> Precision:
        """The precision that a graph of ``precision`` is computed in: a processor computes FP16 in FP32."""
        return Precision.FP32 if self.traits.cpu and precision is Precision.FP16 else precision

    def form_judge(self, precision: Precision, threads: int = 0) -> FormJudge | str:
        """Returns what compares graphs of equal value on this target, or the reason why nothing can.

        Args:
            precision: that the graphs are computed in.
            threads: that engines run with; 0 is the target's own choice.
        """
        from radixrt.engines.forms.judge import ClockJudge, FormJudge
        from radixrt.machine import cores, processor

        capability = self.capability()
        if not capability.runs:
            return capability.reason or f"{self.name} does not run here"
        options = BuildOptions(precision=precision, threads=threads)
        # Where the target says just "CPU", the processor's own name.
        device = capability.device if capability.device not in ("", "CPU") else processor()
        # One thread's own processor time is what it takes on an idle machine, however busy this one is.
        clock = time.thread_time if threads == 1 else time.perf_counter
        judge = ClockJudge(lambda graph, folder: self.open_graph(graph, folder, options), clock=clock)
        return FormJudge(judge, f"{device}, {threads or cores()} threads")

    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that engines of this target compute in here, the widest first."""
        narrow = () if self.lacks_bf16() else (Precision.BF16,)
        half = (Precision.FP16,) if self.computes_in(Precision.FP16) is Precision.FP16 else ()
        return (Precision.FP32, *half, *narrow, Precision.INT8)

    def lacks_bf16(self) -> str:
        """Why engines of this target do not compute in BF16 here; empty where they do."""
        return f"{self.name} engines do not compute in BF16"

    def check_options(self, options: BuildOptions) -> None:
        """Finds out, before anything long starts, whether this target can give what is asked for.

        Raises:
            InputError: it, or its library's version, has no such thing.
            UnavailableError: it does not compute in this precision here.
        """
        if options.precision is Precision.BF16 and (why := self.lacks_bf16()):
            hint = "Use PREC=fp32 or int8, or TARGET=openvino on a processor with AVX512-BF16 or AMX."
            raise UnavailableError("bf16", why, hint)
        if options.of_plans:
            self._check_plan_options(options)

    def _check_plan_options(self, options: BuildOptions) -> None:
        raise InputError(
            f"{self.name} has no {' and no '.join(options.of_plans)}, which is for TensorRT plans: leave it out, or "
            "name a TensorRT target"
        )

    def build(
        self, deploy: Path, out_dir: Path, options: BuildOptions, *, progress: Progress | None = None
    ) -> BuiltEngine:
        """Builds ``out_dir/engine<suffix>`` from a deploy graph.

        Args:
            deploy: the strongly typed deploy graph, an ONNX file.
            out_dir: an existing folder that takes the engine's files.
            options: what the user chose.
            progress: told of each step, where the library tells of its steps.

        Raises:
            UnavailableError: the target cannot build here.
            InputError: the graph has something the target cannot take (the message names the node), or the target
                cannot give what was asked for.
        """
        capability = self.capability()
        if not capability.builds:
            raise UnavailableError(self.name, capability.reason, capability.hint)
        self.check_options(options)
        return self._build(deploy, out_dir, options, progress)

    def build_graph(self, graph: ir.Model, out_dir: Path, options: BuildOptions) -> BuiltEngine:
        """Writes a deploy graph to ``out_dir/deploy.onnx`` and builds its engine beside it.

        Args:
            graph: the strongly typed deploy graph; not changed.
            out_dir: is made where it is missing.
            options: as for :meth:`build`.

        Raises:
            RadixRTError: as :meth:`build`, or the folder cannot be written to.
        """
        from radixrt.export.graph.save import write_onnx

        out_dir.mkdir(parents=True, exist_ok=True)
        write_onnx(graph, out_dir / GRAPH_NAME)
        return self.build(out_dir / GRAPH_NAME, out_dir, options)

    def open_graph(self, graph: ir.Model, folder: Path, options: BuildOptions) -> Session:
        """Builds a deploy graph in a folder, as :meth:`build_graph` does, and opens the engine.

        Raises:
            RadixRTError: as :meth:`build`, or the target cannot run here.
        """
        return self.open(self.build_graph(graph, folder, options).files[0], threads=options.threads)

    def open(self, engine: Path, *, threads: int = 0) -> Session:
        """Opens a built engine.

        Raises:
            UnavailableError: the target cannot run here.
            InputError: the file is not an engine of this target, or was made for another device or version.
        """
        capability = self.capability()
        if not capability.runs:
            raise UnavailableError(self.name, capability.reason, capability.hint)
        return self._open(engine, threads)

    def inspect(
        self, engine: Path, deploy: Path, options: BuildOptions, *, devices: tuple[str, ...] = (), runs: int = 20
    ) -> Inspection:
        """Looks into an engine.

        Args:
            engine: the engine's file.
            deploy: the deploy graph that it was built from, for the origin of layers.
            options: how it was built; batch, threads and compute capabilities are used.
            devices: whose roofline to estimate, where the engine cannot run here; those of its compute capabilities
                where none is named.
            runs: how many runs the times are the mean of.

        Raises:
            InputError: the engine is damaged, or a device is not known.
            UnavailableError: the target's library is missing.
        """
        from radixrt.engines.inspection import measured
        from radixrt.engines.layer_origin import Origins

        return measured(self.name, self._layers(engine, Origins(deploy), options, runs), runs)

    def _layers(self, engine: Path, origins: Origins, options: BuildOptions, runs: int) -> tuple[LayerRow, ...]:
        """Profiles an engine; a target that shows no layers has none to tell of."""
        return ()

    def analysis(self, deploy: Path, options: BuildOptions) -> Analysis | None:
        """Returns what shows the inside of an engine of this graph on its device; None where nothing can."""
        return None

    def files_of(self, engine: Path) -> set[Path]:
        """Returns an engine file that somebody else made, with what it reads beside itself."""
        return {engine}

    def remarks(self, graph: ir.Model) -> tuple[str, ...]:
        """Returns sentences for the report on what some version or device of this target cannot do with a graph."""
        return ()

    def refusal(self, graph: ir.Model) -> str | None:
        """Returns why the target cannot read a float graph, which is asked before it is calibrated."""
        return None

    def write_beside(self, deploy: Path) -> Path | None:
        """Writes what a bundle's stand-alone runner needs beside the deploy graph, and returns the file."""
        return None

    @abstractmethod
    def _build(
        self, deploy: Path, out_dir: Path, options: BuildOptions, progress: Progress | None = None
    ) -> BuiltEngine: ...

    @abstractmethod
    def _open(self, engine: Path, threads: int) -> Session: ...
