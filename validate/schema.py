"""``report.json``: its keys, their units and their meaning. The published JSON schema is made from these models."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from radixrt.calibration.data.preparation import PreparedField
from radixrt.calibration.spec import CalibrationSummary
from radixrt.errors import InputError, first_fault
from radixrt.export.graph.output_kind import OutputKind
from radixrt.export.passes.report import Float32Node, RewriteReport
from radixrt.validate.quality import FROZEN, Accuracy, DetailTable, Metric

SCHEMA_VERSION = 2

MeasuredOn = Literal["engine", "cpu stand-in"]
Severity = Literal["failure", "doubt", "remark", "detail"]
Unit = Literal["points", "share", "cosine", "ms", "times", "bytes", "images", "values", "percent", "dB", "own"]

SQNR_CAP_DB = 200.0
"""What stands for the SQNR of two equal tensors, which is infinite: JSON has no infinity."""


class _Frozen(BaseModel):
    model_config = FROZEN


class ModelInfo(_Frozen):
    """Which network was compiled; ``weights`` is ``random`` where no trained weights were given or reachable."""

    name: str
    source: str
    weights: Literal["checkpoint", "pretrained", "random"]
    parameters: int


class WorstImage(_Frozen):
    """An image whose main output lies far from the reference's; confidences are of the largest class, 0 to 1.

    What was answered, and how surely, is absent where the outputs are no answers; the cosine, where it is one number.
    """

    image: str
    cosine: float | None
    max_abs: float
    reference: str | None = None
    engine: str | None = None
    reference_confidence: float | None = None
    engine_confidence: float | None = None


class OutputParity(_Frozen):
    """How close one output is, over the same images; ``shape`` is that of one image. Figures as in ``Parity``.

    ``agreement`` is the share of equal values, of an output of integers, which no gate on the cosine judges.
    """

    name: str
    shape: list[int]
    cosine_min: float | None
    cosine_mean: float | None
    max_abs: float
    mean_abs: float
    sqnr_db: float
    nonfinite: int = 0
    agreement: float | None = None


class SizeParity(_Frozen):
    """How close all outputs are for images of one size, over ``samples``: the output that is furthest off."""

    height: int
    width: int
    samples: int
    cosine_min: float | None
    sqnr_db: float
    max_abs: float


class Parity(_Frozen):
    """How close the engine's main output (the logits, where it has classes) is to the original's, over ``samples``.

    ``kind`` says what these numbers are, where the network ends in a softmax or a sigmoid and they are no logits.
    ``outputs`` has the same for every output that both have, the main one first. ``cosine_min`` is over images, and
    absent where each has one number, whose cosine would be its sign;
    ``sqnr_db`` is capped at 200 dB, which stands for equality; ``top5_agreement`` is the mean share of the reference's
    five best classes that are among the engine's; ``softmax_kl`` is the mean divergence of the engine's probabilities
    from the reference's, in nats; these three are absent where the outputs are no answers. ``nonfinite`` images, whose
    outputs hold a NaN or an infinity, count as cosine 0 and as a disagreement, and are left out of the other figures.
    Where the image's sides are free, all this is of the middle size, and ``sizes`` are the others that were tried.
    """

    samples: int
    cosine_min: float | None
    max_abs: float
    mean_abs: float
    sqnr_db: float
    top1_agreement: float | None = None
    top5_agreement: float | None = None
    softmax_kl: float | None = None
    cosine_mean: float | None = None
    nonfinite: int = 0
    worst: list[WorstImage] = []
    kind: OutputKind = OutputKind.LOGITS
    outputs: list[OutputParity] = []
    sizes: list[SizeParity] = []


class LatencyRow(_Frozen):
    """One runner at one batch size; times in milliseconds for the whole batch.

    ``device_p50_ms`` is the median of the kernels alone, without copies, by CUDA events; absent where nothing is copied
    to a device.
    """

    name: str
    batch: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    images_per_s: float
    samples_ms: list[float] = []
    device_p50_ms: float | None = None


class MachineReading(_Frozen):
    """One property of the machine, in words, before and after the timed rounds."""

    name: str
    before: str
    after: str


class LatencyMethod(_Frozen):
    """How the times were taken.

    ``rounds`` are those that count and ``repeated_rounds`` those that other work disturbed, which were taken again; in
    each a runner runs for ``settle_ms`` before its times count, and for ``timed_ms`` then, back to back;
    ``others_cores`` is how many cores other processes kept busy in the rounds that count; ``load`` is the one-minute
    load average. ``peak_bytes`` is the peak resident memory of a process that opens the engine and runs it once.
    ``image`` is the height and width of the images, where the engine takes several.
    """

    rounds: int
    repeated_rounds: int = 0
    warmup_rounds: int
    settle_ms: float = 0.0
    timed_ms: float = 0.0
    threads: int
    interleaved: bool
    includes_transfers: bool
    baseline: str
    others_cores: float = 0.0
    load_before: float
    load_after: float
    warnings: list[str] = []
    load_ms: float | None = None
    first_inference_ms: float | None = None
    peak_bytes: int | None = None
    clock: str = "host"
    image: tuple[int, int] | None = None
    machine: list[MachineReading] = []


class Throughput(_Frozen):
    """An engine under several requests at once: images of all streams a second, and what one request then takes."""

    streams: int
    threads: int
    batch: int
    images_per_s: float
    p50_ms: float
    p95_ms: float


class Latency(_Frozen):
    """The engine's rows come first. ``speedup_p50`` is the baseline's median over the engine's, smallest batch.

    ``speedup_ci95`` is its 95 % interval over the rounds, in which both were timed in turn. ``unsteady`` says why these
    times are not to be judged by; it is empty where they are. ``samples_ms`` of the rows are the medians of the
    runs of each round, paired by round.
    """

    rows: list[LatencyRow]
    speedup_p50: float
    speedup_ci95: tuple[float, float]
    unsteady: list[str] = []
    method: LatencyMethod
    throughput: list[Throughput] = []


class DriftRow(_Frozen):
    """One layer's output in the deploy graph against the reference: where the error comes from.

    ``rounding_share`` and ``clipping_share`` split the error power that the layer's own Q/DQ adds (0 where it has
    none). ``gain`` is the least-squares factor between the two tensors, 1 where nothing scales. ``first_drop`` marks
    the first layer whose ``drop_db``, the fall of the SQNR under that of the layers that feed it, exceeds 6 dB.
    ``own_sqnr_db`` is the SQNR that the worst of the layer's own activation quantisers leaves of a clean tensor.
    ``nonfinite`` counts the values that became NaN or infinite.
    """

    name: str
    op_type: str
    depth: int
    sqnr_db: float
    rounding_share: float
    clipping_share: float
    gain: float = 1.0
    first_drop: bool = False
    drop_db: float = 0.0
    own_sqnr_db: float = SQNR_CAP_DB
    nonfinite: int = 0


class LayerTime(_Frozen):
    """The mean time of one layer of the engine, in milliseconds, as the engine's own profiler tells it."""

    name: str
    op_type: str
    ms: float


