"""What ``DATA=`` names becomes images for calibration and for the test, which never share a file.

==============================================  =============================================================
``elpv``                                        photographs of solar cells (package ``elpv-dataset``), 4 classes
a folder with ``calibration`` or ``train``,     these two, each a folder of class folders or flat
and ``test`` or ``val``
a folder of class folders                       classes in the order of their sorted names, as torchvision has them
a folder of images                              calibration only
``elpv-cracks``, ``elpv-spots``                 the same with cracks (masks) or spots (boxes) painted on them
images with masks beside them                   :mod:`radixrt.calibration.data.masks` has the layouts
images with boxes, in COCO's JSON               :mod:`radixrt.calibration.data.sets.coco` has the layouts
a CSV file with a column ``path``               and ``label``, several labels, numbers or ``text``
                                                (:mod:`radixrt.calibration.data.csv_file`); a column ``split``
                                                (calibration, train, test, val) keeps the two apart
==============================================  =============================================================

Where the data names no split, a fixed rule makes one: an image belongs to the calibration when the hash of its name
(relative to the folder) falls in the first fifth. It depends on nothing else, so that adding images moves none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from radixrt.calibration.arrays.source import ArraySource
from radixrt.calibration.data.batch import Samples
from radixrt.calibration.data.csv_file import read_csv
from radixrt.calibration.data.folder import read_folder
from radixrt.calibration.data.images import ImageList
from radixrt.calibration.data.masks import two_levels
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.calibration.data.sets.coco import read_coco
from radixrt.calibration.data.sets.elpv import read_elpv
from radixrt.calibration.data.sets.painted import painted_folder
from radixrt.calibration.data.splits import Splits, mixed
from radixrt.calibration.data.targets import Reading, TargetKind
from radixrt.errors import InputError
from radixrt.export.feed import IMAGE_INPUT
from radixrt.export.samples.sample import CRACK_LABELS
from radixrt.export.spec import InputSpec

_AS_IT_LOOKS = Reading()
KNOWN = "a folder of images, a CSV file (path,label), COCO's JSON, or `elpv`"


@dataclass(frozen=True)
class DataSource:
    """Samples to calibrate with and to test with, disjoint; ``test`` is None where the data cannot give one.

    ``labels`` are the names of its classes; ``kind`` is what its samples are labelled with.
    """

    spec: str
    calibration: Samples
    test: Samples | None
    labels: tuple[str, ...]
    kind: TargetKind | None = TargetKind.CLASSES


def load_data(
    spec: str,
    preprocess: Preprocess,
    *,
    calibration_limit: int = 512,
    reading: Reading = _AS_IT_LOOKS,
    workers: int = 0,
    input_name: str = IMAGE_INPUT,
) -> DataSource:
    """Finds the images that ``spec`` names; decodes none of them yet.

    Args:
        spec: ``elpv``, a folder, or a CSV file.
        preprocess: how each image is prepared.
        calibration_limit: at most so many images calibrate.
        reading: how its labels are read.
        workers: threads that decode; 0 or 1 decodes in the caller's.
        input_name: the network's input that takes the images.

    Raises:
        InputError: there is no such data, it holds no images, or its classes or columns cannot be used.
        UnavailableError: ``elpv`` without the package.
    """
    splits = _read(spec, reading.kind)
    if reading.kind is TargetKind.NUMBERS and splits.kind is TargetKind.CLASSES:
        splits = splits.as_numbers(spec)
    if reading.classes and splits.labels:
        splits = splits.with_labels(reading.classes)
    calibration = mixed(splits.calibration)[:calibration_limit]
    test = mixed(splits.test)
    masks = [entry.target for entry in (*test, *calibration) if isinstance(entry.target, Path)]
    binary = bool(masks) and two_levels(masks)
    return DataSource(
        spec=spec,
        calibration=ImageList(calibration, preprocess, workers, input_name, two_levels=binary),
        test=ImageList(test, preprocess, workers, input_name, two_levels=binary) if test else None,
        labels=splits.labels,
        kind=splits.kind,
    )


def load_arrays(
    arrays: ArraySource, inputs: Sequence[InputSpec], *, calibration_limit: int = 512, classes: int = 0
) -> DataSource:
    """Holds arrays against what a network takes; reads no more than the first sample and the labels.

    Args:
        arrays: as :func:`radixrt.calibration.arrays.source.open_arrays` found them.
        inputs: what the network takes.
        calibration_limit: at most so many samples calibrate.
        classes: how many classes the network has, where it has some.

    Raises:
        InputError: an input is missing, or has another shape or type.
    """
    calibration, test = arrays.split(inputs, calibration_limit)
    judged = calibration if test is None else test
    labels = tuple(map(str, range(classes))) if judged.classes_below(classes) else ()
    return DataSource(spec=arrays.spec, calibration=calibration, test=test, labels=labels, kind=judged.kind)


def load_training_data(preprocess: Preprocess) -> ImageList:
    """The ELPV images that the sample networks are trained on: neither calibration nor test.

    Raises:
        UnavailableError: the package is not installed.
    """
    return ImageList(mixed(read_elpv().train), preprocess)


def _read(spec: str, kind: TargetKind | None) -> Splits:
    if not spec.strip():
        raise InputError(f"no data is named: give {KNOWN}")
    if spec == "elpv":
        elpv = read_elpv()
        return Splits(elpv.calibration, elpv.test, elpv.labels)
    if spec == "elpv-cracks":
        return replace(read_folder(painted_folder("cracks")), labels=CRACK_LABELS)
    if spec == "elpv-spots":
        return _read(str(painted_folder("spots")), kind)
    path = Path(spec).expanduser()
    try:
        if path.is_dir():
            return read_coco(path) or read_folder(path)
        if path.is_file():
            if path.suffix.lower() == ".csv":
                return read_csv(path, kind)
            if path.suffix.lower() == ".json" and (annotated := read_coco(path)) is not None:
                return annotated
            raise InputError(f"{spec} is no data: give {KNOWN}")
    except OSError as error:
        raise InputError(
            f"cannot read the data {spec}: {error.strerror or error}; check the path and its rights"
        ) from error
    raise InputError(f"there is no data at {spec}: give {KNOWN}")
