"""The Python calls: ``radixrt.compile``, ``radixrt.load``, ``radixrt.validate`` and ``radixrt.sweep``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from typing_extensions import Self

from radixrt.build.pipeline import Engine, Result
from radixrt.calibration.data.pixels import ImageUnusableError, as_channels, nearest_size, open_image, preprocess_image
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.engines.bundle.answers import Head, answer, confidences
from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.cache.device import device_cache
from radixrt.engines.runners import Outputs, logits_of, session_outputs
from radixrt.engines.session import Session
from radixrt.errors import InputError
from radixrt.export.feed import Feed, length, part
from radixrt.export.sides import Size, spelt
from radixrt.export.spec import BatchSpec
from radixrt.fields import as_path
from radixrt.files import make_room
from radixrt.fleet.options import SweepOptions
from radixrt.fleet.schema import Sweep
from radixrt.fleet.sweep import sweep as run_sweep
from radixrt.judge.validate import validate_engine
from radixrt.keywords import takes
from radixrt.options import CompileOptions, ShowOptions, ValidateOptions
from radixrt.progress import Stages, shown
from radixrt.recipe import filled
from radixrt.request import EngineRequest, ValidateRequest
from radixrt.validate.report.junit import write_junit
from radixrt.validate.schema import Report

TOP = 5
Picture = str | Path | Image.Image | NDArray[Any]


@takes(CompileOptions, filled)
def compile(options: CompileOptions) -> list[Result]:
    """Compiles a network into one bundle per target and holds each against the original.

    A module in memory maps images (N, C, H, W), normalised, to a tensor or several; its weights are its own. What they
    mean is read off them and the data, or named by ``task``. The keywords are the options of ``radixrt engine``.

    Returns:
        The bundle and the report of each target.

    Raises:
        InputError: something given cannot be used.
        UnavailableError: a named target cannot build here.
        GateError: a limit was missed; the bundles are kept. With ``fastest`` no target keeps the limits, and there is
            no bundle.
    """
    make_room(as_path(options.junit))
    with _display(options) as stages:
        engine = Engine(EngineRequest.of(options), stages)
        try:
            return engine.run()
        finally:
            write_junit(as_path(options.junit), engine.reports)


@dataclass(frozen=True)
class Answer:
    """One class of one image, with how sure the network is of it, from 0 to 1.

    ``image`` is the file, or the place in what was given, such as ``#0``, where there is none.
    """

    image: str
    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a network answers to one image.

    Attributes:
        image: as in :class:`Answer`.
        answer: by the task: ``top5`` (classify), ``labels`` (multilabel), ``numbers`` (regress), ``embedding`` (embed),
            ``mask`` (H, W) and ``classes`` (segment), or what each of the ``outputs`` holds; docs/tasks.md has them.
        outputs: every output by name, (1, ...) each.
    """

    image: str
    answer: Mapping[str, Any]
    outputs: Outputs


