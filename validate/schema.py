"""``report.json``: its keys, their units and their meaning. The published JSON schema is made from these models."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from radixrt.calibration.spec import CalibrationSummary
from radixrt.export.rewrite_report import RewriteReport

SCHEMA_VERSION = 1


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelInfo(_Frozen):
    """Which network was compiled; ``weights`` is ``random`` where no trained weights were given or reachable."""

    name: str
    source: str
    weights: Literal["checkpoint", "pretrained", "random"]
    parameters: int


class Parity(_Frozen):
    """How close the engine's outputs are to PyTorch's, over ``samples`` images."""

    samples: int
    cosine_min: float
    max_abs: float
    mean_abs: float
    sqnr_db: float
    top1_agreement: float
    top5_agreement: float
    softmax_kl: float


class Flip(_Frozen):
    """An image whose top-1 answer changed. Margins are the gap between the two largest softmax values, 0 to 1."""

    image: str
    label: str
    reference: str
    engine: str
    reference_margin: float
    engine_margin: float


class ClassRow(_Frozen):
    """One class: shares are of its ``samples`` images, 0 to 1."""

    label: str
    samples: int
    reference_top1: float
    engine_top1: float


class Accuracy(_Frozen):
    """Top-1 of both on the same images, as shares from 0 to 1.

    ``delta`` is engine minus reference; ``delta_ci95`` its paired 95 % interval. ``conclusion`` says in one sentence
    what can be concluded from this many images.
    """

    samples: int
    reference_top1: float
    engine_top1: float
    reference_top5: float
    engine_top5: float
    delta: float
    delta_ci95: tuple[float, float]
    mcnemar_p: float
    flips: list[Flip] = []
    classes: list[ClassRow] = []
    confusion_reference: list[list[int]] = []
    confusion_engine: list[list[int]] = []
    conclusion: str = ""


class LatencyRow(_Frozen):
    """One runner at one batch size; times in milliseconds for the whole batch."""

    name: str
    batch: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    images_per_s: float
    samples_ms: list[float] = []


class LatencyMethod(_Frozen):
    """How the times were taken. ``noise`` is the ratio of the baseline's medians against itself in the same run."""

    rounds: int
    warmup_rounds: int
    threads: int
    interleaved: bool
    includes_transfers: bool
    baseline: str
    noise: float
    load_before: float
    load_after: float
    warnings: list[str] = []
    load_ms: float | None = None
    first_inference_ms: float | None = None
    peak_bytes: int | None = None


class Latency(_Frozen):
    """``speedup_p50`` is the baseline's median over the engine's, at the smallest batch."""

    rows: list[LatencyRow]
    speedup_p50: float
    method: LatencyMethod


class DriftRow(_Frozen):
    """One layer's output in the deploy graph against the reference: where the error comes from."""

    name: str
    op_type: str
    depth: int
    sqnr_db: float
    rounding_share: float
    clipping_share: float


class Size(_Frozen):
    """Bytes of the files that matter."""

    deploy_onnx_bytes: int
    engine_bytes: int


class Gate(_Frozen):
    """A limit and what was measured against it; ``value`` is absent where nothing could be measured."""

    name: str
    limit: float
    value: float | None
    passed: bool
    reason: str = ""


class Quantization(_Frozen):
    """What the placement did; a float round trip is one left between two INT8 convolutions."""

    quantized: int
    kept_float: list[str] = []
    float_round_trips: int = 0
    recovery: list[str] = []


class Report(_Frozen):
    """Everything one build can say about itself. Parts that were not executed are absent, and ``notes`` says why."""

    schema_version: Literal[1] = 1
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
    parity: Parity | None = None
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    drift: list[DriftRow] = []
    size: Size
    gates: list[Gate] = []
    passed: bool
    notes: list[str] = []
