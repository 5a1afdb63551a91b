"""JUnit XML that a CI system can read: one case for each gate."""

from __future__ import annotations

from xml.etree import ElementTree

from radixrt.validate.gates import GateLimits
from radixrt.validate.report.junit import render_junit
from tests.validate.reports import make_report


def test_one_case_for_each_gate_with_its_outcome() -> None:
    report = make_report(limits=GateLimits(min_speedup=50, min_cosine=0.5))
    text = render_junit([report])
    assert text.startswith("<?xml version='1.0' encoding='utf-8'?>") and "≥" in text
    suite = ElementTree.fromstring(text.encode())[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "0")
    outcome = {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")}
    assert outcome == {"max_drop": ["system-out"], "min_cosine": ["system-out"], "min_speedup": ["failure"]}
    failure = suite.find(".//failure")
    assert failure is not None and "limit" in (failure.get("message") or "")


def test_what_was_not_judged_is_skipped() -> None:
    suite = ElementTree.fromstring(render_junit([make_report(executed=False)]))[0]
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")


def test_a_gate_that_the_stand_in_kept_says_so_in_the_ci_system() -> None:
    suite = ElementTree.fromstring(render_junit([make_report(stand_in=True)]))[0]
    (said,) = [case.findtext("system-out") for case in suite.iter("testcase")]
    assert said is not None and "CPU stand-in" in said and "not on the engine" in said


def test_what_the_times_are_worth_stands_beside_the_gates() -> None:
    report = make_report()
    assert report.latency
    unsteady = report.latency.model_copy(update={"unsteady": ["other processes kept 1.9 of 2 cores busy"]})
    for latency, said in ((report.latency, "95 %"), (unsteady, "not steady")):
        suite = ElementTree.fromstring(render_junit([report.model_copy(update={"latency": latency})]))[0]
        properties = {p.get("name"): p.get("value") or "" for p in suite.iter("property")}
        assert said in properties["speedup"] and ("1.9 of 2" in properties["times"]) is (latency is unsteady)


def test_characters_that_xml_cannot_hold_are_replaced() -> None:
    report = make_report(executed=False).model_copy(update={"created": "a\x00b\x1bc"})
    assert ElementTree.fromstring(render_junit([report]))[0].get("timestamp") == "a\ufffdb\ufffdc"