class Size(_Frozen):
    """Bytes of the files that matter; ``engine_bytes`` is absent where the engine is left to the device."""

    deploy_onnx_bytes: int
    engine_bytes: int | None


class Gate(_Frozen):
    """A limit and what was measured against it, both in ``unit``; ``value`` is absent where nothing was measured.

    ``at_least`` says for a figure that a user named which side of the limit is kept; the other gates' names say it.
    """

    name: str
    unit: Unit
    limit: float
    value: float | None
    passed: bool
    reason: str = ""
    at_least: bool | None = None


class Finding(_Frozen):
    """What was noticed. Its severity decides what it does to the verdict, the same wherever the verdict is told.

    A ``failure`` comes with a gate that fails. A ``doubt`` keeps the verdict from being good. A ``remark`` is said
    beside the verdict and changes nothing. A ``detail`` says where an error comes from. ``title`` says a failure or a
    doubt in a few words.
    """

    severity: Severity
    title: str = ""
    text: str

    @classmethod
    def doubt(cls, title: str, text: str) -> Finding:
        """Something that keeps the verdict from being good."""
        return cls(severity="doubt", title=title, text=text)


class Quantization(_Frozen):
    """What the placement did; a float round trip is one left between two INT8 convolutions."""

    quantized: int
    kept_float: list[str] = []
    float_round_trips: int = 0
    recovery: list[str] = []