class LoadedEngine:
    """An open bundle. Use it as a context manager: what it holds is freed at the end of the block.

    ``engine(images)`` takes normalised float32 (N, C, H, W) for any N, none included, and returns the main output, the
    logits (N, classes) or whatever the network ends in; ``engine.outputs(images)`` returns every output by name.

    It is safe to call from several threads. ONNX Runtime serves them at the same time; other runtimes one after
    another, so open one engine for each thread there. Closing waits for a call that is under way, and later ones are
    refused.
    """

    def __init__(self, bundle: Bundle, session: Session) -> None:
        self.bundle, self._session = bundle, session
        manifest = bundle.manifest
        self._batch = BatchSpec(*manifest.batch)
        self._outputs = session_outputs(session, self._batch)
        self._run = logits_of(self._outputs, manifest.outputs[0].name)
        self._input = manifest.inputs[0].name
        self._preprocess = manifest.preprocessing
        kind = manifest.outputs[0].kind
        self._head = Head(manifest.outputs[0].name, kind.value if kind else None, manifest.labels)

    def __repr__(self) -> str:
        made = self.bundle.manifest
        return f"LoadedEngine({made.model.name} {made.precision} on {made.target}, {self.bundle.path})"

    def __call__(self, images: NDArray[Any] | Feed, *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Runs any number of images.

        Args:
            images: normalised float32 (N, C, H, W), or every input by name, (N, ...) each. What is contiguous and fits
                one batch is not copied.
            out: takes the answer, float32 (N, classes), and is returned; a new array is made where absent.

        Raises:
            InputError: ``images`` or ``out`` is not of such a shape or type, or the engine is closed.
        """
        found = self._run(self._fed(images))
        if out is None:
            return found
        if out.shape != found.shape or out.dtype != found.dtype:
            raise InputError(f"out is {out.dtype} {out.shape}, the answer {found.dtype} {found.shape}: make it so")
        np.copyto(out, found)
        return out

    def outputs(self, inputs: NDArray[Any] | Feed) -> Outputs:
        """Every output by name, (N, ...) each, of inputs by name or of the one input."""
        return self._outputs(self._fed(inputs))

    def _fed(self, inputs: NDArray[Any] | Feed) -> Feed:
        specs = self.bundle.manifest.inputs
        if isinstance(inputs, Mapping):
            if set(inputs) != {spec.name for spec in specs}:
                raise InputError(
                    f"{self.bundle.path} takes {', '.join(spec.name for spec in specs)}, not {', '.join(inputs)}: name "
                    "each of them"
                )
            feed = {str(name): np.asarray(array) for name, array in inputs.items()}
            self.bundle.manifest.refuse_sizes(feed)
            return feed
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise InputError(f"{self.bundle.path} takes {names}: give a dictionary of arrays with these names")
        self.bundle.manifest.refuse_sizes({self._input: np.asarray(inputs)})
        return {self._input: inputs}

    def classify(
        self,
        images: Picture | Iterable[Picture],
        *,
        top: int = TOP,
        size: Literal["fit"] | Size | None = None,
    ) -> Iterator[Answer]:
        """Yields the ``top`` classes of each image, best first.

        Args:
            images: a file, a folder of them, a PIL image, an array of bytes (height, width, 3) in the order red, green,
                blue (or (height, width) in grey), or several of these: a list, or an array (N, height, width, 3).
            top: how many classes of each.
            size: as for :meth:`predict`.

        Raises:
            InputError: there is no such file, something is not an image, the engine does not take that size, or the
                bundle's task is another one.
        """
        if (task := self.bundle.manifest.task) != "classify":
            raise InputError(f"the task of {self.bundle.path} is {task}, so it names no classes: call predict")
        self._refuse_size(size)
        for names, outputs in self._in_batches(images, size):
            for name, values in zip(names, outputs[self._head.output], strict=True):
                shares = confidences(values.reshape(-1), self._head.kind)
                for index in np.argsort(-shares, kind="stable")[:top].tolist():
                    yield Answer(name, self._head.label(index), float(shares[index]))

    def predict(
        self, images: Picture | Iterable[Picture] | Feed, *, size: Literal["fit"] | Size | None = None
    ) -> Iterator[Prediction]:
        """Yields what the network answers to each image, by the bundle's task, and every output.

        Args:
            images: as :meth:`classify` takes them, or every input by name, (N, ...) each.
            size: where the engine's sides are free, the height and width that pictures are prepared in; ``fit`` takes
                the size nearest to each picture's own. Default: the middle size, at which the engine was judged.

        Raises:
            InputError: there is no such file, something is not an image, or the engine does not take that size.
        """
        self._refuse_size(size)
        for names, outputs in self._in_batches(images, size):
            for i, name in enumerate(names):
                # What one alone gives need not have a row for it.
                own = {key: array[i : i + 1] if len(names) > 1 else array for key, array in outputs.items()}
                yield Prediction(name, answer(self.bundle.manifest.task, own, self._head), own)

    def _refuse_size(self, size: Literal["fit"] | Size | None) -> None:
        sides = self.bundle.manifest.sides
        if size is not None and (sides is None or self._preprocess is None):
            raise InputError(f"{self.bundle.path} takes no choice of sizes: leave size out")
        if isinstance(size, tuple) and sides is not None and size not in sides:
            raise InputError(f"{self.bundle.path} takes images of {sides}, not {spelt(size)}: name one of these")

    def _in_batches(
        self, images: Picture | Iterable[Picture] | Feed, size: Literal["fit"] | Size | None = None
    ) -> Iterator[tuple[list[str], Outputs]]:
        if isinstance(images, Mapping):
            feed = self._fed(images)
            for start in range(0, length(feed), self._batch.max):
                some = part(feed, start, start + self._batch.max)
                yield [f"#{index}" for index in range(start, start + length(some))], self._outputs(some)
            return
        if self._preprocess is None:
            names = ", ".join(spec.name for spec in self.bundle.manifest.inputs)
            raise InputError(
                f"{self.bundle.path} takes arrays ({names}), not pictures: give a dictionary of them, or its run.py a "
                ".npz file of them, with --input"
            )
        pictures, count = enumerate(_pictures(images)), 1 if size == "fit" else self._batch.max
        while few := list(islice(pictures, count)):
            named = [(_name(picture, index), self._decoded(picture, index)) for index, picture in few]
            tensors = np.stack([preprocess_image(image, self._sized(image, size)) for _, image in named])
            yield [name for name, _ in named], self.outputs(tensors)

    def _sized(self, image: Image.Image, size: Literal["fit"] | Size | None) -> Preprocess:
        """How an image is prepared, in the size that was asked for."""
        assert self._preprocess is not None
        sides = self.bundle.manifest.sides
        if size is None or sides is None:
            return self._preprocess
        chosen = nearest_size(image.size, sides.height, sides.width) if size == "fit" else size
        return self._preprocess.model_copy(update={"input_size": (self._preprocess.input_size[0], *chosen)})

    def _decoded(self, picture: Picture, index: int) -> Image.Image:
        assert self._preprocess is not None
        channels = self._preprocess.input_size[0]
        try:
            if isinstance(picture, Image.Image):
                return as_channels(picture, channels)
            if isinstance(picture, np.ndarray):
                if picture.dtype != np.uint8 or not (picture.ndim == 2 or picture.shape[2:] == (3,)):
                    raise ImageUnusableError(f"it is {picture.dtype} {picture.shape}, not uint8 (height, width, 3)")
                return as_channels(Image.fromarray(picture), channels)
            return open_image(picture, channels)
        except (OSError, ImageUnusableError) as error:
            raise InputError(f"{_name(picture, index)} is not an image that can be read: {error}") from error

    def close(self) -> None:
        """Frees the engine."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pictures(images: Picture | Iterable[Picture]) -> Iterator[Picture]:
    """What was given, one by one; a folder's files in order of their names."""
    if isinstance(images, (str, Path)):
        path = Path(images)
        yield from sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    elif isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
        yield images
    else:
        for image in images:
            yield from _pictures(image)


def _name(picture: Picture, index: int) -> str:
    return str(picture) if isinstance(picture, (str, Path)) else getattr(picture, "filename", "") or f"#{index}"


def load(bundle: str | Path, *, threads: int = 0, require_signature: str | Path | None = None) -> LoadedEngine:
    """Opens a bundle whose every file is as its manifest says.

    The engine is a context manager and may be called from several threads.

    Args:
        bundle: the folder.
        threads: CPU threads of one inference; 0 lets the runtime choose.
        require_signature: an Ed25519 public key; the bundle must be signed by its owner.

    Raises:
        InputError: it is no bundle, was changed, was built for another device, or its signature does not hold.
        UnavailableError: its engine cannot run here.
    """
    key = None if require_signature is None else Path(require_signature)
    found = Bundle.read(Path(bundle), require_signature=key)
    return LoadedEngine(found, found.open(threads=threads, cache_dir=device_cache()))


@takes(ValidateOptions)
def validate(options: ValidateOptions) -> Report:
    """Holds a bundle, or an engine that somebody else made, against the original network.

    A bundle's engine reads its images as the bundle records, the original as it does by itself: where the two differ,
    the report says how. Where a bundle's engine cannot run here, its CPU stand-in is judged, and the report says so.
    The keywords are the options of ``radixrt validate``; no file is written without ``output`` or ``junit``.

    Returns:
        The report; whether the gates are kept is ``report.passed``.

    Raises:
        InputError: there is no such engine, no reference for it, or it does not take images.
        UnavailableError: an engine that somebody else made cannot run here.
    """
    make_room(as_path(options.junit))
    with _display(options) as stages:
        report = validate_engine(ValidateRequest.of(options), stages)
    write_junit(as_path(options.junit), [report])
    return report


@takes(SweepOptions, filled)
def sweep(options: SweepOptions) -> Sweep:
    """Builds every combination of the lists that it is given, or of a recipe's, side by side on Ray.

    The keywords are the options of ``radixrt sweep``. What is finished stays in ``output``, and the same call goes on.

    Returns:
        The rows, as ``sweep.json`` has them.

    Raises:
        InputError: something given cannot be used; nothing was started.
        UnavailableError: no machine builds a named target, or Ray is not installed.
        GateError: more rows failed or missed a gate than ``max_failed``; all that is finished is kept.
    """
    return run_sweep(options)


@contextmanager
def _display(options: ShowOptions) -> Iterator[Stages]:
    if not options.progress:
        yield Stages()
        return
    console = Console(stderr=True)
    with shown(console):
        yield Stages(console)
