"""Where an image's sides are free: an engine is held against the original at more sizes than the middle one."""

from __future__ import annotations

import numpy as np

from radixrt.calibration.data.batch import Samples
from radixrt.engines.runners import OutputsRunner
from radixrt.export.graph.output_kind import rowless
from radixrt.export.sides import Size, spelt
from radixrt.judge.outputs import match_outputs, with_samples
from radixrt.prepare.network import Prepared
from radixrt.progress import Stages
from radixrt.validate.measure.parity import OutputAccumulator
from radixrt.validate.schema import SizeParity

IMAGES = 4
"""How many images each size is tried on."""


def at_other_sizes(run: OutputsRunner, prepared: Prepared, stages: Stages, engine_images: Samples) -> list[SizeParity]:
    """Parity on a few images of the lowest size, the highest, and one between that is not square.

    Args:
        run: the engine, or its stand-in.
        prepared: the original and its images; arrays have the sizes that they have, and are tried at no others.
        stages: where progress is shown.
        engine_images: the same files as the engine prepares them.
    """
    sides = prepared.sides
    if sides is None or not prepared.test.sizes:
        return []
    sizes = [size for size in sides.tried if size != sides.middle]
    with stages.stage(f"Comparing at {', '.join(map(spelt, sizes))}"):
        return [_at(size, run, prepared, prepared.test.at(size), engine_images.at(size)) for size in sizes]


def _at(size: Size, run: OutputsRunner, prepared: Prepared, images: Samples, engine_images: Samples) -> SizeParity:
    """The parity of the output that is furthest off; integers are no measure, and boxes may change places."""
    outputs: dict[str, OutputAccumulator] = {}
    for batch, own in zip(images.batches(1, IMAGES), engine_images.batches(1, IMAGES), strict=True):
        found = prepared.reference.run(batch.inputs), run(own.inputs)
        truth, answers = (with_samples(each, rowless(prepared.graph.graph)) for each in found)
        for name, own_name in match_outputs(truth, answers).names.items():
            if np.issubdtype(truth[name].dtype, np.floating):
                outputs.setdefault(name, OutputAccumulator(name)).add(truth[name], answers[own_name], batch.names)
    parities = [gathered.result() for gathered in outputs.values()]
    return SizeParity(
        height=size[0],
        width=size[1],
        samples=max((gathered.images for gathered in outputs.values()), default=0),
        cosine_min=min((one.cosine_min for one in parities if one.cosine_min is not None), default=None),
        sqnr_db=min((one.sqnr_db for one in parities), default=0.0),
        max_abs=max((one.max_abs for one in parities), default=0.0),
    )
