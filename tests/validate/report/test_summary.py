"""Protects that the verdict is the same wherever it is told, and never good where something casts doubt on it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from radixrt.validate.gates import GateLimits
from radixrt.validate.measure.findings import UNSTEADY
from radixrt.validate.report.compare import render_comparison
from radixrt.validate.report.html import render_html
from radixrt.validate.report.junit import render_junit
from radixrt.validate.report.markdown import render_markdown
from radixrt.validate.report.summary import headline
from radixrt.validate.schema import Finding, Report
from tests.validate.reports import make_report

TEXT = "Nobody said how images are prepared."
DOUBT = Finding.doubt("preprocessing was assumed", TEXT)


def with_findings(*findings: Finding, limits: GateLimits | None = None) -> Report:
    return make_report(limits=limits).model_copy(update={"findings": list(findings)})


def test_a_doubt_is_in_every_telling_of_the_verdict() -> None:
    report = with_findings(DOUBT)
    said = headline(report)
    assert said.tone == "unproved" and said.title == "In doubt: the one gate was kept, but preprocessing was assumed"
    assert said.sentences[0] == TEXT
    assert f"**{said.title}.**\n\n- {TEXT}" in render_markdown(report)
    page = render_html(report)
    assert f'class="verdict unproved" role="status"><strong>{said.title}' in page
    comparison = render_comparison([report, report])
    assert said.title in comparison and "<td>In doubt</td>" in comparison and 'class="verdict good"' not in comparison
    suite = ElementTree.fromstring(render_junit([report]))[0]
    properties = {p.get("name"): p.get("value") or "" for p in suite.iter("property")}
    case = next(case for case in suite.iter("testcase") if case.get("name") == "verdict")
    assert properties["verdict"] == said.title and TEXT in (case[0].get("message") or "")
    assert (case[0].tag, suite.get("tests"), suite.get("skipped")) == ("skipped", "2", "1")


def test_remarks_and_details_leave_the_verdict_alone() -> None:
    remark, detail = Finding(severity="remark", text="A remark."), Finding(severity="detail", text="A detail.")
    said = headline(with_findings(detail, remark))
    assert said.tone == "good" and said.sentences[0] == "A remark." and said.details == ("A detail.",)


def test_a_failure_gives_the_title_its_reason() -> None:
    overflow = Finding(severity="failure", title="NaN or infinity", text="All images gave NaN.")
    said = headline(with_findings(overflow, DOUBT, limits=GateLimits(min_speedup=1000)))
    assert said.tone == "bad" and said.title == "Failed: 1 of 2 gates not kept (NaN or infinity)"
    assert said.sentences[1:3] == ("All images gave NaN.", TEXT)


@pytest.mark.parametrize("weights", ["checkpoint", "random"])
def test_a_doubt_stands_also_where_no_gate_was_judged(weights: str) -> None:
    report = make_report(weights=weights, executed=False).model_copy(update={"findings": [DOUBT]})
    assert headline(report).title == "Built, not executed here; preprocessing was assumed"


def test_unsteady_times_name_the_gates_that_wait_for_them() -> None:
    report = make_report(limits=GateLimits(min_speedup=1.0))
    gates = [g.model_copy(update={"value": None}) if g.name == "min_speedup" else g for g in report.gates]
    assert report.latency
    latency = report.latency.model_copy(update={"unsteady": ["others were busy"]})
    changed = {"gates": gates, "latency": latency, "findings": [Finding.doubt(UNSTEADY, "Not steady.")]}
    title = headline(report.model_copy(update=changed)).title
    assert title == "In doubt: the one gate was kept, but the times are not steady: Speed-up not judged"


def test_what_was_reused_stands_in_the_verdict_and_in_junit() -> None:
    report = make_report().model_copy(update={"reused": ["calibration", "onnxruntime answers"]})
    assert any("calibration, onnxruntime answers" in sentence for sentence in headline(report).sentences)
    suite = ElementTree.fromstring(render_junit([report]))[0]
    properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
    assert properties["reused"] == "calibration, onnxruntime answers"


def test_how_images_are_prepared_stands_in_every_report() -> None:
    report = make_report()
    for text in (render_markdown(report), render_html(report)):
        assert "crop_pct" in text.replace("\\", "") and "nobody: assumed" in text
    assert [field["origin"] for field in report.model_dump(mode="json")["preprocessing"]][:2] == ["assumed", "network"]


@pytest.mark.parametrize("others", [0, 2])
def test_one_engine_is_not_the_best_of_one(others: int) -> None:
    idle = make_report(executed=False)
    page = render_comparison([*[idle] * others, make_report(limits=GateLimits(min_speedup=50))])
    assert "No other engine" not in page and 'class="verdict bad"><strong>Failed' in page
    assert f"<h1>{others + 1} engine" in page and ("was executed here" in page) == (others > 0)
