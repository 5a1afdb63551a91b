"""TensorRT's text calibration cache: export to it, import from it.

For TensorRT up to 10 and for DLA flows, which take ranges from a cache file instead of Q/DQ pairs. The format::

    TRT-8502-EntropyCalibration2
    input: 3caa5293
    relu_1: 3d1b9b2a

One line per tensor; the number is the big-endian hexadecimal of the float32 scale, ``amax / 127``. Tensors that
only move another's values (MaxPool, Slice, ...) get a line too: TensorRT looks each tensor up by name and would
leave one without a line in float.
"""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

import onnx_ir as ir

from radixrt.calibration.int8 import QMAX, scale_from_amax
from radixrt.calibration.ranges.table import CalibrationTable
from radixrt.errors import InputError
from radixrt.export.graph.facts import root_of

_HEADER = re.compile(r"TRT-(\d+)-(\w+)")
_LINE = re.compile(r"(?P<name>.+): (?P<scale>[0-9a-fA-F]{1,8})")


def export_cache(table: CalibrationTable, version: str, *, model: ir.Model | None = None) -> str:
    """The text of a TensorRT calibration cache.

    Args:
        table: the ranges.
        version: TensorRT's version, as ``8.5.2`` or as the digits of the cache's first line, ``8502``.
        model: the graph, where tensors that share another's range should get their lines too.

    Raises:
        InputError: the version is not one, or a range cannot be quantised.
    """
    ranges = {t.name: t.amax for t in table.tensors}
    if model is not None:
        for node in model.graph:
            for value in node.outputs:
                amax = ranges.get(root_of(value).name or "")
                if amax is not None and value.name:
                    ranges.setdefault(value.name, amax)
    lines = [f"TRT-{_digits(version)}-EntropyCalibration2"]
    lines += [f"{name}: {struct.pack('>f', scale_from_amax(amax)).hex()}" for name, amax in ranges.items()]
    return "\n".join(lines) + "\n"


def _digits(version: str) -> str:
    if re.fullmatch(r"\d{4,6}", version):
        return version
    match = re.fullmatch(r"(\d+)\.(\d+)(?:\.(\d+))?.*", version)
    if match is None:
        raise InputError(f"{version!r} is no version of TensorRT: write it as 8.5.2 or 10.3.0")
    major, minor, patch = int(match[1]), int(match[2]), int(match[3] or 0)
    # The library's own number: major*1000 + minor*100 + patch until 9, major*10000 + minor*100 + patch from 10 on.
    return str(major * (10_000 if major >= 10 else 1000) + minor * 100 + patch)


def import_cache(path: Path, table: CalibrationTable) -> CalibrationTable:
    """Takes ranges from a TensorRT calibration cache into a table of the same graph.

    Args:
        path: the cache file.
        table: the table whose ranges are replaced where the cache has a line; lines of other tensors are ignored.

    Raises:
        InputError: the file cannot be read, is no such cache, is damaged (the line is named), or fits no tensor.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the TensorRT calibration cache {path}: {error}") from error
    if not lines or not _HEADER.fullmatch(lines[0].strip()):
        raise InputError(f"{path} is no TensorRT calibration cache: its first line must be TRT-<version>-<calibrator>")
    wanted = {t.name for t in table.tensors}
    chosen: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise InputError(f"{path} is damaged at line {number}: expected 'tensor: hex', got {line!r}")
        (scale,) = struct.unpack(">f", bytes.fromhex(match["scale"].zfill(8)))
        if not math.isfinite(scale) or scale <= 0:
            raise InputError(f"{path} is damaged at line {number}: the scale of {match['name']!r} is {scale}")
        if match["name"] in wanted:
            chosen[match["name"]] = scale * QMAX
    if not chosen:
        raise InputError(f"{path} belongs to another graph: none of its tensors is in this one")
    return table.with_amax(chosen)
