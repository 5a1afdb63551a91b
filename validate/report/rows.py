"""A report's parts as rows of text, the same for the Markdown file and the page."""

from __future__ import annotations

from collections.abc import Sequence

from radixrt.calibration.data.preparation import Origin
from radixrt.export.graph.output_kind import OutputKind
from radixrt.export.sides import spelt
from radixrt.validate.quality import Accuracy, Metric
from radixrt.validate.report.summary import change, count, figure, main_output, milliseconds, percent, size
from radixrt.validate.schema import Candidate, DriftRow, Latency, LatencyMethod, LayerTime, Parity, Report

Row = tuple[object, ...]


def metric_head(reference: str, engine: str) -> list[str]:
    """The columns of :func:`metric_rows`."""
    return ["", reference, engine, "change", "95 % interval of the change", "by"]


def metric_rows(metrics: Sequence[Metric]) -> list[Row]:
    """The task's figures, of the original and of the engine, and by which interval their change was judged."""
    rows: list[Row] = []
    for metric in metrics:
        interval = (
            "" if metric.delta_ci95_points is None else " to ".join(f"{x:+.4g}" for x in metric.delta_ci95_points)
        )
        rows.append(
            (
                metric.title,
                figure(metric, metric.reference) if metric.by_labels else "",
                figure(metric, metric.engine),
                change(metric) if metric.by_labels else "",
                interval,
                metric.interval if interval else "",
            )
        )
    return rows


def class_rows(accuracy: Accuracy) -> list[Row]:
    """Classes, the largest loss first."""
    ordered = sorted(accuracy.classes, key=lambda c: c.engine_top1 - c.reference_top1)
    return [
        (
            c.label,
            c.samples,
            percent(c.reference_top1),
            percent(c.engine_top1),
            f"{(c.engine_top1 - c.reference_top1) * 100:+.2f}",
        )
        for c in ordered
    ]


def confusion_rows(accuracy: Accuracy) -> list[Row]:
    """Cells of the confusion matrix that changed most."""
    return [(c.label, c.predicted, c.reference, c.engine) for c in accuracy.confusion_changes]


def flip_rows(accuracy: Accuracy) -> list[Row]:
    """Changed answers, the reference's surest first."""
    return [
        (f.image, f.label, f.reference, f"{f.reference_margin:.3f}", f.engine, f"{f.engine_margin:.3f}")
        for f in accuracy.flips
    ]


def parity_rows(parity: Parity, task: str) -> list[Row]:
    """How close the main output is, and the answers that its logits give."""
    what = main_output(parity, task)
    rows: list[Row] = [("images", parity.samples)]
    if parity.top1_agreement is not None:
        rows.append(("top-1 agreement", percent(parity.top1_agreement)))
    if parity.top5_agreement is not None and _classes(parity) > 5:
        rows.append(("top-5 agreement", percent(parity.top5_agreement)))
    if parity.cosine_min is not None and parity.cosine_mean is not None:
        rows += [
            (f"cosine of {what}, smallest", f"{parity.cosine_min:.6f}"),
            (f"cosine of {what}, mean", f"{parity.cosine_mean:.6f}"),
        ]
    rows += [
        (f"error of {what}, largest", f"{parity.max_abs:.3g}"),
        (f"error of {what}, mean", f"{parity.mean_abs:.3g}"),
        (f"SQNR of {what}", f"{parity.sqnr_db:.1f} dB"),
    ]
    if parity.softmax_kl is not None:
        of = "softmax" if parity.kind is OutputKind.LOGITS else parity.kind.value
        rows.append((f"KL of the {of}", f"{parity.softmax_kl:.3g} nat"))
    rows += [
        (
            f"at {at.height} x {at.width}, {count(at.samples, 'image')}",
            f"{'' if at.cosine_min is None else f'cosine {at.cosine_min:.6f}, '}SQNR {at.sqnr_db:.1f} dB, "
            f"error {at.max_abs:.3g}",
        )
        for at in parity.sizes
    ]
    if parity.nonfinite:
        rows.append((f"images where {what} holds NaN or infinity", parity.nonfinite))
    return rows


def _classes(parity: Parity) -> int:
    """How long the logits are; reports of before they said so count as long."""
    return parity.outputs[0].shape[0] if parity.outputs else 1000


OUTPUT_HEAD = (
    "output",
    "shape",
    "cosine, smallest",
    "cosine, mean",
    "error, largest",
    "error, mean",
    "SQNR (dB)",
    "equal values",
)


def output_rows(parity: Parity) -> list[Row]:
    """Each output, where there are several."""
    return [
        (
            f"{output.name} (the {parity.kind.value})"
            if index == 0 and parity.top1_agreement is not None
            else output.name,
            " x ".join(map(str, output.shape)),
            "" if output.cosine_min is None else f"{output.cosine_min:.6f}",
            "" if output.cosine_mean is None else f"{output.cosine_mean:.6f}",
            f"{output.max_abs:.3g}",
            f"{output.mean_abs:.3g}",
            f"{output.sqnr_db:.1f}",
            "" if output.agreement is None else percent(output.agreement),
        )
        for index, output in enumerate(parity.outputs)
        if len(parity.outputs) > 1
    ]


