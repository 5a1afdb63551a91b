"""``manifest.json``: what a bundle holds, what it was built from and where it runs.

A manifest is read before anything else in a bundle is touched, so the loader takes nothing on trust: the size is
bounded, a schema it does not know is refused, and a file name that could leave the folder is refused.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from radixrt.calibration.data.preprocess import Preprocess
from radixrt.engines.base import GRAPH_NAME
from radixrt.errors import InputError
from radixrt.export.feed import Feed
from radixrt.export.graph.output_kind import OutputKind
from radixrt.export.sides import Sides

SCHEMA_VERSION = 1
FORMAT = "radixrt-bundle"
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
# A thousand labels and a dozen files make about 50 kB; more than this is not a manifest.
MAX_BYTES = 16 << 20

Positive = Annotated[int, Field(gt=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _safe_name(name: str) -> str:
    """Returns a relative POSIX file name that stays inside its folder.

    Raises:
        ValueError: it is absolute, climbs, or holds what some system reads as a separator.
    """
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or re.search(r"[\\:\x00-\x1f]", name):
        raise ValueError(f"the file name {name!r} would leave the bundle")
    if name in (MANIFEST_NAME, SIGNATURE_NAME):
        raise ValueError(f"{name} cannot list itself")
    return str(PurePosixPath(name))


class FileEntry(_Frozen):
    """One file of the bundle; ``name`` is relative to it, with forward slashes."""

    name: str
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    _name = field_validator("name")(_safe_name)


class TensorInfo(_Frozen):
    """An input or output; ``dtype`` is numpy's name, a dynamic dimension is -1.

    ``kind`` says what the numbers of an output are; absent where nobody knows, as of an input. A first output without
    one, in a bundle of before it was recorded, holds logits.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: OutputKind | None = None

    @classmethod
    def of(cls, value: ir.Value, kind: OutputKind | None = None) -> TensorInfo:
        """Describes an input or output of a graph."""
        assert value.name is not None and value.dtype is not None and value.shape is not None
        shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
        return cls(name=value.name, dtype=value.dtype.numpy().name, shape=shape, kind=kind)


class ModelIdentity(_Frozen):
    """Which network this is; ``weights`` is ``random`` where no trained weights were given or reachable.

    ``logits`` names the output of the network that was taken for the logits, where the user named one.
    """

    name: str
    source: str
    weights: Literal["checkpoint", "pretrained", "random"]
    parameters: int
    logits: str | None = None


class BuiltFor(_Frozen):
    """Where an engine may be opened.

    Attributes:
        system: the operating system, as ``platform.system()`` names it.
        machine: the processor family, as ``platform.machine()`` names it.
        library: the engine's library, such as ``tensorrt``.
        library_version: the version that built it.
        device: the device in words; empty for a plan built without one.
        compute_capabilities: such as ``8.6``; empty where any device of the target will do.
        version_compatible: a later library of the same major version may open it.
        hardware_compatible: a newer GPU (compute capability 8.0 and up) may open it.
        dla_core: the DLA core that it was built for; the GPU takes what that does not.
        refittable: its weights can be replaced.
        stripped: it holds no weights and takes those of the deploy graph.
    """

    system: str
    machine: str
    library: str
    library_version: str
    device: str = ""
    compute_capabilities: tuple[str, ...] = ()
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: int | None = None
    refittable: bool = False
    stripped: bool = False


