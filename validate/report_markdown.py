"""``report.md``: the report for a pull request or a terminal. Says the same as the page, without plots."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from radixrt.validate.schema import Report
from radixrt.validate.summary import (
    RANDOM_WEIGHTS,
    gate_limit,
    gate_state,
    gate_title,
    gate_value,
    milliseconds,
    percent,
    size,
    tiles,
    verdict,
)

MOST_ROWS = 20


def render_markdown(report: Report) -> str:
    """The whole ``report.md``."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def escape(text: object) -> str:
    """Makes a name from outside (a file, a class, a node) harmless inside a table cell."""
    flat = re.sub(r"[\r\n\t]+", " ", str(text))
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|#!~])", r"\\\1", flat)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A pipe table and the empty line after it."""
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for row in rows:
        yield "| " + " | ".join(escape(cell) for cell in row) + " |"
    yield ""


def _lines(report: Report) -> Iterator[str]:
    if report.model.weights == "random":
        yield f"**{RANDOM_WEIGHTS}**"
        yield ""
    yield f"# {escape(report.model.name)}, {escape(report.precision)}, {escape(report.target)}"
    yield ""
    said = verdict(report)
    yield f"**{said.title}.**"
    yield ""
    for sentence in (*said.sentences, *report.findings):
        yield f"- {escape(sentence)}"
    yield ""
    yield from table(["", "", ""], [(t.label, t.value, t.note) for t in tiles(report)])
    yield from _gates(report)
    yield from _accuracy(report)
    yield from _parity(report)
    yield from _latency(report)
    yield from _drift(report)
    yield from _graph(report)
    yield from _origin(report)


def _gates(report: Report) -> Iterator[str]:
    yield "## Gates"
    yield ""
    rows = [(gate_title(g), gate_limit(g), gate_value(g), gate_state(g), g.reason) for g in report.gates]
    yield from table(["gate", "limit", "measured", "state", "why"], rows) if rows else ["None was asked for.", ""]


def _accuracy(report: Report) -> Iterator[str]:
    if (accuracy := report.accuracy) is None:
        return
    low, high = accuracy.delta_ci95
    yield "## Accuracy"
    yield ""
    yield (
        f"{accuracy.samples} images; change {accuracy.delta * 100:+.2f} points, 95 % interval {low * 100:+.2f} to "
        f"{high * 100:+.2f}; exact McNemar p = {accuracy.mcnemar_p:.3g}; {len(accuracy.flips)} answers changed."
    )
    yield ""
    shares = [("top-1", percent(accuracy.reference_top1), percent(accuracy.engine_top1))]
    # A head of five classes or fewer has every label among its five best.
    if not 0 < len(accuracy.confusion_reference) <= 5:
        shares.append(("top-5", percent(accuracy.reference_top5), percent(accuracy.engine_top5)))
    yield from table(["", "PyTorch", "engine"], shares)
    rows = sorted(accuracy.classes, key=lambda c: c.engine_top1 - c.reference_top1)
    yield from _cut(len(rows), "classes, worst change first")
    yield from table(
        ["class", "images", "PyTorch", "engine"],
        [(c.label, c.samples, percent(c.reference_top1), percent(c.engine_top1)) for c in rows[:MOST_ROWS]],
    )
    if accuracy.flips:
        yield from _cut(len(accuracy.flips), "changed answers, surest first")
        yield from table(
            ["image", "label", "PyTorch", "margin", "engine", "margin"],
            [
                (f.image, f.label, f.reference, f"{f.reference_margin:.3f}", f.engine, f"{f.engine_margin:.3f}")
                for f in accuracy.flips[:MOST_ROWS]
            ],
        )


def _parity(report: Report) -> Iterator[str]:
    if (parity := report.parity) is None:
        return
    yield "## Parity with PyTorch"
    yield ""
    rows: list[tuple[str, str]] = [
        ("images", str(parity.samples)),
        ("top-1 agreement", percent(parity.top1_agreement)),
        ("top-5 agreement", percent(parity.top5_agreement)),
        ("cosine, smallest and mean", f"{parity.cosine_min:.6f}, {parity.cosine_mean:.6f}"),
        ("error, largest and mean", f"{parity.max_abs:.3g}, {parity.mean_abs:.3g}"),
        ("SQNR", f"{parity.sqnr_db:.1f} dB"),
        ("KL of the softmax", f"{parity.softmax_kl:.3g} nat"),
    ]
    if parity.nonfinite:
        rows.append(("images with NaN or infinity", str(parity.nonfinite)))
    yield from table(["over the logits", ""], rows)