def worst_head(parity: Parity, reference: str, engine: str) -> list[str]:
    """The columns of :func:`worst_rows`."""
    answers = [] if parity.top1_agreement is None else [reference, "confidence", engine, "confidence"]
    return ["image", *(["cosine"] if _directed(parity) else []), "largest error", *answers]


def _directed(parity: Parity) -> bool:
    return any(w.cosine is not None for w in parity.worst)


def worst_rows(parity: Parity) -> list[Row]:
    """The images that lie furthest apart, with both predictions where there are any."""
    return [
        (
            w.image,
            *(("" if w.cosine is None else f"{w.cosine:.5f}",) if _directed(parity) else ()),
            f"{w.max_abs:.3g}",
            *(
                (w.reference, f"{w.reference_confidence:.3f}", w.engine, f"{w.engine_confidence or 0.0:.3f}")
                if w.reference_confidence is not None
                else ()
            ),
        )
        for w in parity.worst
    ]


def latency_head(latency: Latency) -> tuple[str, ...]:
    """The columns of :func:`latency_rows`: one more where an engine was timed without its copies."""
    more = ("kernels alone, p50",) if any(r.device_p50_ms is not None for r in latency.rows) else ()
    return ("runner", "batch", "p50", "p90", "p95", "p99", "images/s", *more)


def latency_rows(latency: Latency) -> list[Row]:
    """Percentiles of each runner at each batch size."""
    more = len(latency_head(latency)) > 7
    return [
        (
            r.name,
            r.batch,
            *(milliseconds(v) for v in (r.p50_ms, r.p90_ms, r.p95_ms, r.p99_ms)),
            f"{r.images_per_s:.1f}",
            *([milliseconds(r.device_p50_ms) if r.device_p50_ms is not None else ""] if more else []),
        )
        for r in latency.rows
    ]


THROUGHPUT_HEAD = ("requests at once", "threads each", "batch", "images/s", "median of one (ms)", "p95 of one (ms)")


def throughput_rows(latency: Latency) -> list[Row]:
    """Images per second with several requests at once, and what one of them then takes."""
    return [
        (t.streams, t.threads, t.batch, f"{t.images_per_s:.1f}", milliseconds(t.p50_ms), milliseconds(t.p95_ms))
        for t in latency.throughput
    ]


def candidate_rows(candidates: Sequence[Candidate]) -> list[Row]:
    """The targets that the fastest was chosen from, in their order: the quickest first, then those not timed."""
    return [
        (
            " ".join(filter(None, (c.target, c.version, c.precision))),
            c.verdict,
            milliseconds(c.p50_ms) if c.p50_ms is not None else "",
            milliseconds(c.p95_ms) if c.p95_ms is not None else "",
            f"{c.speedup:.2f}x" if c.speedup is not None else "",
            c.reason,
        )
        for c in candidates
    ]


CANDIDATE_HEAD = ("target", "verdict", "median", "p95", "speed-up", "why not chosen")


def candidate_method(report: Report) -> str:
    """How the candidates were compared, in one sentence."""
    if report.latency is None:
        return ""
    method, batch = report.latency.method, min(row.batch for row in report.latency.rows)
    return (
        f"Timed in turns in one run at batch {batch}, {method.rounds} rounds. {steadiness(report.latency)} "
        "The quickest that keeps the gates was chosen."
    )


def steadiness(latency: Latency) -> str:
    """Whether the times are to be judged by, and what else the machine did."""
    method = latency.method
    if latency.unsteady:
        return f"Not steady: {'; '.join(latency.unsteady)}. No gate judges these times."
    again = f"; {count(method.repeated_rounds, 'round')} that other work disturbed were taken again"
    return (
        f"Other processes kept {method.others_cores:.1f} cores busy meanwhile{again if method.repeated_rounds else ''}."
    )


def at_size(method: LatencyMethod) -> str:
    """The size of the timed images, to begin a sentence with, where the engine takes several."""
    return f"Images of {spelt(method.image)}; " if method.image is not None else ""


def latency_method(latency: Latency) -> str:
    """How the times were taken, in a few sentences."""
    method = latency.method
    order = "interleaved" if method.interleaved else "separate"
    transfers = "with" if method.includes_transfers else "without"
    threads = f"{method.threads} threads" if method.threads else "the runtime's own number of threads"
    row = f", each {method.settle_ms:g} ms to settle and {method.timed_ms:g} ms timed back to back"
    text = (
        f"{at_size(method)}{method.rounds} {order} rounds after {method.warmup_rounds} of warm-up"
        f"{row if method.timed_ms else ''}, {threads}, "
        f"{transfers} transfers, "
        f"{method.clock} clock. {steadiness(latency)}"
    )
    if any(row.device_p50_ms is not None for row in latency.rows):
        text += " Kernels alone are timed by CUDA events, with the images on the device already."
    extra = []
    if method.load_ms is not None:
        extra.append(f"opening the engine took {milliseconds(method.load_ms)}")
    if method.first_inference_ms is not None:
        extra.append(f"the first inference took {milliseconds(method.first_inference_ms)}")
    if method.peak_bytes is not None:
        extra.append(f"its process needed {size(method.peak_bytes)} at the peak")
    if extra:
        sentence = ", ".join(extra)
        text += f" {sentence[0].upper()}{sentence[1:]}."
    return text


