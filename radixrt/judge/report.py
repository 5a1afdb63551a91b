"""What every report holds beside its measurements: where it was made, its pictures, and its three files."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from radixrt.calibration.data.images import ImageList
from radixrt.engines.base import Capability
from radixrt.engines.bundle.folder import REPORT_NAME
from radixrt.engines.machine import processor
from radixrt.reuse import library_versions
from radixrt.validate.report.html import render_html
from radixrt.validate.report.markdown import render_markdown
from radixrt.validate.report.thumbnails import thumbnails
from radixrt.validate.schema import Report


def flipped(report: Report, images: ImageList) -> dict[str, bytes]:
    """Small pictures of the images whose answer changed, by name."""
    flips = report.accuracy.flips if report.accuracy else []
    return thumbnails(dict(zip(images.names, images.paths, strict=True)), (flip.image for flip in flips))


def write_reports(report: Report, folder: Path, pictures: Mapping[str, bytes] | None = None) -> None:
    """Writes the report as JSON, Markdown and one self-contained page with pictures of the images it names."""
    report.write(folder / REPORT_NAME)
    (folder / "report.md").write_text(render_markdown(report), encoding="utf-8")
    (folder / "report.html").write_text(render_html(report, pictures), encoding="utf-8")


def environment(capability: Capability) -> dict[str, str]:
    """Where a build took place, in words."""
    words = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor(),
        "device": capability.device,
        "python": platform.python_version(),
        capability.target: capability.version,
        **library_versions(),
    }
    return {name: value for name, value in words.items() if value}
