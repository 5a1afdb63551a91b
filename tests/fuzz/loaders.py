"""Every loader of files that somebody else may have written, as the fuzzer and the regression test call it.

A loader takes the file's bytes. It returns, or raises InputError with one sentence; anything else is a bug.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from radixrt.calibration.ranges.table import (
    CalibrationTable,
    Candidates,
    HistogramSummary,
    TensorRange,
    read_table,
    write_table,
)
from radixrt.calibration.ranges.trt_cache import export_cache, import_cache
from radixrt.calibration.spec import Method
from radixrt.engines.bundle.manifest import FileEntry, Manifest
from radixrt.errors import InputError
from radixrt.export.reader.onnx_file import read_onnx
from radixrt.validate.gates import read_gates
from tests.engines.bundle.bundles import manifest, tiny_network


@dataclass(frozen=True)
class Loader:
    """``modules`` are those whose branches the fuzzer follows; ``runs`` is its share of ``make fuzz``."""

    name: str
    load: Callable[[bytes], object]
    seeds: Callable[[], tuple[bytes, ...]]
    modules: tuple[str, ...]
    runs: int


def attempt(loader: Loader, data: bytes) -> bool:
    """Runs a loader once; says whether it took the file.

    Raises:
        AssertionError: the refusal is not one sentence.
    """
    try:
        loader.load(data)
    except InputError as error:
        text = str(error)
        assert text.strip(), "the refusal says nothing"
        assert len(text) < 4000, "the refusal repeats the file"
        return False
    return True


@cache
def _scratch() -> Path:
    # A disk that flushes each rewritten file makes a hundred runs a second of ten thousand.
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="radixrt-fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _from_file(read: Callable[[Path], object], suffix: str) -> Callable[[bytes], object]:
    def load(data: bytes) -> object:
        path = _scratch() / f"input{suffix}"
        path.write_bytes(data)
        return read(path)

    return load


@cache
def _table() -> CalibrationTable:
    def tensor(name: str, amax: float) -> TensorRange:
        candidates = Candidates(minmax=amax, percentile=amax, entropy=amax, mse=amax)
        histogram = HistogramSummary(values=10, zeros=1, quantiles=(0.1, 0.2, 0.3, 0.4, amax))
        return TensorRange(
            name=name, amax=amax, minimum=-amax, maximum=amax, candidates=candidates, histogram=histogram
        )

    return CalibrationTable(
        method=Method.MSE,
        percentile=99.99,
        images=4,
        data_sha256="ab" * 32,
        model_sha256="cd" * 32,
        tensors=(tensor("input", 2.5), tensor("conv", 0.75)),
    )


def _manifest_seeds() -> tuple[bytes, ...]:
    files = tuple(FileEntry(name=name, bytes=3, sha256="ab" * 32) for name in ("deploy.onnx", "engine.onnx"))
    return (manifest().model_copy(update={"files": files}).to_bytes(),)


def _table_seeds() -> tuple[bytes, ...]:
    path = _scratch() / "seed.json"
    write_table(_table(), path)
    return (path.read_bytes(),)


def _onnx_seeds() -> tuple[bytes, ...]:
    path = _scratch() / "seed.onnx"
    tiny_network(path)
    return (path.read_bytes(),)


LOADERS = (
    Loader(
        "manifest",
        lambda data: Manifest.from_bytes(data, "manifest.json"),
        _manifest_seeds,
        ("radixrt.engines.bundle.manifest", "radixrt.calibration.data.preprocess"),
        400_000,
    ),
    Loader("table", _from_file(read_table, ".json"), _table_seeds, ("radixrt.calibration.ranges.table",), 250_000),
    Loader(
        "trt-cache",
        _from_file(lambda path: import_cache(path, _table()), ".cache"),
        lambda: (export_cache(_table(), "8.5.2").encode(),),
        ("radixrt.calibration.ranges.trt_cache",),
        250_000,
    ),
    Loader(
        "gates",
        _from_file(read_gates, ".toml"),
        lambda: (b"[gates]\nmax_drop = 1.0\nmin_cosine = 0.99\nstrict = true\n", b"max_p95_ms = 3"),
        ("radixrt.validate.gates", "tomllib"),
        150_000,
    ),
    Loader("onnx", _from_file(read_onnx, ".onnx"), _onnx_seeds, ("radixrt.export.reader.onnx_file",), 20_000),
)
