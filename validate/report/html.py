"""``report.html``: one page that needs nothing else, verdict first, readable at a glance, on screen and on paper.

Everything from outside (names of images, classes and nodes, the command, the machine) is escaped: by jinja2's
autoescape in the text, by :func:`radixrt.validate.report.figures.plain` inside the plots. A content security policy in
the page forbids every request. The plot library stands in the page compressed, about 2 MB.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from radixrt.validate.quality import Flip, main_metric
from radixrt.validate.report import rows
from radixrt.validate.report.figures import ROLES, Plot, report_plots
from radixrt.validate.report.summary import (
    RANDOM_WEIGHTS,
    count,
    gate_limit,
    gate_state,
    gate_title,
    gate_value,
    headline,
    main_output,
    on_stand_in,
    subject,
    tiles,
)
from radixrt.validate.schema import Report
from radixrt.validate.tasks.base import Example

TEMPLATES = Path(__file__).with_name("templates")
MOST_PICTURES = 24


@dataclass(frozen=True)
class ReportPage:
    """What the template needs beside the report itself: tables as rows of text, pictures."""

    sections: list[tuple[str, str]]
    flips: list[tuple[Flip, str]]
    candidate_rows: list[rows.Row]
    candidate_method: str
    metric_rows: list[rows.Row]
    class_rows: list[rows.Row]
    confusion_rows: list[rows.Row]
    flip_rows: list[rows.Row]
    parity_rows: list[rows.Row]
    output_rows: list[rows.Row]
    worst_rows: list[rows.Row]
    latency_rows: list[rows.Row]
    throughput_rows: list[rows.Row]
    latency_method: str
    machine_rows: list[rows.Row]
    drift_rows: list[rows.Row]
    layer_rows: list[rows.Row]
    block_rows: list[rows.Row]
    refused_rows: list[rows.Row]
    grouped_rows: list[rows.Row]
    pool_rows: list[rows.Row]
    light_rows: list[rows.Row]
    float32_rows: list[rows.Row]
    quantization_rows: list[rows.Row]
    preparation_rows: list[rows.Row]
    environment_rows: list[rows.Row]


def render_html(report: Report, thumbnails: Mapping[str, bytes] | None = None, examples: Sequence[Example] = ()) -> str:
    """The whole page.

    Args:
        report: what to show.
        thumbnails: small PNG or JPEG files by image name, for the changed answers; those it lacks stand in the table.
        examples: images on which engine and original differ, with the task's pictures of them.
    """
    return render_page(
        "report_page.html",
        title=f"{report.model.name}, {report.precision}, {report.target}",
        plots=report_plots(report),
        report=report,
        page=_page(report, thumbnails or {}, examples),
        examples=examples,
        verdict=headline(report),
        tiles=tiles(report),
        random_weights=RANDOM_WEIGHTS,
        count=count,
        subject=subject(report),
        output_head=rows.OUTPUT_HEAD,
        worst_head=rows.worst_head,
        metric_head=rows.metric_head(report.reference, subject(report)),
        main_metric=main_metric(report.metrics),
        main_output=main_output,
        latency_head=rows.latency_head,
        throughput_head=rows.THROUGHPUT_HEAD,
        of_stand_in=" of the CPU stand-in" if on_stand_in(report) else "",
        gate_title=gate_title,
        gate_limit=gate_limit,
        gate_value=gate_value,
        gate_state=gate_state,
        candidate_head=rows.CANDIDATE_HEAD,
        preparation_head=rows.PREPARATION_HEAD,
    )


def render_page(template: str, *, title: str, plots: Sequence[Plot], **context: object) -> str:
    """Renders one of this package's templates with the shared style, script and plot library."""
    return _environment().get_template(template).render(
        title=title,
        plots=plots,
        css=_asset("page.css"),
        script=_asset("page.js"),
        library=packed_library(),
        roles=Markup(json.dumps(ROLES)),
        **context,
    )  # fmt: skip


@lru_cache(maxsize=1)
def packed_library() -> str:
    """plotly.js, gzip and base64: a quarter of a page's megabytes, unpacked by the page itself."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode("ascii")


def picture_url(picture: bytes) -> str:
    """A data URL of a PNG or JPEG file."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> Markup:
    # These are the package's own files; nothing from a report goes through here.
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _page(report: Report, thumbnails: Mapping[str, bytes], examples: Sequence[Example]) -> ReportPage:
    accuracy = report.accuracy
    flips = accuracy.flips if accuracy else []
    pictures = [(flip, picture_url(thumbnails[flip.image])) for flip in flips if flip.image in thumbnails]
    present = {
        "examples": ("Examples", bool(examples)),
        "gates": ("Gates", True),
        "candidates": ("Targets tried", bool(report.candidates)),
        "accuracy": ("Accuracy", bool(report.metrics)),
        "flips": ("Changed answers", bool(flips)),
        "parity": ("Parity", report.parity is not None),
        "latency": ("Latency", report.latency is not None),
        "drift": ("Drift", bool(report.drift)),
        "layers": ("Time per layer", bool(report.layer_times)),
        "rewrite": ("Rewrite", bool(report.rewrite.nodes_before)),
        "quantization": ("Quantisation", report.calibration is not None or report.quantization is not None),
        "images": ("Images", bool(report.preprocessing)),
        "words": ("Words", True),
        "origin": ("Origin", True),
    }
    return ReportPage(
        sections=[(key, name) for key, (name, there) in present.items() if there],
        flips=pictures[:MOST_PICTURES],
        candidate_rows=rows.candidate_rows(report.candidates),
        candidate_method=rows.candidate_method(report),
        metric_rows=rows.metric_rows(report.metrics),
        class_rows=rows.class_rows(accuracy) if accuracy else [],
        confusion_rows=rows.confusion_rows(accuracy) if accuracy else [],
        flip_rows=rows.flip_rows(accuracy) if accuracy else [],
        parity_rows=rows.parity_rows(report.parity, report.task) if report.parity else [],
        output_rows=rows.output_rows(report.parity) if report.parity else [],
        worst_rows=rows.worst_rows(report.parity) if report.parity else [],
        latency_rows=rows.latency_rows(report.latency) if report.latency else [],
        throughput_rows=rows.throughput_rows(report.latency) if report.latency else [],
        latency_method=rows.latency_method(report.latency) if report.latency else "",
        machine_rows=rows.machine_rows(report.latency) if report.latency else [],
        drift_rows=rows.drift_rows(report.drift),
        layer_rows=rows.layer_rows(report.layer_times),
        block_rows=rows.block_rows(report),
        refused_rows=rows.refused_rows(report),
        grouped_rows=rows.grouped_conv_rows(report),
        pool_rows=rows.pool_conv_rows(report),
        light_rows=rows.light_layer_rows(report),
        float32_rows=rows.float32_rows(report),
        quantization_rows=rows.quantization_rows(report),
        preparation_rows=rows.preparation_rows(report),
        environment_rows=rows.environment_rows(report),
    )
