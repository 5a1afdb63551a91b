"""``calibration.json``: the ranges of a graph's tensors, where they come from, and whether they still apply.

A table belongs to one graph and one set of images; it names both by hash and refuses to be used for others. Its own
``sha256`` covers all the rest, so a file that was cut short or edited is refused too. Beside the chosen range it
keeps what every chooser would have chosen, so recovery can switch a layer's range without seeing the images again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from radixrt.calibration.spec import CalibrationSummary, Method
from radixrt.errors import InputError
from radixrt.export.graph.hash import model_sha256
from radixrt.files import replace_file

TABLE_SCHEMA = 2


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Candidates(_Frozen):
    """The amax that each chooser picks for one tensor."""

    minmax: float = Field(ge=0)
    percentile: float = Field(ge=0)
    entropy: float = Field(ge=0)
    mse: float = Field(ge=0)

    def by(self, method: Method) -> float:
        """What ``method`` picks."""
        return float(getattr(self, method.value))


class HistogramSummary(_Frozen):
    """Magnitudes seen: ``quantiles`` at 50, 90, 99, 99.9 and 99.99 percent of ``values``; ``zeros`` are exactly 0."""

    values: int
    zeros: int
    quantiles: tuple[float, float, float, float, float]


class TensorRange(_Frozen):
    """One tensor: ``amax`` maps to 127. ``dead_channels`` were zero in every image.

    The extremes of each channel are kept where cross-layer equalisation may want them.
    """

    name: str
    amax: float = Field(ge=0)
    minimum: float
    maximum: float
    candidates: Candidates
    histogram: HistogramSummary
    dead_channels: tuple[int, ...] = ()
    channel_minimum: tuple[float, ...] = ()
    channel_maximum: tuple[float, ...] = ()


class CalibrationTable(_Frozen):
    """Ranges in the graph's order. ``percentile`` is in percent, ``peak_bytes`` the process's peak memory."""

    schema_version: int = TABLE_SCHEMA
    method: Method
    percentile: float
    images: int
    data_sha256: str
    model_sha256: str
    seconds: float = 0.0
    peak_bytes: int = 0
    tensors: tuple[TensorRange, ...]

    def find(self, name: str) -> TensorRange | None:
        """The range of a tensor, None where the table has none."""
        return next((t for t in self.tensors if t.name == name), None)

    def amax(self, name: str) -> float:
        """The amax of a tensor.

        Raises:
            InputError: the table has no such tensor.
        """
        tensor = self.find(name)
        if tensor is None:
            raise InputError(f"the calibration table has no range for {name!r}: calibrate this graph again")
        return tensor.amax

    def with_amax(self, chosen: dict[str, float]) -> CalibrationTable:
        """The same table with other ranges for the tensors named."""
        tensors = tuple(t.model_copy(update={"amax": chosen.get(t.name, t.amax)}) for t in self.tensors)
        return self.model_copy(update={"tensors": tensors})

    def with_method(self, method: Method) -> CalibrationTable:
        """The same table with every range chosen by ``method``."""
        chosen = {t.name: t.candidates.by(method) for t in self.tensors}
        return self.with_amax(chosen).model_copy(update={"method": method})

    def summary(self, *, reused: bool = False) -> CalibrationSummary:
        """What ``report.json`` says of a calibration."""
        return CalibrationSummary(
            method=self.method.value,
            images=self.images,
            seconds=self.seconds,
            peak_bytes=self.peak_bytes,
            data_sha256=self.data_sha256,
            reused=reused,
        )


def _body_sha256(table: CalibrationTable) -> str:
    return hashlib.sha256(json.dumps(table.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def write_table(table: CalibrationTable, path: Path) -> None:
    """Writes ``calibration.json`` whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    payload = {"sha256": _body_sha256(table), "table": table.model_dump(mode="json")}
    replace_file(path, json.dumps(payload, indent=1).encode() + b"\n")


def read_table(path: Path, *, model: ir.Model | None = None, data_sha256: str | None = None) -> CalibrationTable:
    """Reads ``calibration.json`` and checks that it is whole and fits what is given.

    Args:
        path: the file.
        model: the graph that the table must belong to.
        data_sha256: the content hash of the images that it must have been made from.

    Raises:
        InputError: the file is missing, damaged, no calibration table, of another version, or of another graph or data.
    """
    again = "calibrate again"
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the calibration table {path}: {error.strerror}; {again}") from error
    except (ValueError, RecursionError) as error:  # nested beyond the parser's depth
        raise InputError(f"{path} is damaged: it is not JSON ({error}); {again}") from error
    body = payload.get("table") if isinstance(payload, dict) else None
    if not isinstance(body, dict) or "schema_version" not in body:
        raise InputError(
            f"{path} is not a calibration table of RadixRT: give the calibration.json of a bundle, or {again}"
        )
    if body["schema_version"] != TABLE_SCHEMA:
        raise InputError(
            f"{path} has schema {body['schema_version']}, this version reads {TABLE_SCHEMA}: {again} with this version"
        )
    try:
        table = CalibrationTable.model_validate_json(json.dumps(body))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise InputError(f"{path} is damaged at {place}: {first['msg']}; {again}") from error
    if payload.get("sha256") != _body_sha256(table):
        raise InputError(f"{path} is damaged: its content does not match its sha256; {again}")
    if model is not None and table.model_sha256 != model_sha256(model):
        raise InputError(f"{path} belongs to another graph (its model hash differs): {again} for this one")
    if data_sha256 is not None and table.data_sha256 != data_sha256:
        raise InputError(f"{path} was made from other images (their hash differs): {again} with these")
    return table
