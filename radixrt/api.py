"""The Python calls: ``radixrt.compile``, ``radixrt.load`` and ``radixrt.validate``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from typing_extensions import Self

from radixrt.build.pipeline import Engine, Result
from radixrt.calibration.data.pixels import ImageUnusableError, open_image, preprocess_image
from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.cache.device import device_cache
from radixrt.engines.runners import Outputs, logits_of, session_outputs
from radixrt.engines.session import Session
from radixrt.errors import InputError
from radixrt.export.spec import BatchSpec
from radixrt.files import make_room
from radixrt.judge.validate import validate_engine
from radixrt.options import CompileOptions, ShowOptions, ValidateOptions, as_path, takes
from radixrt.progress import Stages, shown
from radixrt.request import EngineRequest, ValidateRequest
from radixrt.validate.report.junit import write_junit
from radixrt.validate.schema import Report

TOP = 5


@takes(CompileOptions)
def compile(options: CompileOptions) -> list[Result]:
    """Compiles a network into one bundle per target and holds each against the original.

    A module in memory maps images (N, C, H, W), normalised, to logits (N, classes), or to several tensors of which one
    is the logits; its weights are its own. The keywords are the options of ``radixrt engine``.

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
    """One class of one image, with its softmax probability from 0 to 1."""

    image: str
    label: str
    probability: float


class LoadedEngine:
    """An open bundle. Use it as a context manager.

    ``engine(images)`` takes normalised float32 (N, C, H, W) for any N and returns logits (N, classes);
    ``engine.outputs(images)`` returns every output by name.
    """

    def __init__(self, bundle: Bundle, session: Session) -> None:
        self.bundle, self._session = bundle, session
        self._outputs = session_outputs(session, BatchSpec(*bundle.manifest.batch))
        self._run = logits_of(self._outputs, bundle.manifest.outputs[0].name)
        self._preprocess = bundle.manifest.preprocessing

    def __repr__(self) -> str:
        made = self.bundle.manifest
        return f"LoadedEngine({made.model.name} {made.precision} on {made.target}, {self.bundle.path})"

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._run(images)

    def outputs(self, images: NDArray[np.float32]) -> Outputs:
        """Every output by name, (N, ...) each."""
        return self._outputs(images)

    def classify(self, path: str | Path, *, top: int = TOP) -> Iterator[Answer]:
        """Yields the ``top`` classes of an image, best first; of each image where ``path`` is a folder.

        Raises:
            InputError: there is no such file, or it is not an image.
        """
        path = Path(path)
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        for file in files:
            try:
                image = open_image(file, self._preprocess.input_size[0])
            except (OSError, ImageUnusableError) as error:
                raise InputError(f"{file} is not an image that can be read: {error}") from error
            logits = self(preprocess_image(image, self._preprocess)[None])[0].astype(np.float64)
            shares = np.exp(logits - logits.max())
            shares /= shares.sum()
            labels = self.bundle.manifest.labels
            for index in np.argsort(-shares)[:top]:
                yield Answer(str(file), labels[index] if index < len(labels) else str(index), float(shares[index]))

    def close(self) -> None:
        """Frees the engine."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load(bundle: str | Path, *, threads: int = 0, require_signature: str | Path | None = None) -> LoadedEngine:
    """Opens a bundle whose every file is as its manifest says.

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
    the report says how. Where a bundle's engine cannot run here, its CPU twin is judged, and the report says so. The
    keywords are the options of ``radixrt validate``; no file is written without ``output`` or ``junit``.

    Returns:
        The report; whether the gates are kept is ``report.passed``.

    Raises:
        InputError: there is no such engine, no reference for it, or it is not one that turns images into logits.
        UnavailableError: an engine that somebody else made cannot run here.
    """
    make_room(as_path(options.junit))
    with _display(options) as stages:
        report = validate_engine(ValidateRequest.of(options), stages)
    write_junit(as_path(options.junit), [report])
    return report


@contextmanager
def _display(options: ShowOptions) -> Iterator[Stages]:
    if not options.progress:
        yield Stages()
        return
    console = Console(stderr=True)
    with shown(console):
        yield Stages(console)