def machine_rows(latency: Latency) -> list[Row]:
    """The machine before and after."""
    return [(m.name, m.before, m.after) for m in latency.method.machine]


def drift_rows(drift: list[DriftRow]) -> list[Row]:
    """Layers in order of depth."""
    return [
        (
            f"{d.name} (first drop)" if d.first_drop else d.name,
            d.op_type,
            d.depth,
            f"{d.sqnr_db:.1f}",
            f"{d.drop_db:.1f}",
            f"{d.gain:.3f}",
            percent(d.rounding_share),
            percent(d.clipping_share),
        )
        for d in sorted(drift, key=lambda d: d.depth)
    ]


def layer_rows(times: list[LayerTime]) -> list[Row]:
    """Layers, the slowest first."""
    return [(t.name, t.op_type, f"{t.ms:.4f}") for t in sorted(times, key=lambda t: -t.ms)]


BLOCK_HEAD = ["block", "kind", "radix", "cardinality", "lowering", "why"]
REFUSED_HEAD = ["left alone", "reason"]
GROUPED_CONV_HEAD = ["grouped convolution", "groups", "form", "why"]
POOL_CONV_HEAD = ["average pool and 1x1 convolution", "form", "why"]
FLOAT32_HEAD = ["left in float32", "reason"]


def block_rows(report: Report) -> list[Row]:
    """The attention blocks that were lowered."""
    return [(b.name, b.kind, b.radix, b.cardinality, b.lowering, b.why) for b in report.rewrite.attention_blocks]


def refused_rows(report: Report) -> list[Row]:
    """What the rewriter left alone."""
    return [(refusal.node, refusal.reason) for refusal in report.rewrite.refused]


def grouped_conv_rows(report: Report) -> list[Row]:
    """The forms of grouped convolutions."""
    return [(record.name, record.groups, record.form, record.why) for record in report.rewrite.grouped_convs]


def pool_conv_rows(report: Report) -> list[Row]:
    """The forms of average poolings before 1x1 convolutions."""
    forms = {"pool": "as it was", "depthwise": "a depthwise convolution", "conv": "one convolution"}
    return [(record.name, forms[record.form], record.why) for record in report.rewrite.pool_convs]


def light_layer_rows(report: Report) -> list[Row]:
    """The layers that hardly multiply, and the type that each runs in."""
    forms = {"int8": "INT8", "padded": "INT8, padded", "float": "float"}
    return [(record.name or record.node, forms[record.form], record.why) for record in report.rewrite.light_layers]


def float32_rows(report: Report) -> list[Row]:
    """What FP16 left in float32."""
    return [(kept.module or kept.node, kept.reason) for kept in report.float32_nodes]


def quantization_rows(report: Report) -> list[Row]:
    """How ranges were found and where they were used."""
    rows: list[Row] = []
    if (calibration := report.calibration) is not None:
        reused = ", reused from an earlier build" if calibration.reused else f" in {calibration.seconds:.1f} s"
        rows += [
            ("method", calibration.method),
            ("images", f"{calibration.images}{reused}"),
            ("peak memory", size(calibration.peak_bytes)),
            ("data, SHA-256", calibration.data_sha256),
        ]
    if (quantization := report.quantization) is not None:
        rows += [
            ("layers quantised", quantization.quantized),
            ("layers kept in float", len(quantization.kept_float)),
            ("float round trips between INT8 layers", quantization.float_round_trips),
        ]
        rows += [("recovery", step) for step in quantization.recovery]
    return rows


PREPARATION_HEAD = ["field", "value", "who says so"]


def preparation_rows(report: Report) -> list[Row]:
    """How images are prepared, and who says so."""
    return [
        (
            field.name,
            ", ".join(f"{number:g}" for number in field.value) if isinstance(field.value, tuple) else field.value,
            "nobody: assumed" if field.origin is Origin.ASSUMED else f"{field.origin.value} {field.where}".strip(),
        )
        for field in report.preprocessing
    ]


def environment_rows(report: Report) -> list[Row]:
    """Where the numbers come from."""
    return [
        ("task", f"{report.task}: {report.task_reason}" if report.task_reason else report.task),
        ("weights", report.model.weights),
        ("source", report.model.source),
        ("parameters", f"{report.model.parameters:,}"),
        *sorted(report.environment.items()),
    ]
