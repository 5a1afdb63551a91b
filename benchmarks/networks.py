"""What the engine benchmarks share: a prepared network, and engines built from it as the command line builds them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from radixrt.build.deploy import DeployOptions, deploy_graph
from radixrt.calibration.spec import CalibrationOptions, Recovery
from radixrt.engines import registry
from radixrt.engines.base import BuildOptions, BuiltEngine
from radixrt.engines.session import Session
from radixrt.export.feed import Feed, joined, part
from radixrt.export.spec import BatchSpec, Precision
from radixrt.options import DataOptions, ModelChoice
from radixrt.prepare.network import Prepared, prepare
from radixrt.progress import Stages
from radixrt.reuse import Reuse

Run = Callable[[Feed], NDArray[np.float32]]


@dataclass(frozen=True)
class Setting:
    """How a benchmark prepares its networks.

    Attributes:
        pixels: mean and standard deviation of images that are taken whole; by default as the network's own.
    """

    data: str | Path
    input_size: str | None
    calibration_images: int
    test_images: int
    threads: int
    pixels: tuple[str, str] | None = None


def prepared(name: str, setting: Setting, reuse: Reuse) -> Prepared:
    """Loads a network and its images, and captures its graph."""
    data = DataOptions(
        data=setting.data,
        input_size=setting.input_size,
        mean=None if setting.pixels is None else setting.pixels[0],
        std=None if setting.pixels is None else setting.pixels[1],
        crop_pct=None if setting.pixels is None else 1.0,
        interpolation=None if setting.pixels is None else "bilinear",
        calibration_images=setting.calibration_images,
        test_images=setting.test_images,
    )
    return prepare(ModelChoice(name=name), data, BatchSpec(), Stages(Console(stderr=True)), reuse)


def built(
    network: Prepared,
    precision: Precision,
    target: str,
    folder: Path,
    setting: Setting,
    reuse: Reuse,
    recovery: Recovery | None = None,
) -> BuiltEngine:
    """Makes the deploy graph of a target and builds its engine in ``folder``.

    ``recovery`` says how INT8 gets its accuracy back; by default as the command line does it. What the report would say
    of it is left in ``recovery.json``.
    """
    recovery = recovery or Recovery()
    stages = Stages(Console(stderr=True))
    options = DeployOptions(precision, target, "auto", 1, CalibrationOptions(), recovery)
    graph = deploy_graph(network.graph, network.data.calibration, options, stages, reuse)
    folder.mkdir(parents=True, exist_ok=True)
    if graph.quantization is not None:
        (folder / "recovery.json").write_text(json.dumps(graph.quantization.recovery))
    with stages.stage(f"Building {target}"):
        return registry.get(target).build_graph(graph.model, folder, BuildOptions(precision, threads=setting.threads))


def runner(session: Session) -> Run:
    """Returns a session as a function from its inputs to logits, for engines of one input and one output."""
    result = session.outputs[0].name

    def run(feed: Feed) -> NDArray[np.float32]:
        return session.run(dict(feed))[result]

    return run


def test_images(network: Prepared, count: int) -> Feed:
    """Returns the first test images, normalised, N x C x H x W."""
    return part(joined(batch.inputs for batch in network.test.batches(8, count)), 0, count)