class Manifest(_Frozen):
    """The whole of ``manifest.json``.

    Attributes:
        built_for: where the engine may be opened; absent where it opens wherever its library does.
        executed: the engine ran when the bundle was made; a plan built without a GPU has not.
        inference_precision: what an OpenVINO engine computes in where it is not INT8, which every loader sets. Absent
            where the engine's own types say it.
        task: what the outputs mean; older bundles hold classifiers.
        engine: the file to open; absent where the device builds it. ``deploy`` is the graph that it is built from.
        preprocessing: how an image is prepared; absent where the inputs are arrays that the user prepares.
        sides: the sizes of the image that the engine takes, where they are free; ``preprocessing`` has the middle one.
        assumed: the fields of ``preprocessing`` that nobody said when the bundle was built.
        created: UTC, ISO 8601 to the second.
        files: every file but the manifest and its signature, by name.
    """

    format: Literal["radixrt-bundle"] = "radixrt-bundle"
    schema_version: Literal[1] = 1
    created: str
    radixrt: str
    libraries: dict[str, str] = {}
    model: ModelIdentity
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    target: str
    batch: tuple[Positive, Positive] = (1, 1)
    built_for: BuiltFor | None = None
    executed: bool
    inference_precision: Annotated[str, Field(pattern=r"^(f32|bf16)$")] | None = None
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    preprocessing: Preprocess | None
    sides: Sides | None = None
    assumed: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    task: str = "classify"
    engine: str | None = None
    deploy: str = GRAPH_NAME
    files: tuple[FileEntry, ...] = ()

    _deploy = field_validator("deploy")(_safe_name)

    @field_validator("engine")
    @classmethod
    def _engine(cls, engine: str | None) -> str | None:
        return engine if engine is None else _safe_name(engine)

    @field_validator("batch")
    @classmethod
    def _ordered(cls, batch: tuple[int, int]) -> tuple[int, int]:
        if batch[0] > batch[1]:
            raise ValueError("the smallest batch exceeds the largest")
        return batch

    @field_validator("files")
    @classmethod
    def _sorted(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        names = [entry.name for entry in files]
        if len(set(names)) != len(names):
            raise ValueError("a file is listed twice")
        return tuple(sorted(files, key=lambda entry: entry.name))

    def refuse_sizes(self, feed: Feed) -> None:
        """Holds arrays against the ranges of the image's sides.

        Raises:
            InputError: an array has a side outside them.
        """
        if self.sides is None:
            return
        for tensor in self.inputs:
            array = feed.get(tensor.name)
            if array is None or array.ndim != len(tensor.shape):
                continue
            if why := self.sides.outside(tensor.shape, array.shape):
                raise InputError(f"{tensor.name} is {' x '.join(map(str, array.shape))}: {why}, resize it")

    def to_bytes(self) -> bytes:
        """The manifest as it stands on disk: the same manifest is always the same bytes."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Reads a manifest of a finished bundle.

        Args:
            data: the file's bytes.
            where: how an error names the file.

        Raises:
            InputError: it is not a manifest, is of a schema this version does not know, or contradicts itself.
        """
        content = _parse(data, where)
        if content.get("format") != FORMAT:
            raise InputError(f"{where} is not the manifest of a RadixRT bundle: name a folder that radixrt made")
        version = content.get("schema_version")
        if type(version) is not int or version < 1:
            raise InputError(f"{where} has no valid schema_version: build the bundle again")
        if version > SCHEMA_VERSION:
            raise InputError(
                f"{where} has schema {version}, this RadixRT reads up to {SCHEMA_VERSION}: upgrade RadixRT to open it"
            )
        try:
            manifest = cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "the manifest"
            raise InputError(f"{where} is damaged at {field} ({first['msg']}): build the bundle again") from error
        listed = {entry.name for entry in manifest.files}
        for name in (manifest.engine, manifest.deploy):
            if name is not None and name not in listed:
                raise InputError(f"{where} lists no hash for {name}: build the bundle again")
        return manifest


def _parse(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise InputError(f"{where} is larger than {MAX_BYTES >> 20} MiB, which no manifest is: build the bundle again")
    try:
        content = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not valid JSON: build the bundle again") from error
    if not isinstance(content, dict):
        raise InputError(f"{where} is not a JSON object: build the bundle again")
    return content


def now() -> str:
    """The present time as a manifest writes it."""
    return datetime.now(timezone.utc).replace(microsecond=0).isoformat()