class Candidate(_Frozen):
    """One target and precision of a race (``TARGET=fastest``, ``PREC=auto``); the quickest that keeps the gates wins.

    Times are milliseconds for a batch of ``batch``, all of one interleaved run, and absent where nothing was timed;
    ``speedup`` is the baseline's median over this target's. ``reason`` says why it was not chosen.
    """

    target: str
    precision: str = ""
    version: str = ""
    verdict: Literal["chosen", "passed", "failed", "not built", "not run here"]
    batch: int | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    speedup: float | None = None
    reason: str = ""


class Report(_Frozen):
    """Everything one build can say about itself. Parts that were not executed are absent, and ``notes`` says why.

    ``reference`` is what the engine is held against: ``PyTorch`` or ``ONNX original``. ``measured_on`` says whose
    outputs ``parity`` and ``accuracy`` hold against the reference's: the engine's, or those of its CPU stand-in, the
    same numbers run by ONNX Runtime, where the engine could not be executed. ``float32_nodes`` are those that FP16 left
    in float32. ``task`` is what the outputs were taken for and ``task_reason`` why, to follow "because".
    ``metrics`` are the task's figures, the one that ``max_drop`` judges first; ``accuracy`` says more of classes, and
    ``tables`` more of any task. ``preprocessing`` says how images are prepared and who says so. ``device`` names the
    device that outputs and times were measured on; empty for the machine that built it. ``reused`` names the steps
    whose results an earlier run left; times are never among them.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    model: ModelInfo
    precision: str
    target: str
    executed: bool
    created: str
    command: str
    environment: dict[str, str]
    rewrite: RewriteReport
    calibration: CalibrationSummary | None = None
    quantization: Quantization | None = None
    float32_nodes: list[Float32Node] = []
    parity: Parity | None = None
    metrics: list[Metric] = []
    accuracy: Accuracy | None = None
    tables: list[DetailTable] = []
    latency: Latency | None = None
    drift: list[DriftRow] = []
    size: Size
    gates: list[Gate] = []
    passed: bool
    notes: list[str] = []
    layer_times: list[LayerTime] = []
    findings: list[Finding] = []
    preprocessing: list[PreparedField] = []
    reused: list[str] = []
    measured_on: MeasuredOn = "engine"
    device: str = ""
    reference: str = "PyTorch"
    candidates: list[Candidate] = []
    task: str = "classify"
    task_reason: str = ""

    @property
    def built(self) -> bool:
        """Whether there is an engine; else the device builds it."""
        return self.size.engine_bytes is not None

    def to_json(self) -> str:
        """The text of ``report.json``, by the published key names."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    def write(self, path: Path) -> None:
        """Writes ``report.json``."""
        path.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Report:
        """Reads a ``report.json``.

        Raises:
            InputError: the file is missing, or is not a report of this schema version.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise InputError(f"cannot read the report {path}: {error.strerror}") from error
        except ValidationError as error:
            raise InputError(
                f"{path} is not a report of schema {SCHEMA_VERSION}: {first_fault(error)}; build the bundle again"
            ) from error


def report_json_schema() -> dict[str, Any]:
    """The JSON schema of ``report.json``, as published in ``docs/report.schema.json``."""
    schema = Report.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "RadixRT report"}
