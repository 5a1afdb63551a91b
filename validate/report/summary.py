"""What a reader must know first: the verdict and a handful of numbers, the same in Markdown and on the page."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from radixrt.export.sides import spelt
from radixrt.export.source.outputs import OUTPUT_NAME
from radixrt.validate.gates import LATENCY_GATES, engine_row, float_row, floating, of_outputs
from radixrt.validate.measure.findings import UNSTEADY
from radixrt.validate.measure.rounds import ratio
from radixrt.validate.quality import Metric, main_metric
from radixrt.validate.schema import Gate, Latency, OutputParity, Parity, Report, Severity

RANDOM_WEIGHTS = "Weights are random: no accuracy is claimed for this network."

FEW = 4
"""Of fewer numbers a sample a cosine says little, and of one nothing: SQNR and largest difference are shown."""

Tone = Literal["good", "bad", "unproved"]


@dataclass(frozen=True)
class Headline:
    """The verdict, the same wherever it is told.

    Attributes:
        title: enough on its own.
        tone: colours it.
        sentences: what a reader must not miss, in the order of its weight.
        details: where an error comes from.
    """

    title: str
    tone: Tone
    sentences: tuple[str, ...]
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tile:
    """One number of the summary, with what it must be read beside."""

    label: str
    value: str
    note: str


def headline(report: Report) -> Headline:
    """The one line that decides, and the sentences that a reader must not miss."""
    title, tone = _verdict(report)
    if report.device:
        title += f", on {report.device}"
    details = tuple(finding.text for finding in report.findings if finding.severity == "detail")
    return Headline(title, tone, tuple(dict.fromkeys(_sentences(report))), details)


def _verdict(report: Report) -> tuple[str, Tone]:
    failed = [gate for gate in report.gates if not gate.passed]
    judged = [gate for gate in report.gates if gate.value is not None]
    stand_in = [gate for gate in judged if of_outputs(gate)] if on_stand_in(report) else []
    if failed or not report.passed:
        title = "Failed"
        if failed:
            of = "the one gate was" if len(report.gates) == 1 else f"{len(failed)} of {len(report.gates)} gates"
            title += f": {of} not kept"
        if any(gate in failed for gate in stand_in):
            title += ", measured on the CPU stand-in"
        why = _titles(report, "failure")
        return f"{title} ({'; '.join(why)})" if why else title, "bad"
    doubts = _doubts(report)
    if not report.executed:
        kept = [f"its CPU stand-in kept {count(len(stand_in), 'gate')}"] if stand_in else []
        made = "Built, not executed here" if report.built else "Graph made here, to be built on the device"
        return "; ".join([made, *kept, *doubts]), "unproved"
    if not judged:
        return "; ".join(["Built and executed; no gate was judged", *doubts]), "unproved"
    kept_all = "the one gate was kept" if len(judged) == 1 else f"all {len(judged)} judged gates were kept"
    if doubts:
        return f"In doubt: {kept_all}, but {'; '.join(doubts)}", "unproved"
    return f"Passed: {kept_all}", "good"


def _titles(report: Report, severity: Severity) -> list[str]:
    found = (finding.title for finding in report.findings if finding.severity == severity)
    return list(dict.fromkeys(found))


def _doubts(report: Report) -> list[str]:
    """The titles of the doubts; that of unsteady times names the gates that could not be judged."""
    waiting = " and ".join(gate_title(gate) for gate in unsteady_gates(report))
    titles = _titles(report, "doubt")
    return [f"{title}: {waiting} not judged" if waiting and title == UNSTEADY else title for title in titles]


def _sentences(report: Report) -> Iterator[str]:
    failures = [finding for finding in report.findings if finding.severity == "failure"]
    for gate in report.gates:
        # A failure says more of NaN and overflow than the gate that it comes with.
        if not gate.passed and not (failures and gate.name.startswith("max_nonfinite")):
            yield f"{gate_title(gate)}: {gate_value(gate)}, limit {gate_limit(gate)}. {gate.reason}"
    said: tuple[Severity, ...] = ("failure", "doubt", "remark")
    for severity in said:
        yield from (finding.text for finding in report.findings if finding.severity == severity)
    if not report.executed:
        idle = (
            f"The {report.target} engine was built and was not executed on this machine"
            if report.built
            else f"No {report.target} engine was built on this machine: the device builds it"
        )
        yield (
            f"{idle}: nothing here measures its outputs, its accuracy or its speed."
            if report.parity is None
            else f"{idle}. Parity and accuracy were measured on its CPU stand-in, the same numbers run by ONNX "
            "Runtime, and not on the engine; nothing here measures its speed."
        )
    yield from (metric.conclusion for metric in report.metrics if metric.conclusion)
    if report.latency:
        yield from report.latency.method.warnings
    if report.reused:
        times = " Times were measured in this one." if report.latency else ""
        yield f"Taken from an earlier run: {', '.join(report.reused)}.{times}"


def unsteady_gates(report: Report) -> list[Gate]:
    """The latency gates that were asked for and not judged, because the machine did not calm down."""
    if report.latency is None or not report.latency.unsteady:
        return []
    return [gate for gate in report.gates if gate.name in LATENCY_GATES and gate.value is None]


def speedup(latency: Latency) -> str:
    """The speed-up with its interval, or that the times were not steady."""
    low, high = latency.speedup_ci95
    doubt = "not steady" if latency.unsteady else f"95 %: {low:.2f} to {high:.2f}"
    return f"{latency.speedup_p50:.2f}x ({doubt})"


def on_stand_in(report: Report) -> bool:
    """Whether parity and accuracy are those of the CPU stand-in of an engine that was not executed."""
    return report.measured_on == "cpu stand-in"


def subject(report: Report) -> str:
    """Whose outputs were measured, in words."""
    return "CPU stand-in" if on_stand_in(report) else "engine"


def tiles(report: Report) -> list[Tile]:
    """The summary's numbers, those that were measured."""
    return list(_tiles(report))


