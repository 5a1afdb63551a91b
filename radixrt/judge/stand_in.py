"""What a plan that cannot run here would answer: its deploy graph on the CPU, which holds the same numbers.

Symmetric INT8 as TensorRT computes it (s8, zero point 0) and as x86 processors compute it (u8, zero point 128) differ
only in where zero lies. So parity and accuracy of the plan's numbers are measured before it meets its device, and the
run on the device confirms them. Nothing is said of its speed, and what the plan computes in FP16 is FP32 here.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from radixrt.calibration.data.batch import Samples
from radixrt.engines.base import BuildOptions
from radixrt.engines.registry import stand_in
from radixrt.engines.runners import session_outputs
from radixrt.export.spec import Precision
from radixrt.judge.measure import Trial, judge_outputs
from radixrt.judge.verdict import Verdict
from radixrt.prepare.network import Prepared
from radixrt.progress import Stages


def judge_stand_in(
    deploy: Path,
    build: BuildOptions,
    prepared: Prepared,
    trial: Trial,
    stages: Stages,
    engine_images: Samples | None = None,
) -> Verdict:
    """Runs the stand-in of a plan, its deploy graph on the CPU, and the reference over the test images.

    Args:
        deploy: the graph that the plan was built from.
        build: the options that it was built with.
        prepared: the original and its images.
        trial: how to try it.
        stages: where progress is shown.
        engine_images: the same files as the engine prepares them, where that is not how the reference does.

    Returns:
        A verdict without latency that says what it was measured on.

    Raises:
        InputError: the runtime refuses the graph, or there is no image to judge with.
    """
    target = stand_in()
    with tempfile.TemporaryDirectory(prefix="radixrt-stand-in-") as folder:
        built = target.build(
            deploy, Path(folder), BuildOptions(build.precision, build.batch, threads=build.threads, sides=build.sides)
        )
        with target.open(built.files[0], threads=build.threads) as session:
            run = session_outputs(session, trial.batch)
            outputs = judge_outputs(run, prepared, trial, stages, engine_images, what="CPU stand-in")
    how = "in unsigned integers" if build.precision is Precision.INT8 else "in float"
    half = build.precision is not Precision.FP32
    said = (
        f"The CPU stand-in is deploy.onnx run by {target.name} {target.capability().version}: the same numbers {how}."
    )
    if half:
        said += " FP16 is computed in FP32 there, so FP16 rounding and overflow do not show."
    findings = [f.model_copy(update={"text": f"On the CPU stand-in: {f.text}"}) for f in outputs.findings]
    found = Verdict.of_outputs(outputs)
    return found.model_copy(update={"measured_on": "cpu stand-in", "findings": findings, "notes": [said]})
