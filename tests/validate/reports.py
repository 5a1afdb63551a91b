"""Reports for tests, made by the code that measures: nothing in them is written by hand but the surroundings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.preparation import Preparation
from radixrt.calibration.spec import CalibrationSummary
from radixrt.export.feed import length
from radixrt.export.graph.output_kind import Head
from radixrt.export.passes.report import (
    AttentionRecord,
    Float32Node,
    GroupedConvRecord,
    PoolConvRecord,
    Refusal,
    RewriteReport,
)
from radixrt.validate.gates import GateLimits, judge_gates, passed
from radixrt.validate.measure.accuracy import accuracy, figures
from radixrt.validate.measure.latency import LatencyOptions, measure
from radixrt.validate.measure.machine_state import MachineState
from radixrt.validate.measure.parity import parity
from radixrt.validate.measure.rounds import Clock
from radixrt.validate.schema import DriftRow, Finding, LayerTime, MeasuredOn, ModelInfo, Quantization, Report, Size

CLASSES = ("functional", "defective", "<script>alert(1)</script>", "a|b")
CONFIG = {"input_size": (3, 8, 8), "mean": (0.5,), "std": (0.25,)}
HOSTILE = "</script><img src=x onerror=alert(1)>"


class FakeClock:
    """Time that only moves when a runner moves it."""

    def __init__(self, machine: MachineState | None = None) -> None:
        self.seconds = 0.0
        self.machine = machine or MachineState(load=0.1, cores=4)

    def advance(self, seconds: float) -> None:
        self.seconds += seconds

    def clock(self) -> Clock:
        return Clock(now=lambda: self.seconds, machine=lambda: self.machine, cpu=lambda: None)


def logits(images: int, noise: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], list[int]]:
    """Reference logits that are right about 85 times in 100, engine logits with noise on top, labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(CLASSES), images)
    reference = random.normal(size=(images, len(CLASSES)))
    reference[np.arange(images), labels] += 2.2
    return reference, reference + random.normal(scale=noise, size=reference.shape), labels.tolist()


def make_report(
    *,
    executed: bool = True,
    stand_in: bool = False,
    weights: str = "checkpoint",
    noise: float = 0.02,
    limits: GateLimits | None = None,
    precision: str = "int8",
    target: str = "onnxruntime",
    milliseconds: float = 4.0,
) -> Report:
    """A whole report; ``milliseconds`` is what the engine takes for one image on the fake clock.

    ``stand_in`` makes it one of an engine that was not executed and whose stand-in was.
    """
    executed = executed and not stand_in
    limits = limits or GateLimits()
    size = Size(deploy_onnx_bytes=6_200_000, engine_bytes=1_900_000)
    right = close = times = None
    drift: list[DriftRow] = []
    layers: list[LayerTime] = []
    if executed or stand_in:
        reference, engine, labels = logits(500, noise)
        names = [f"{HOSTILE}{i}.png" for i in range(len(labels))]
        right = accuracy(reference, engine, labels, names=names, head=Head(CLASSES), max_drop_points=limits.drop_limit)
        close = parity(reference, engine, names=names, head=Head(CLASSES))
    if executed:
        fake = FakeClock()
        random = np.random.default_rng(1)
        times = measure(
            {
                "engine": lambda x: fake.advance(length(x) * milliseconds / 1000 * random.uniform(0.95, 1.05)),
                "torch.compile": lambda x: fake.advance(length(x) * 0.009 * random.uniform(0.95, 1.05)),
                "pytorch": lambda x: fake.advance(length(x) * 0.012 * random.uniform(0.95, 1.05)),
            },
            {"input": np.zeros((4, 3, 8, 8), np.float32)},
            LatencyOptions(batches=(1, 4), rounds=20),
            clock=fake.clock(),
        )
        drift = [
            DriftRow(
                name=f"layer1.{i}{HOSTILE}",
                op_type="Conv",
                depth=i,
                sqnr_db=40.0 - i - (12.0 if i >= 5 else 0.0),
                rounding_share=0.9,
                clipping_share=0.1,
                first_drop=i == 5,
                drop_db=13.0 if i == 5 else 1.0,
            )
            for i in range(10)
        ]
        layers = [LayerTime(name=f"layer1.{i}", op_type="Conv", ms=0.1 * (i + 1)) for i in range(30)]
    measured_on: MeasuredOn = "cpu stand-in" if stand_in else "engine"
    gates = judge_gates(
        limits,
        parity=close,
        metrics=figures(right) if right else [],
        latency=times,
        size=size,
        executed=executed,
        measured_on=measured_on,
    )
    return Report(
        model=ModelInfo(name="resnest-nano-elpv", source="a checkpoint", weights=weights, parameters=1_234_567),  # type: ignore[arg-type]
        precision=precision,
        target=target,
        executed=executed,
        measured_on=measured_on,
        created="2026-01-01T00:00:00Z",
        command=f"radixrt engine --data '{HOSTILE}'",
        environment={"python": "3.11.2", "cpu": HOSTILE},
        rewrite=RewriteReport(
            attention_blocks=[
                AttentionRecord(
                    name="layer1.0.conv2", kind="split", radix=2, cardinality=1, lowering="sigmoid gate", why="1.10x"
                )
            ],
            refused=[Refusal(node=HOSTILE, reason="the softmax runs over a dynamic axis")],
            grouped_convs=[GroupedConvRecord(name="layer1.0.conv2.conv", groups=2, form="keep", why="fastest")],
            pool_convs=[PoolConvRecord(name="layer2.0.downsample.1", form="conv", why="1.20x as fast as pool")],
            nodes_before=400,
            nodes_after=200,
            max_abs_err=3e-6,
        ),
        calibration=CalibrationSummary(method="mse", images=64, seconds=1.5, peak_bytes=10_000, data_sha256="ab" * 32),
        quantization=Quantization(quantized=50, kept_float=["fc"]),
        float32_nodes=[Float32Node(node="node_7", module="layer3.0.conv1", reason="the weight reaches 1e+05")],
        parity=close,
        metrics=figures(right) if right else [],
        accuracy=right,
        latency=times,
        drift=drift,
        layer_times=layers,
        size=size,
        gates=gates,
        passed=passed(gates),
        notes=[HOSTILE],
        findings=[Finding(severity="remark", text=f"A finding about {HOSTILE}.")],
        preprocessing=Preparation.of_network(CONFIG, ("mean",), HOSTILE).fields,
        reused=["calibration", HOSTILE],
    )
