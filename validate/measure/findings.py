"""Names what is wrong, for the report: a layer, two classes, the preprocessing, too few images, an unsteady machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixrt.export.graph.output_kind import Head
from radixrt.validate.gates import GateLimits, engine_row, float_row
from radixrt.validate.measure.latency import ELSEWHERE
from radixrt.validate.measure.parity import Floats
from radixrt.validate.quality import Metric, main_metric
from radixrt.validate.schema import DriftRow, Finding, Latency, LatencyRow, Quantization

# INT8 shrinks or stretches a deep layer by a tenth or two; a scale that is wrong does so by much more.
GAIN_TOLERANCE = 0.35
# Eight bits over a sensible range leave 30 to 40 dB of an activation; under this, three bits are lost.
NOISY_DB = 20.0
MOSTLY = 0.7
SHIFT_TOLERANCE = 0.02
SURE = 0.9
MENDED = 0.2  # of the error of two classes, what may be left when they are changed back
MOST_LAYERS = 3
MOST_CLASS_PAIRS = 5
UNSTEADY = "the times are not steady"
# An engine that saves less than this is not worth what it costs in accuracy.
WORTH = 1.05
# Another runtime is offered where it takes at most this share of the time.
OFFERED = 0.8
_UNKNOWN = Head()


def layer_findings(rows: Sequence[DriftRow]) -> list[Finding]:
    """What the drift says: a layer whose output is scaled, the first drop and its cause, the next largest drops."""
    if not rows:
        return []
    found = []
    ordered = sorted(rows, key=lambda row: row.depth)
    overflow = next((row for row in ordered if row.nonfinite), None)
    if overflow is not None:
        # Whatever else goes wrong behind it follows from it.
        text = (
            f"The output of {overflow.name} ({overflow.op_type}) overflows where it is computed in this precision: "
            f"{overflow.nonfinite} values are NaN or infinite (FP16 ends at 65504); build FP32 for such a device."
        )
        return [Finding(severity="failure", title="a layer overflows", text=text)]
    scaled = next((row for row in ordered if abs(row.gain - 1) > GAIN_TOLERANCE and _by_gain(row) > MOSTLY), None)
    if scaled is not None:
        text = (
            f"The output of {scaled.name} ({scaled.op_type}) is {scaled.gain:.2f} times the reference's, and "
            "no layer before it is scaled: a scale there is wrong."
        )
        found.append(Finding.doubt("a layer is scaled wrongly", text))
    first = next((row for row in ordered if row.first_drop), None)
    if first is not None:
        found.append(
            _detail(
                f"The SQNR first drops at {first.name} ({first.op_type}), by {first.drop_db:.1f} dB "
                f"to {first.sqnr_db:.1f} dB{_cause(first)}."
            )
        )
        worse = [row for row in sorted(ordered, key=lambda row: -row.drop_db) if row is not first and row.drop_db > 6]
        if worse:
            names = ", ".join(f"{row.name} ({row.drop_db:.1f} dB)" for row in worse[:MOST_LAYERS])
            found.append(_detail(f"Further drops of more than 6 dB: {names}."))
    noisy = sorted((row for row in ordered if row.own_sqnr_db < NOISY_DB), key=lambda row: row.own_sqnr_db)
    if noisy:
        names = ", ".join(
            f"{row.name} ({row.own_sqnr_db:.1f} dB, {max(row.rounding_share, row.clipping_share) * 100:.0f} % "
            f"{'clipping' if row.clipping_share > row.rounding_share else 'rounding'})"
            for row in noisy[:MOST_LAYERS]
        )
        found.append(_detail(f"The coarsest quantisers of activations are those of {names}."))
    return found


def logit_findings(reference: Floats, engine: Floats, head: Head = _UNKNOWN) -> list[Finding]:
    """Classes whose logits changed places, of arrays (images, classes)."""
    if reference.shape != engine.shape or reference.ndim != 2 or reference.shape[0] < 3 or reference.shape[1] < 2:
        return []
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(engine).all(axis=1))
    if not finite.all():
        text = f"{int((~finite).sum())} of {len(finite)} images gave NaN or infinity: look for an overflow "
        return [Finding(severity="failure", title="NaN or infinity", text=text + "(FP16 ends at 65504).")]
    kind, largest = head.kind.value, float(np.abs(reference).max())
    if largest < np.finfo(np.float32).tiny and largest > 0:
        text = f"The original's {kind} are denormal (at most {largest:.1g}), and engines flush such numbers to zero."
        return [Finding.doubt(f"the {kind} are denormal", text)]
    if (reference == reference[0]).all():
        text = f"The original gives every image the same {kind}: what it answers does not depend on the image."
        return [Finding.doubt("the original answers every image alike", text)]
    width = reference.shape[1]
    correlation = np.nan_to_num(_correlate(reference, engine))
    partner = correlation.argmax(axis=1)
    title = [head.name(i) for i in range(width)]
    swaps = []
    for i, j in ((i, int(partner[i])) for i in range(width) if partner[i] > i and partner[partner[i]] == i):
        # Classes that rise and fall together correlate either way: changing them back must mend the error as well.
        straight, crossed = (np.square(engine[:, pair] - reference[:, [i, j]]).sum() for pair in ([i, j], [j, i]))
        if correlation[i, j] > max(SURE, correlation[i, i]) and crossed < MENDED * straight:
            swaps.append((i, j))
    return [
        Finding.doubt(
            "two classes are swapped",
            f"The engine's outputs of {title[i]} and {title[j]} are swapped: the order of its labels is wrong.",
        )
        for i, j in swaps[:MOST_CLASS_PAIRS]
    ]


def input_findings(reference: NDArray[Any], engine: NDArray[Any]) -> list[Finding]:
    """How two preprocessings of the same images differ, of arrays (N, C, H, W)."""
    if reference.shape != engine.shape or reference.ndim != 4:
        return [_read(f"The reference reads images of shape {reference.shape[1:]} and the engine {engine.shape[1:]}.")]
    ref = np.moveaxis(reference.astype(np.float64), 1, 0).reshape(reference.shape[1], -1)
    eng = np.moveaxis(engine.astype(np.float64), 1, 0).reshape(reference.shape[1], -1)
    error, power = np.square(eng - ref).sum(), np.square(ref).sum()
    if error <= 1e-6 * power:
        return []
    if len(ref) == 3 and np.square(eng[::-1] - ref).sum() < 0.1 * error:
        return [_read("The engine reads its colour channels in the reverse order (RGB and BGR).")]
    gains, shifts = [], []
    for one, other in zip(ref, eng, strict=True):
        spread = one.var()
        gain = float(((one - one.mean()) * (other - other.mean())).mean() / spread) if spread > 0 else 1.0
        gains.append(gain)
        shifts.append(float(other.mean() - gain * one.mean()))
    fitted = np.asarray(gains)[:, None] * ref + np.asarray(shifts)[:, None]
    if np.square(eng - fitted).sum() > 0.1 * error:
        text = "The engine's images differ from the reference's by more than mean and std: compare resize and crop."
        return [_read(text)]
    said = []
    if max(abs(gain - 1) for gain in gains) > SHIFT_TOLERANCE:
        said.append(f"scaled by {', '.join(f'{gain:.3f}' for gain in gains)} (another std)")
    if max(abs(shift) for shift in shifts) > SHIFT_TOLERANCE:
        said.append(f"shifted by {', '.join(f'{shift:+.3f}' for shift in shifts)} (another mean)")
    return [_read(f"The engine's preprocessing differs: its channels are {' and '.join(said)}.")] if said else []


def speed_findings(latency: Latency) -> list[Finding]:
    """Times that judge nothing; a quicker runtime; and INT8 that is not worth having here, by the rows timed beside."""
    if latency.unsteady:
        text = f"The times are not steady: {'; '.join(latency.unsteady)}."
        return [Finding.doubt(UNSTEADY, text)]
    engine, float32 = engine_row(latency), float_row(latency)
    elsewhere = (row for row in latency.rows if row.name.startswith(ELSEWHERE) and row.batch == engine.batch)
    offers = [_offer(row, engine) for row in elsewhere if row.p50_ms <= OFFERED * engine.p50_ms]
    if float32 is None or float32.p50_ms >= WORTH * engine.p50_ms:
        return offers
    text = (
        f"INT8 gains nothing here: {engine.p50_ms:.3g} ms against {float32.p50_ms:.3g} ms of the same graph in FP32 on "
        "the same runtime, in the same run; on this machine an FP32 engine (PREC=fp32) is as quick, and exact."
    )
    return [*offers, Finding(severity="remark", text=text)]


def _offer(other: LatencyRow, engine: LatencyRow) -> Finding:
    text = (
        f"{other.name.removeprefix(ELSEWHERE)} runs this graph in {other.p50_ms:.3g} ms here, this engine takes "
        f"{engine.p50_ms:.3g} ms in the same run: TARGET=fastest builds for both and keeps the quicker."
    )
    return Finding(severity="remark", text=text)


def metric_findings(metrics: Sequence[Metric], limits: GateLimits) -> list[Finding]:
    """Whether the images are enough to tell if the drop of the first metric is within its limit."""
    if (main := main_metric(metrics)) is None or (limit := limits.drop_of(main.share)) is None:
        return []
    interval = main.drop_ci95_points
    told = interval is not None and (interval[1] <= limit or interval[0] > limit)
    return [] if told or not main.conclusion else [Finding.doubt("too few images to tell", main.conclusion)]


def precision_findings(precision: str, quantization: Quantization | None) -> list[Finding]:
    """Whether an engine computes anything in the precision that its name says."""
    if precision != "int8" or quantization is None or quantization.quantized:
        return []
    text = "0 layers are in INT8: the engine computes in float throughout"
    reasons = sorted({kept.partition(": ")[2] for kept in quantization.kept_float} - {""})
    why = f" ({'; '.join(reasons[:MOST_LAYERS])})" if reasons else ""
    return [Finding.doubt("nothing is in INT8", f"{text}{why}.")]


def _detail(text: str) -> Finding:
    return Finding(severity="detail", text=text)


def _read(text: str) -> Finding:
    return Finding.doubt("the engine reads images otherwise", text)


def _by_gain(row: DriftRow) -> float:
    """The share of a layer's error that its gain explains; the rest is orthogonal to the reference's output."""
    return float((row.gain - 1) ** 2 * 10 ** (row.sqnr_db / 10))


def _cause(row: DriftRow) -> str:
    if row.own_sqnr_db > row.sqnr_db + 6:
        return "; quantising its activations does not explain that: look at its weights and scales"
    if row.clipping_share > 0.5:
        share = row.clipping_share * 100
        return f"; {share:.0f} % of the error its quantisers add is clipping: its range is too narrow"
    share = row.rounding_share * 100
    return f"; {share:.0f} % of the error its quantisers add is rounding: its range is too wide for 8 bits"


def _correlate(left: Floats, right: Floats) -> NDArray[np.float64]:
    def unit(array: Floats) -> NDArray[np.float64]:
        centred = array.astype(np.float64) - array.mean(axis=0, dtype=np.float64)
        norm = np.linalg.norm(centred, axis=0)
        return np.asarray(centred / np.where(norm > 0, norm, 1.0), dtype=np.float64)

    return np.asarray(unit(left).T @ unit(right), dtype=np.float64)
