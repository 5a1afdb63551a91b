"""Gates as JUnit XML, so that a CI system shows each as a test of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from radixrt.files import replace_file
from radixrt.validate.report.rows import steadiness
from radixrt.validate.report.summary import gate_limit, gate_title, gate_value, speedup
from radixrt.validate.schema import Report

# XML 1.0 has no way to write these, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render_junit(reports: Sequence[Report]) -> str:
    """One suite for each engine, one case for each gate: passed, failed, or skipped where it was not judged."""
    suites = ElementTree.Element("testsuites")
    suites.extend(_suite(report) for report in reports)
    ElementTree.indent(suites)
    # As bytes, because Python 3.10 names the locale's encoding in text, and the file is UTF-8.
    text: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
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
    failures = [gate for gate in report.gates if not gate.passed]
    skipped = [gate for gate in report.gates if gate.passed and gate.value is None]
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(f"radixrt {name}"),
        tests=str(len(report.gates)),
        failures=str(len(failures)),
        errors="0",
        skipped=str(len(skipped)),
        timestamp=_clean(report.created),
    )
    if report.latency:
        # Beside the gates, so that whoever reads a green run sees what it was judged by.
        properties = ElementTree.SubElement(suite, "properties")
        for key, value in (("speedup", speedup(report.latency)), ("times", steadiness(report.latency))):
            ElementTree.SubElement(properties, "property", name=key, value=_clean(value))
    for gate in report.gates:
        case = ElementTree.SubElement(suite, "testcase", classname=_clean(name), name=_clean(gate.name))
        if gate in failures:
            measured = f"{gate_title(gate)}: {gate_value(gate)}, limit {gate_limit(gate)}"
            problem = ElementTree.SubElement(case, "failure", message=_clean(measured), type="GateError")
            problem.text = _clean(gate.reason)
        elif gate in skipped:
            ElementTree.SubElement(case, "skipped", message=_clean(gate.reason))
        elif gate.reason:
            # What a gate was judged by is part of its passing: a CPU twin, or an interval that proves nothing.
            ElementTree.SubElement(case, "system-out").text = _clean(gate.reason)
    return suite


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