def _tiles(report: Report) -> Iterator[Tile]:
    of = ", CPU stand-in" if on_stand_in(report) else ""
    for metric in report.metrics:
        if metric.name == "top5":
            continue
        # mIoU keeps its small letter, top-1 begins a line.
        title = metric.title if metric.title[1:2].isupper() else f"{metric.title[:1].upper()}{metric.title[1:]}"
        if not metric.by_labels:
            yield Tile(f"{title}{of}", figure(metric, metric.engine), f"with {report.reference}, {_interval(metric)}")
            continue
        original = f"{report.reference} {figure(metric, metric.reference)}"
        yield Tile(
            f"{title}, {subject(report)}",
            figure(metric, metric.engine),
            f"{original} on the same {count(metric.samples, 'image')}",
        )
        if metric == main_metric(report.metrics):
            yield Tile(f"Change of {metric.title}{of}", change(metric), _interval(metric))
    if parity := report.parity:
        if parity.top1_agreement is not None:
            yield Tile(f"Same answer{of}", percent(parity.top1_agreement), f"top-1 over {parity.samples} images")
        yield from _closeness(parity, of, report.task)
    if latency := report.latency:
        row = engine_row(latency)
        doubt = ", not steady" if latency.unsteady else ""
        p95 = f"p95 {milliseconds(row.p95_ms)} at batch {row.batch}{_image(latency)}{doubt}"
        yield Tile("Latency, median", milliseconds(row.p50_ms), p95)
        low, high = latency.speedup_ci95
        interval = doubt[2:] or f"95 %: {low:.2f}x to {high:.2f}x"
        yield Tile("Speed-up", f"{latency.speedup_p50:.2f}x", f"over {latency.method.baseline}; {interval}")
        if float32 := float_row(latency):
            gain = ratio(float32.samples_ms, row.samples_ms)
            interval = doubt[2:] or f"95 %: {gain.low:.2f}x to {gain.high:.2f}x"
            yield Tile("Against FP32", f"{gain.value:.2f}x", f"over the same graph in FP32, same runtime; {interval}")
    deploy, engine = report.size.deploy_onnx_bytes, report.size.engine_bytes
    graph = f"deploy graph {size(deploy)}" if deploy else "as it was found"
    yield Tile("Engine", "left to the device" if engine is None else size(engine), graph)


def _image(latency: Latency) -> str:
    return "" if (image := latency.method.image) is None else f", {spelt(image)}"


def main_output(parity: Parity, task: str) -> str:
    """What the first figures are of, in words."""
    if parity.top1_agreement is not None or not parity.outputs:
        return f"the {parity.kind.value}"
    return _called(parity.outputs[0], parity, task)


def _called(output: OutputParity, parity: Parity, task: str) -> str:
    """An output by what the task takes it for where it is alone, else by its name."""
    if len(parity.outputs) > 1:
        return output.name
    if task == "regress":
        return "the number" if _few(output, 2) else "the numbers"
    named = {"embed": "the embedding", "multilabel": "the labels' scores"}.get(task)
    return named or ("the output" if output.name == OUTPUT_NAME else output.name)


def _few(output: OutputParity, least: int = FEW) -> bool:
    """Whether a sample has so few numbers that a cosine of them says little: one number's is its sign."""
    return math.prod(output.shape) < least