def _latency(report: Report) -> Iterator[str]:
    if (latency := report.latency) is None:
        return
    method = latency.method
    yield "## Latency"
    yield ""
    yield from table(
        ["runner", "batch", "p50", "p90", "p95", "p99", "images/s"],
        [
            (r.name, r.batch, *(milliseconds(v) for v in (r.p50_ms, r.p90_ms, r.p95_ms, r.p99_ms)),
             f"{r.images_per_s:.1f}")
            for r in latency.rows
        ],
    )  # fmt: skip
    order = "interleaved" if method.interleaved else "one after the other"
    transfers = "with" if method.includes_transfers else "without"
    yield (
        f"{method.rounds} {order} rounds after {method.warmup_rounds} of warm-up, "
        f"{method.threads or 'default'} threads, {transfers} transfers, {method.clock} clock. "
        f"{escape(method.baseline)} against itself: {method.noise:.3f}. "
        f"Load average {method.load_before:.2f} before, {method.load_after:.2f} after."
    )
    yield ""
    extra = []
    if method.load_ms is not None:
        extra.append(f"Opening the engine took {milliseconds(method.load_ms)}")
    if method.first_inference_ms is not None:
        extra.append(f"the first inference {milliseconds(method.first_inference_ms)}")
    if method.peak_bytes is not None:
        extra.append(f"peak memory was {size(method.peak_bytes)}")
    if extra:
        yield ", ".join(extra) + "."
        yield ""


def _drift(report: Report) -> Iterator[str]:
    if not report.drift:
        return
    rows = sorted(report.drift, key=lambda d: d.sqnr_db)
    yield "## Drift"
    yield ""
    yield from _cut(len(rows), "layers, lowest SQNR first")
    yield from table(
        ["layer", "op", "depth", "SQNR dB", "rounding", "clipping", ""],
        [
            (d.name, d.op_type, d.depth, f"{d.sqnr_db:.1f}", percent(d.rounding_share), percent(d.clipping_share),
             "first drop" if d.first_drop else "")
            for d in rows[:MOST_ROWS]
        ],
    )  # fmt: skip


def _graph(report: Report) -> Iterator[str]:
    rewrite = report.rewrite
    yield "## Rewrite"
    yield ""
    yield (
        f"{len(rewrite.attention_blocks)} attention blocks lowered, {len(rewrite.refused)} places left alone; "
        f"{rewrite.nodes_before} nodes became {rewrite.nodes_after}; the proofs' largest difference is "
        f"{rewrite.max_abs_err:.3g}."
    )
    yield ""
    if rewrite.attention_blocks:
        yield from table(
            ["block", "kind", "radix", "cardinality", "lowering"],
            [(b.name, b.kind, b.radix, b.cardinality, b.lowering) for b in rewrite.attention_blocks],
        )
    if rewrite.refused:
        yield from table(["left alone", "reason"], [(r.node, r.reason) for r in rewrite.refused])
    if rewrite.grouped_convs:
        yield from table(
            ["grouped convolution", "groups", "form", "why"],
            [(g.name, g.groups, g.form, g.why) for g in rewrite.grouped_convs],
        )
    if (calibration := report.calibration) is not None:
        yield (
            f"Calibration: {escape(calibration.method)} over {calibration.images} images in {calibration.seconds:.1f} s"
            f"{', reused' if calibration.reused else ''}; data `{calibration.data_sha256[:16]}`."
        )
        yield ""
    if (quantization := report.quantization) is not None:
        yield (
            f"Quantised: {quantization.quantized} layers; kept in float: {len(quantization.kept_float)}; "
            f"float round trips: {quantization.float_round_trips}."
        )
        yield ""


def _origin(report: Report) -> Iterator[str]:
    yield "## Origin"
    yield ""
    rows: list[tuple[str, object]] = [
        ("weights", report.model.weights),
        ("source", report.model.source),
        ("parameters", f"{report.model.parameters:,}"),
        ("created", report.created),
        ("command", report.command),
        *sorted(report.environment.items()),
    ]
    yield from table(["", ""], rows)
    for note in report.notes:
        yield f"- {escape(note)}"


def _cut(rows: int, what: str) -> Iterator[str]:
    if rows > MOST_ROWS:
        yield f"{MOST_ROWS} of {rows} {what}; `report.json` has all."
        yield ""
