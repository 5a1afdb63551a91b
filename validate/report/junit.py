"""Gates as JUnit XML, so that a CI system shows each as a test of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from radixrt.files import replace_file
from radixrt.validate.report.rows import steadiness
from radixrt.validate.report.summary import (
    Headline,
    change,
    figure,
    gate_limit,
    gate_title,
    gate_value,
    headline,
    speedup,
)
from radixrt.validate.schema import Report

# XML 1.0 has no way to write these, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(reports: Sequence[Report]) -> str:
    """One suite for each engine, one case for each gate: passed, failed, or skipped where it was not judged."""
    suites = ElementTree.Element("testsuites")
    suites.extend(_suite(report) for report in reports)
    return xml_text(suites)


def xml_text(root: ElementTree.Element) -> str:
    """An XML file's text, indented."""
    ElementTree.indent(root)
    # As bytes, because Python 3.10 names the locale's encoding in text, and the file is UTF-8.
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text.decode() + "\n"


def write_junit(path: Path | None, reports: Sequence[Report]) -> None:
    """Writes the gates of a run where the user asked for them and there is an engine to speak of.

    Raises:
        InputError: the file cannot be written.
    """
    if path is not None and reports:
        replace_file(path, render_junit(reports).encode())


def _suite(report: Report) -> ElementTree.Element:
    name = f"{report.model.name}-{report.precision}-{report.target}"
    said = headline(report)
    # What casts doubt on a verdict has a case of its own, skipped as a gate is that was not judged.
    doubts = [f for f in report.findings if f.severity == "doubt"]
    failures = [gate for gate in report.gates if not gate.passed]
    skipped = [gate for gate in report.gates if gate.passed and gate.value is None]
    suite = ElementTree.Element(
        "testsuite",
        name=clean(f"radixrt {name}"),
        tests=str(len(report.gates) + bool(doubts)),
        failures=str(len(failures)),
        errors="0",
        skipped=str(len(skipped) + bool(doubts)),
        timestamp=clean(report.created),
    )
    # Beside the gates, so that whoever reads a green run sees what it was judged by.
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in _properties(report, said):
        ElementTree.SubElement(properties, "property", name=key, value=clean(value))
    for gate in report.gates:
        case = ElementTree.SubElement(suite, "testcase", classname=clean(name), name=clean(gate.name))
        if gate in failures:
            measured = f"{gate_title(gate)}: {gate_value(gate)}, limit {gate_limit(gate)}"
            problem = ElementTree.SubElement(case, "failure", message=clean(measured), type="GateError")
            problem.text = clean(gate.reason)
        elif gate in skipped:
            ElementTree.SubElement(case, "skipped", message=clean(gate.reason))
        elif gate.reason:
            # What a gate was judged by is part of its passing: a CPU stand-in, or an interval that proves nothing.
            ElementTree.SubElement(case, "system-out").text = clean(gate.reason)
    if doubts:
        case = ElementTree.SubElement(suite, "testcase", classname=clean(name), name="verdict")
        ElementTree.SubElement(case, "skipped", message=clean(" ".join([f"{said.title}.", *(f.text for f in doubts)])))
    return suite


def _properties(report: Report, said: Headline) -> Iterator[tuple[str, str]]:
    yield "verdict", said.title
    yield "task", report.task
    for metric in report.metrics:
        yield f"metric.{metric.name}", f"{figure(metric, metric.engine)} ({change(metric)})"
    if report.latency:
        yield "speedup", speedup(report.latency)
        yield "times", steadiness(report.latency)
    yield "reused", ", ".join(report.reused) or "nothing"
    for field in report.preprocessing:
        yield f"preprocessing.{field.name}", f"{field.value} ({field.origin.value})"


def clean(text: str) -> str:
    """Text as XML can write it."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