def _closeness(parity: Parity, of: str, task: str) -> Iterator[Tile]:
    """How close the logits are; without any, the output that is furthest off."""
    classes = parity.top1_agreement is not None or not parity.outputs
    held = parity.outputs[:1] if classes else floating(parity)
    which = main_output(parity, task) if classes else ""
    cosines = {one.name: one for one in held if one.cosine_min is not None and not _few(one)}
    if classes and parity.cosine_min is not None and len(cosines) == len(held):
        note = f"of {which}, 1 is equal; SQNR {parity.sqnr_db:.1f} dB"
        yield Tile(f"Smallest cosine{of}", f"{parity.cosine_min:.4f}", note)
        return
    if cosines:
        worst = min(cosines.values(), key=lambda output: output.cosine_min or 0.0)
        among = f", the worst of {len(parity.outputs)} outputs" if len(parity.outputs) > 1 else ""
        note = f"of {_called(worst, parity, task)}{among}, over {parity.samples} images, 1 is equal"
        yield Tile(f"Smallest cosine{of}", f"{worst.cosine_min:.4f}", note)
    if held:
        lowest = min(held, key=lambda output: output.sqnr_db)
        name = which or _called(lowest, parity, task)
        over = "" if cosines else f", over {parity.samples} images; 6 dB are one bit"
        yield Tile(f"{'Lowest SQNR' if len(held) > 1 else 'SQNR'}{of}", f"{lowest.sqnr_db:.1f} dB", f"of {name}{over}")
    if few := [one for one in held if _few(one)]:
        furthest = max(few, key=lambda output: output.max_abs)
        name = which or _called(furthest, parity, task)
        yield Tile(f"Largest difference{of}", f"{furthest.max_abs:.3g}", f"of {name}, in its own unit")
    if classes:
        return
    whole = [output for output in parity.outputs if output.agreement is not None]
    if whole:
        least = min(whole, key=lambda output: output.agreement or 0.0)
        yield Tile(f"Equal values{of}", percent(least.agreement or 0.0), f"of {least.name}, integers")


def figure(metric: Metric, value: float) -> str:
    """A value of a metric: a share in percent, else a number in its own unit."""
    return percent(value) if metric.share else f"{value:.4g}"


def change(metric: Metric) -> str:
    """Engine minus original, in the metric's points."""
    return f"{metric.delta_points:+.2f} pt" if metric.share else f"{metric.delta_points:+.4g}"


def _interval(metric: Metric) -> str:
    if metric.delta_ci95_points is None:
        return "on a single image"
    low, high = metric.delta_ci95_points
    if not metric.by_labels:
        return f"95 %: {figure(metric, 1 + low / 100)} to {figure(metric, 1 + high / 100)}"
    return f"95 %: {low:+.2f} to {high:+.2f} pt" if metric.share else f"95 %: {low:+.4g} to {high:+.4g}"


def gate_title(gate: Gate) -> str:
    """A gate's name in words."""
    return {
        "max_drop": "Drop (points)",
        "max_nonfinite_images": "Images that give NaN or infinity",
        "max_nonfinite_values": "Values that overflow in a layer",
        "min_agreement": "Agreement of top-1",
        "min_cosine": "Smallest cosine",
        "max_p95_ms": "95th percentile of latency (ms)",
        "max_engine_bytes": "Engine size (bytes)",
        "min_speedup": "Speed-up",
        "max_regression_p50": "Median latency over an earlier bundle's (%)",
        "max_regression_drop": "Drop since an earlier bundle (points)",
    }.get(gate.name, gate.name)


def gate_limit(gate: Gate) -> str:
    """A gate's limit with its direction."""
    at_least = gate.name.startswith("min") if gate.at_least is None else gate.at_least
    return f"{'≥' if at_least else '≤'} {gate.limit:,.6g}"


def gate_value(gate: Gate) -> str:
    """What was measured."""
    if gate.value is None:
        return "not measured"
    return f"{gate.value:,.4g}" if abs(gate.value) < 10_000 else f"{gate.value:,.0f}"


def gate_state(gate: Gate) -> str:
    """``kept``, ``failed`` or ``not judged``."""
    return "failed" if not gate.passed else "kept" if gate.value is not None else "not judged"


def percent(share: float) -> str:
    """A share as a percentage of two decimals."""
    return f"{share * 100:.2f} %"


def milliseconds(value: float) -> str:
    """Milliseconds with three significant digits or more."""
    return f"{value:.1f} ms" if value >= 100 else f"{value:.2f} ms" if value >= 1 else f"{value:.3f} ms"


def size(total: int) -> str:
    """Bytes in a unit a reader can compare."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if total >= limit:
            return f"{total / limit:.2f} {unit}"
    return f"{total} B"


def count(number: int, noun: str) -> str:
    """A number and its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
