"""The Python calls: ``radixrt.compile``, ``radixrt.load`` and ``radixrt.validate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from typing_extensions import Self

from radixrt.build.pipeline import Engine, Result
from radixrt.calibration.data.pixels import ImageUnusableError, open_image, preprocess_image
from radixrt.calibration.spec import CalibrationOptions, Method
from radixrt.engines.base import BuildOptions, Session
from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.cache.device import device_cache
from radixrt.engines.runners import Outputs, logits_of, session_outputs
from radixrt.errors import InputError
from radixrt.export.spec import BatchSpec, Precision
from radixrt.options import DEFAULT_MODEL, DataChoice, EngineRequest, ModelChoice, ValidateRequest
from radixrt.progress import Stages, shown
from radixrt.validate.gates import GateLimits
from radixrt.validate.rivals import Rivals
from radixrt.validate.schema import Report

if TYPE_CHECKING:
    import torch

TOP = 5


def compile(
    model: str | Path | torch.nn.Module = DEFAULT_MODEL,
    *,
    precision: str = "int8",
    target: str = "auto",
    checkpoint: str | Path | None = None,
    data: str | Path = "elpv",
    input_size: tuple[int, int, int] | None = None,
    batch: str | int = 1,
    method: str = "minmax",
    gates: GateLimits | None = None,
    against: Sequence[str | Path] = (),
    batch_sweep: Sequence[int] = (),
    logits: str | None = None,
    dla_core: int | None = None,
    refit: bool = False,
    strip_plan: bool = False,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    output: str | Path | None = None,
    progress: bool = False,
) -> list[Result]:
    """Compiles a network into one bundle per target and holds each against the original.

    Args:
        model: what ``radixrt engine --model`` takes, or a module in memory that maps images (N, C, H, W), normalised,
            to logits (N, classes), or to several tensors of which one is the logits.
        precision: ``fp32``, ``fp16`` or ``int8``.
        target: ``auto``, ``fastest`` (every target that runs here is built, and the quickest that keeps the gates is
            kept), or names with commas between them.
        checkpoint: trained weights; a module in memory has its own.
        data: images that calibrate and judge.
        input_size: channels, height, width, where timm does not know them.
        batch: one size, or a range such as ``"1..8"``.
        method: how ranges are chosen: ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        gates: limits that the engines must keep.
        against: what else is timed beside the engine: ``"compile"`` (``torch.compile``, minutes), or earlier bundles.
        batch_sweep: the batch sizes to time, where the engine takes them; its smallest and largest where empty.
        logits: the output that is the logits, where a network has several; the first of two dimensions where absent.
        dla_core: TensorRT: the DLA core that takes the layers it can; the GPU takes the rest.
        refit: TensorRT: a plan whose weights can be replaced.
        strip_plan: TensorRT: a plan without weights, which takes those of ``deploy.onnx``.
        version_compatible: TensorRT: later libraries of the same major version may open the plan, with the lean runtime
            of the version that built it.
        hardware_compatible: TensorRT: every GPU from Ampere on may open it.
        output: the bundle's folder, or the folder of several bundles.
        progress: show the stages on standard error.

    Returns:
        The bundle and the report of each target.

    Raises:
        InputError: something given cannot be used.
        UnavailableError: a named target cannot build here.
        GateError: a limit was missed; the bundles are kept. With ``fastest`` no target keeps the limits, and there is
            no bundle.
    """
    in_memory = None if isinstance(model, (str, Path)) else model
    request = EngineRequest(
        model=ModelChoice(
            name=type(model).__name__ if in_memory is not None else str(model),
            checkpoint=None if checkpoint is None else Path(checkpoint),
            module=in_memory,
            logits=logits,
        ),
        data=DataChoice(
            source=str(data), input_size=None if input_size is None else ",".join(str(size) for size in input_size)
        ),
        build=BuildOptions(
            Precision.parse(precision),
            BatchSpec.parse(str(batch)),
            dla_core=dla_core,
            refit=refit,
            strip_weights=strip_plan,
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
        ),
        targets=tuple(name.strip() for name in target.split(",")),
        calibration=CalibrationOptions(Method.parse(method)),
        gates=gates or GateLimits(),
        rivals=Rivals.of([str(name) for name in against], batch_sweep),
        output=None if output is None else Path(output),
        command="radixrt.compile",
    )
    with _displayed(progress) as stages:
        return Engine(request, stages).run()


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


def validate(
    engine: str | Path,
    *,
    reference: str | Path | None = None,
    checkpoint: str | Path | None = None,
    data: str | Path = "elpv",
    preprocess: str | Path | None = None,
    test_images: int | None = None,
    gates: GateLimits | None = None,
    against: Sequence[str | Path] = (),
    batch_sweep: Sequence[int] = (),
    logits: str | None = None,
    output: str | Path | None = None,
    progress: bool = False,
) -> Report:
    """Holds a bundle, or an engine that somebody else made, against the original network.

    Args:
        engine: a bundle, or a plain ``.onnx``, OpenVINO ``.xml`` or TensorRT ``.plan``.
        reference: the original network, as ``radixrt engine --model`` takes it; a bundle knows its own.
        checkpoint: the original's trained weights.
        data: images that judge.
        preprocess: a JSON file that says how the original reads its images, where timm knows it wrongly.
        test_images: at most so many images judge.
        gates: limits that the engine must keep.
        against: as for :func:`compile`.
        batch_sweep: as for :func:`compile`.
        logits: as for :func:`compile`; the one that a bundle was compiled with where absent.
        output: a folder that takes the report; none is written without it.
        progress: show the stages on standard error.

    Raises:
        InputError: there is no such engine, no reference for it, or it is not one that turns images into logits.
        UnavailableError: an engine that somebody else made cannot run here.
    """
    from radixrt.judge.validate import validate_engine

    request = ValidateRequest(
        engine=Path(engine),
        reference=None if reference is None else str(reference),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        data=DataChoice(
            source=str(data),
            preprocess_file=None if preprocess is None else Path(preprocess),
            test_images=test_images,
        ),
        gates=gates or GateLimits(),
        rivals=Rivals.of([str(name) for name in against], batch_sweep),
        logits=logits,
        output=None if output is None else Path(output),
    )
    with _displayed(progress) as stages:
        return validate_engine(request, stages)


@contextmanager
def _displayed(progress: bool) -> Iterator[Stages]:
    """A display on standard error, or none."""
    if not progress:
        yield Stages()
        return
    console = Console(stderr=True)
    with shown(console):
        yield Stages(console)
