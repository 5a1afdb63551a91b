"""Samples stream through a graph once; ranges of its tensors remain.

The graph runs on onnxruntime, one image at a time (so that batch size cannot matter, not even through a runtime
that picks another kernel for another batch), with probes on every tensor that any target's placement may quantise
(``outputs.py``). Extremes are taken over every value; histograms over an evenly strided sample of at most ``SAMPLE``
values per tensor and image, whose stride depends on the tensor's shape alone. A stride co-prime to the tensor's
size visits every channel, row and column.

Memory: the activations of the few images that run at the same time, plus 64 KiB for each tensor observed, however many
images are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.calibration.placement.decision import observed_values
from radixrt.calibration.placement.meeting import with_one_scale
from radixrt.calibration.ranges.choosers import choose, percentile
from radixrt.calibration.ranges.graft import graft
from radixrt.calibration.ranges.observers import TensorObserver
from radixrt.calibration.ranges.outputs import Probe, add_probes
from radixrt.calibration.ranges.resume import CollectState, load_state, save_state
from radixrt.calibration.ranges.table import CalibrationTable, Candidates, HistogramSummary, TensorRange
from radixrt.calibration.ranges.useful_range import with_useful_ranges
from radixrt.calibration.recovery.channels import FIXED, channel_groups
from radixrt.calibration.spec import CalibrationOptions, Method
from radixrt.errors import InputError
from radixrt.export.feed import Feed, joined, length, part, shapes
from radixrt.export.graph.facts import infer
from radixrt.export.graph.hash import model_sha256
from radixrt.export.graph.session import GraphSession

Array = NDArray[Any]

_SAVE_EVERY_S = 20.0
_PROVING = 2
"""Images on which tensors of several graphs are shown to be the same."""
_QUANTILES = (50.0, 90.0, 99.0, 99.9, 99.99)


def calibrate(
    model: ir.Model,
    batches: Iterable[Feed],
    options: CalibrationOptions | None = None,
    *,
    data_sha256: str | None = None,
    state_path: Path | None = None,
    threads: int = 0,
    on_resume: Callable[[int], None] | None = None,
) -> CalibrationTable:
    """Observes a graph on images and chooses its ranges.

    Args:
        model: a float32 graph; not changed.
        batches: its inputs, images normalised; N may differ from batch to batch.
        options: how ranges are chosen.
        data_sha256: the images' content hash as their source tells it; made from the pixels where absent.
        state_path: where to keep what was observed, now and then and when the user stops it, so that an interrupted
            calibration continues: a file that lies there counts for the first images of ``batches``. Removed once the
            table is made.
        threads: of the runtime; 0 lets it choose.
        on_resume: called with the number of images that an interrupted run had read, where there was one.

    Raises:
        InputError: no images, images that do not fit the graph, or NaN or infinite activations (named).
    """
    (table,) = calibrate_together(
        [model],
        batches,
        options,
        data_sha256=data_sha256,
        state_path=state_path,
        threads=threads,
        on_resume=on_resume,
    )
    assert table is not None
    return table


def calibrate_together(
    models: Sequence[ir.Model],
    batches: Iterable[Feed],
    options: CalibrationOptions | None = None,
    *,
    data_sha256: str | None = None,
    state_path: Path | None = None,
    threads: int = 0,
    on_resume: Callable[[int], None] | None = None,
) -> list[CalibrationTable | None]:
    """Observes several graphs of one network in one pass (``graft.py``); the arguments are :func:`calibrate`'s.

    Returns:
        a table for each graph; None of one that has to be calibrated alone, which the first never has.
    """
    options = options or CalibrationOptions()
    started = time.monotonic()
    inferred, hashes = [infer(model.clone()) for model in models], [model_sha256(model) for model in models]
    # What is run gets probes, and what others compute beside it.
    base, others = inferred[0].clone(), inferred[1:]
    own = {value.name or "": value for value in observed_values(base)}
    source = iter(batches)
    first = next(source, None)
    if first is None:
        raise InputError("no calibration images were given: name a folder that holds some, with --data")
    places = [own, *graft(base, others, part(first, 0, _PROVING))]
    values = {value.name or "": value for place in places for value in (place or {}).values()}
    fresh = CollectState(model_sha256(base) if others else hashes[0], [TensorObserver(name) for name in values])
    state = load_state(state_path, fresh) if state_path is not None else fresh
    if state.images and on_resume is not None:
        on_resume(state.images)
    try:
        _stream(base, [*values.values()], chain([first], source), state, state_path, threads)
    except (KeyboardInterrupt, SystemExit):
        if state_path is not None:
            with contextlib.suppress(InputError):  # the user asked to stop: a full disk changes nothing
                save_state(state, state_path)
        raise
    observers = {observer.name: observer for observer in state.observers}
    tables: list[CalibrationTable | None] = []
    for graph, sha256, place in zip((model.graph for model in inferred), hashes, places, strict=True):
        if place is None:
            tables.append(None)
            continue
        rescalable = {n for n, groups in channel_groups(graph).of.items() if (groups != FIXED).any()}
        tensors = (
            _range(name, observers[value.name or ""], options, by_channel=name in rescalable)
            for name, value in place.items()
        )
        table = CalibrationTable(
            method=options.method,
            percentile=options.percentile,
            images=state.images,
            data_sha256=data_sha256 or state.data_sha256,
            model_sha256=sha256,
            seconds=time.monotonic() - started,
            peak_bytes=_peak_bytes(),
            tensors=tuple(tensors),
        )
        tables.append(with_one_scale(graph, with_useful_ranges(graph, table)))
    if state_path is not None:
        state_path.unlink(missing_ok=True)
    return tables


def _stream(
    model: ir.Model,
    values: Sequence[ir.Value],
    batches: Iterable[Feed],
    state: CollectState,
    state_path: Path | None,
    threads: int,
) -> None:
    sources = {value.name for value in model.graph.inputs}
    probes = add_probes(model, [value for value in values if value.name not in sources])
    names = [name for probe in probes for name in probe.names]
    session = GraphSession(model, threads=threads, beside=True)
    batch = session.batch or 1
    saved = time.monotonic()

    def take(feed: Feed, outputs: dict[str, Array]) -> None:
        nonlocal saved
        for i in range(length(feed)):
            sample = part(feed, i, i + 1)
            for observer in state.observers:
                if observer.name in sample:
                    observer.observe(sample[observer.name])
            _observe(state, probes, outputs, i, length(feed))
            _count(state, sample)
        if state_path is not None and time.monotonic() - saved > _SAVE_EVERY_S:
            save_state(state, state_path)
            saved = time.monotonic()

    # In a thread of its own, which Ctrl-C does not reach: what is kept then holds every image whole.
    with ThreadPoolExecutor(1) as worker:
        behind: Future[None] | None = None
        for feed, outputs in session.each(_after(_regroup(batches, batch), state.images), names):
            if behind is not None:
                behind.result()
            behind = worker.submit(take, feed, outputs)
        if behind is not None:
            behind.result()


def _observe(state: CollectState, probes: list[Probe], outputs: dict[str, Array], index: int, count: int) -> None:
    observers = {o.name: o for o in state.observers}
    for probe in probes:
        rows = _of_sample(outputs[probe.maximum], index, count)
        if not len(rows):  # as many as boxes were found
            continue
        maximum = rows.max(axis=0).reshape(-1)
        minimum = np.zeros_like(maximum)
        if probe.minimum:
            minimum = _of_sample(outputs[probe.minimum], index, count).min(axis=0).reshape(-1)
        observers[probe.tensor].observe_reduced(maximum, minimum, _of_sample(outputs[probe.sample], index, count))


def _of_sample(array: Array, index: int, count: int) -> Array:
    """The rows of one of ``count`` samples: several for each inside a network, or as many as one sample comes to."""
    each, left = divmod(len(array), count)
    if left:
        return array if index == 0 else array[:0]
    return array[index * each : (index + 1) * each]


def _count(state: CollectState, sample: Feed) -> None:
    digest = hashlib.sha256(b"".join(array.tobytes() for array in sample.values())).digest()
    state.data_sum = (state.data_sum + int.from_bytes(digest, "big")) % (1 << 256)
    state.images += 1


def _regroup(batches: Iterable[Feed], size: int) -> Iterable[Feed]:
    """The same samples in groups of ``size`` that have one shape; the last of each may be smaller."""
    rest: dict[str, list[Feed]] = {}
    for feed in batches:
        alike = rest.setdefault(shapes(part(feed, 0, 1)), [])
        for i in range(length(feed)):
            alike.append(part(feed, i, i + 1))
            if len(alike) == size:
                yield joined(alike)
                alike.clear()
    for alike in rest.values():
        if alike:
            yield joined(alike)


def _after(groups: Iterable[Feed], images: int) -> Iterable[Feed]:
    """The groups that an interrupted run did not come to: it ended with a whole one."""
    for group in groups:
        if images >= length(group):
            images -= length(group)
        else:
            yield group


def _range(name: str, observer: TensorObserver, options: CalibrationOptions, *, by_channel: bool) -> TensorRange:
    picked = {m: choose(observer, CalibrationOptions(m, options.percentile)) for m in Method}
    histogram = observer.histogram
    return TensorRange(
        name=name,
        amax=picked[options.method],
        # Nothing was seen of what lies behind boxes where no image had one.
        minimum=float(observer.minimum.min()) if observer.minimum.size else 0.0,
        maximum=float(observer.maximum.max()) if observer.maximum.size else 0.0,
        candidates=Candidates(**{m.value: amax for m, amax in picked.items()}),
        histogram=HistogramSummary(
            values=histogram.total,
            zeros=histogram.zeros,
            quantiles=_quantiles(observer),
        ),
        dead_channels=observer.dead_channels,
        channel_minimum=tuple(map(float, observer.minimum)) if by_channel else (),
        channel_maximum=tuple(map(float, observer.maximum)) if by_channel else (),
    )


def _quantiles(observer: TensorObserver) -> tuple[float, float, float, float, float]:
    a, b, c, d, e = (min(percentile(observer.histogram, q), observer.amax) for q in _QUANTILES)
    return a, b, c, d, e


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
