"""report.json has the published keys, survives a round trip, and the published schema is the current one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from radixrt.errors import InputError
from radixrt.validate.schema import LatencyRow, Report, report_json_schema
from tests.validate.reports import make_report

PUBLISHED = Path(__file__).parents[2] / "docs" / "report.schema.json"


def test_published_schema_is_current() -> None:
    # To publish a change: write report_json_schema() there, indented by two, and say so in the changelog.
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == report_json_schema()


def test_schema_is_itself_valid_and_strict() -> None:
    jsonschema.Draft202012Validator.check_schema(report_json_schema())
    document = json.loads(make_report().to_json())
    document["surprise"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, report_json_schema())


@pytest.mark.parametrize("executed", [True, False])
def test_round_trip_through_the_schema(tmp_path: Path, executed: bool) -> None:
    report = make_report(executed=executed)
    file = tmp_path / "report.json"
    report.write(file)
    jsonschema.validate(json.loads(file.read_text()), json.loads(PUBLISHED.read_text()))
    assert Report.read(file) == report


def test_top_level_keys_are_those_of_the_design() -> None:
    document = json.loads(make_report().to_json())
    assert {
        "schema", "model", "precision", "target", "environment", "rewrite", "calibration", "parity", "accuracy",
        "latency", "size", "gates", "passed",
    } <= set(document)  # fmt: skip
    assert document["schema"] == 2
    assert {"samples", "cosine_min", "max_abs", "sqnr_db", "top1_agreement"} <= set(document["parity"])
    assert {
        "samples", "reference_top1", "engine_top1", "delta_points", "delta_ci95_points", "mcnemar_p", "flips",
    } <= set(document["accuracy"])  # fmt: skip
    assert {"rows", "speedup_p50", "method"} <= set(document["latency"])
    assert set(document["size"]) == {"deploy_onnx_bytes", "engine_bytes"}


def test_a_figure_that_json_cannot_say_is_refused() -> None:
    with pytest.raises(ValidationError):
        LatencyRow(name="engine", batch=1, p50_ms=math.nan, p90_ms=1, p95_ms=1, p99_ms=1, images_per_s=1)


@pytest.mark.parametrize(
    ("text", "message"), [("{}", "schema 2"), ("not json", "not a report"), ('{"schema": 1}', "schema")]
)
def test_a_file_that_is_no_report_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        Report.read(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot read"):
        Report.read(tmp_path / "absent.json")
