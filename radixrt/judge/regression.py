"""An engine against those of earlier bundles, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radixrt.calibration.data.batch import Samples
from radixrt.calibration.data.source import load_data
from radixrt.calibration.data.targets import Reading
from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.runners import session_runner
from radixrt.export.spec import BatchSpec
from radixrt.prepare.network import Prepared
from radixrt.validate.measure.statistics import PairedTable, difference_interval
from radixrt.validate.quality import Regression


def regressions(
    right: NDArray[np.bool_], labels: Sequence[int], bundles: Sequence[str], prepared: Prepared
) -> list[Regression]:
    """How many points of top-1 an engine lost since earlier bundles.

    Args:
        right: for each of the first test images, whether the engine's answer is right.
        labels: their true classes.
        bundles: folders of the earlier bundles, each of which reads the images as it records.
        prepared: the original and its images.

    Raises:
        InputError: a bundle is none, or does not take the images.
        UnavailableError: a bundle's engine cannot run here.
    """
    found = []
    for name in bundles:
        bundle = Bundle.read(Path(name))
        batch = BatchSpec(*bundle.manifest.batch)
        images = own_images(bundle, prepared) or prepared.test
        with bundle.open() as session:
            run = session_runner(session, batch, bundle.manifest.outputs[0].name)
            batches = images.batches(max(batch.max, images.together()), len(right))
            answers = [run(part.inputs).argmax(axis=1) for part in batches]
        table = PairedTable.count(np.concatenate(answers) == np.asarray(labels), right)
        low, high = difference_interval(table)
        # Adding zero turns -0.0 into 0.0.
        drop_points, ci95 = -100 * table.difference + 0.0, (-100 * high, -100 * low)
        found.append(Regression(bundle=name, drop_points=drop_points, drop_ci95_points=ci95))
    return found


def own_images(bundle: Bundle | None, prepared: Prepared) -> Samples | None:
    """The test's images as the bundle's engine reads them, where that is not how the original does."""
    if bundle is None:
        return None
    recorded = bundle.manifest.preprocessing
    if recorded in (None, prepared.preprocess) or prepared.preprocess is None:
        return None
    assert recorded is not None
    limit, name = len(prepared.data.calibration), bundle.manifest.inputs[0].name
    reading = Reading(kind=prepared.data.kind)
    source = load_data(
        prepared.data.spec, recorded, calibration_limit=limit, reading=reading, workers=2, input_name=name
    )
    return source.test if source.test is not None else source.calibration
