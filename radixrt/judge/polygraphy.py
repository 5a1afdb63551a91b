"""A second opinion: test inputs and the original's outputs as Polygraphy reads them, and the commands that compare.

Polygraphy runs the bundle's graph and engine by itself and holds them against the saved outputs. How close they must
come is what the bundle's own report measured, with a margin: the smallest cosine, and the largest error as a distance.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radixrt.engines.bundle.folder import REPORT_NAME, Bundle
from radixrt.errors import InputError, UnavailableError
from radixrt.export.feed import Feed, repeated
from radixrt.export.spec import BatchSpec
from radixrt.files import translate_disk_errors
from radixrt.judge.validate import original_of
from radixrt.options import DataOptions, ModelChoice
from radixrt.prepare.network import prepare
from radixrt.progress import Stages
from radixrt.reuse import Reuse
from radixrt.validate.schema import OutputParity, Report

SAMPLES = 16
MARGIN = 2.0
"""Another version of a runtime rounds otherwise: errors may be so many times those that the report measured."""
INPUTS_NAME, OUTPUTS_NAME, COMMANDS_NAME = "inputs.json", "original.json", "compare.sh"


@dataclass(frozen=True)
class SecondOpinion:
    """What was written: the folder, and a command for each model that Polygraphy can run."""

    folder: Path
    commands: tuple[str, ...]


def write_second_opinion(
    bundle: Bundle, folder: Path, data: DataOptions, checkpoint: Path | None, stages: Stages
) -> SecondOpinion:
    """Writes ``inputs.json``, ``original.json`` and ``compare.sh`` into a folder, which is made.

    Args:
        bundle: whose engine is to be held against its original.
        folder: where the files go.
        data: the images, where not those of the original's name.
        checkpoint: the original's weights, where it was made from a checkpoint.
        stages: where progress is shown.

    Raises:
        UnavailableError: Polygraphy is not installed.
        InputError: the original or the images cannot be used, or the report has no parity.
    """
    try:
        from polygraphy.comparator import IterationResult, RunResults
        from polygraphy.json import save_json
    except ImportError as error:
        hint = 'Install it: `pip install "radixrt[polygraphy]"`.'
        raise UnavailableError("polygraphy", "it is not installed", hint) from error
    parity = Report.read(bundle.path / REPORT_NAME).parity
    if parity is None or not parity.outputs:
        raise InputError(f"{bundle.path}'s report has no parity to hold an engine against: build the bundle again")
    with translate_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    manifest = bundle.manifest
    choice = ModelChoice(
        name=original_of(bundle, checkpoint), checkpoint=checkpoint, logits=manifest.model.logits, task=manifest.task
    )
    asked = None if choice.name.endswith(".onnx") else BatchSpec(*manifest.batch)
    results = RunResults()
    with Reuse() as reuse:
        prepared = prepare(choice, data, asked, stages, reuse, bundle)
        inputs, outputs = [], []
        size = manifest.batch[0]
        with stages.stage(f"Running {prepared.reference.name} on {SAMPLES} images"):
            for batch in prepared.test.batches(size, SAMPLES * size):
                feed = repeated(batch.inputs, size)
                answer = prepared.reference.run(feed)
                inputs.append(dict(zip(_names(bundle, feed), feed.values(), strict=True)))
                outputs.append(
                    IterationResult(outputs={name: np.asarray(answer[name]) for name in answer}, runner_name="original")
                )
    results.append(("original", outputs))
    with translate_disk_errors(folder):
        save_json(inputs, str(folder / INPUTS_NAME))
        results.save(str(folder / OUTPUTS_NAME))
        commands = tuple(_commands(bundle, folder, parity.outputs, size))
        (folder / COMMANDS_NAME).write_text("#!/bin/sh\nset -e\n" + "\n".join(commands) + "\n", encoding="utf-8")
    return SecondOpinion(folder, commands)


def _names(bundle: Bundle, feed: Feed) -> list[str]:
    """What the bundle's graph calls the inputs of a feed."""
    own = [tensor.name for tensor in bundle.manifest.inputs]
    return own if len(own) == len(feed) == 1 else list(feed)


def _commands(bundle: Bundle, folder: Path, outputs: list[OutputParity], size: int) -> Iterator[str]:
    """One command for the deploy graph, and one for the engine where Polygraphy has a runner for it."""
    models = [(bundle.deploy, ["--onnxrt"])]
    if bundle.manifest.engine is not None:
        runner = {".onnx": ["--onnxrt"], ".plan": ["--trt", "--model-type", "engine"]}.get(bundle.engine.suffix)
        if runner is not None:
            models.append((bundle.engine, runner))
    cosine = [f"{one.name}:{_least_cosine(one):.6f}" for one in outputs]
    length = [f"{one.name}:{_distance(one, size):.6g}" for one in outputs]
    for model, runner in models:
        words = ["polygraphy", "run", str(model), *runner]
        words += ["--load-inputs", str(folder / INPUTS_NAME), "--load-outputs", str(folder / OUTPUTS_NAME)]
        words += ["--compare", "distance_metrics", "--cosine-similarity-threshold", *cosine, "--l2-tolerance", *length]
        yield shlex.join(words)


def _least_cosine(output: OutputParity) -> float:
    """The limit on the cosine; any will do for one number, and Polygraphy has a limit where none is named."""
    return -1.0 if output.cosine_min is None else 1 - MARGIN * (1 - output.cosine_min) - 1e-6


def _distance(output: OutputParity, size: int) -> float:
    """How far a batch of outputs may lie from the original's, in the Euclidean norm."""
    return MARGIN * max(output.max_abs, 1e-5) * math.sqrt(size * math.prod(output.shape))
