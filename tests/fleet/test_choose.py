"""Protects the choice among rows, the front, and what two sweeps say of each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from radixrt.errors import InputError
from radixrt.fields import fill
from radixrt.fleet.choose import ChooseOptions, choose
from radixrt.fleet.front import front, points
from radixrt.fleet.page import render_csv, render_junit, render_page_of
from radixrt.fleet.schema import Sweep, sweep_json_schema
from radixrt.fleet.since import since
from tests.cli_runner import radixrt
from tests.fleet.rows import row, sweep

PUBLISHED = Path(__file__).parents[2] / "docs" / "sweep.schema.json"
SEVERAL = sweep(
    row("net-fp32-onnxruntime", quality=0.90, p50_ms=8, p95_ms=9, drop_points=0.0, engine_bytes=4000),
    row("net-int8-onnxruntime", quality=0.89, p50_ms=2, p95_ms=3, drop_points=1.0, engine_bytes=1000),
    row("net-int8-openvino", quality=0.88, p50_ms=4, p95_ms=5, drop_points=2.0, engine_bytes=1000),
    row("big-fp16-openvino", quality=0.95, p50_ms=30, p95_ms=40, engine_bytes=9000),
    row("net-fp16-tensorrt", state="failed"),
    row("orin-int8-tensorrt", machine="Orin", quality=0.5, p50_ms=50, p95_ms=60),
)


def chosen(**limits: Any) -> tuple[str | None, dict[str, str]]:
    found = choose(SEVERAL, fill(ChooseOptions, {"sweep": "sweep.json", **limits}))
    return found.best.name if found.best else None, {row.name: why for row, why in found.others}


def test_the_best_under_limits_is_told_with_a_reason_against_each_other() -> None:
    best, why = chosen(max_p95_ms=20, max_drop=1.5, device="xeon")
    assert best == "net-fp32-onnxruntime"
    assert why["big-fp16-openvino"] == "its p95 (ms) is 40, above 20"
    assert why["net-int8-openvino"] == "its drop (points) is 2, above 1.5"
    assert why["net-int8-onnxruntime"] == "Top-1 89.00 %, of the best 90.00 %"
    assert why["net-fp16-tensorrt"] == "it cannot be"
    assert why["orin-int8-tensorrt"] == "its device is Orin"
    assert len(why) == len(SEVERAL.rows) - 1
    assert chosen(max_p95_ms=4)[0] == "net-int8-onnxruntime" and chosen(device="orin")[0] == "orin-int8-tensorrt"
    assert chosen(max_p95_ms=0.1)[0] is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"precision": "int4"}, "no row of the sweep is of the precision int4: did you mean int8"),
        ({"device": "laptop"}, "no row of the sweep is of the device laptop; known are Orin, Xeon"),
        ({"model": "nett"}, "of the model nett: did you mean net"),
    ],
)
def test_a_name_that_no_row_has_is_an_error(given: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        chosen(**given)


def test_a_network_is_found_by_its_name_and_by_its_path() -> None:
    theirs = row("theirs-int8-onnxruntime").model_copy(update={"model": "/nets/x.onnx"})
    for wanted in ("theirs", "/nets/x.onnx"):
        found = choose(sweep(theirs, row()), fill(ChooseOptions, {"sweep": "s", "model": wanted}))
        assert found.best == theirs and found.others[0][1] == "its model is net"


def test_less_of_an_error_is_better() -> None:
    error: dict[str, Any] = {"metric": "RMSE", "share": False, "higher_is_better": False}
    several = sweep(row("a-fp32-x", quality=0.2, **error), row("b-fp32-x", quality=12.5, p50_ms=1, **error))
    found = choose(several, fill(ChooseOptions, {"sweep": "s", "min_quality": 1.0}))
    assert found.best is not None and found.best.name == "a-fp32-x"
    assert found.others == ((several.rows[1], "its RMSE is 12.5, above 1"),)
    assert choose(several, fill(ChooseOptions, {"sweep": "s"})).others[0][1] == "RMSE 12.5, of the best 0.2"
    page = render_page_of(several)
    assert ">12.5<" in page and ">0.2<" in page and '"reversed"' in page and "(%)" not in page


def test_unsteady_times_keep_no_limit() -> None:
    busy = sweep(row(unsteady=["other processes kept 2 of 2 cores busy"]))
    found = choose(busy, fill(ChooseOptions, {"sweep": "s", "max_p95_ms": 10}))
    assert found.best is None and "not steady" in found.others[0][1]


def test_the_command_chooses_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(SEVERAL.model_dump_json(by_alias=True))
    done = radixrt("choose", tmp_path, "--max-p95-ms", "4")
    assert done.code == 0 and done.out.startswith("net-int8-onnxruntime") and "above 4" in done.out
    assert radixrt("choose", tmp_path / "sweep.json", "--max-p95-ms", "0.1").code == 3
    assert radixrt("choose", tmp_path / "gone.json").code == 2


def test_the_front_is_of_one_device_and_of_three_figures() -> None:
    groups = points(SEVERAL.rows)
    xeon, orin = groups["Xeon: Top-1"], groups["Orin: Top-1"]
    best = [point.row.name for point in front(xeon)]
    assert best == ["net-int8-onnxruntime", "net-fp32-onnxruntime", "big-fp16-openvino"]
    assert [point.row.name for point in front(orin)] == ["orin-int8-tensorrt"]


def test_a_later_sweep_says_what_became_worse_first() -> None:
    before = sweep(row("a-fp32-x", p50_ms=2), row("b-fp32-x"), row("c-fp32-x", p50_ms=2), row("d-fp32-x", machine="A"))
    after = sweep(row("a-fp32-x", p50_ms=2.1), row("b-fp32-x", state="failed"), row("c-fp32-x", p50_ms=3, quality=0.8),
                  row("d-fp32-x", machine="B", p50_ms=9))  # fmt: skip
    found = since(before, after).changes
    said = {one.name: (one.said, one.worse) for one in found}
    assert said["a-fp32-x"] == ("as before", False)
    assert said["b-fp32-x"] == ("no longer compiles: it cannot be", True)
    assert said["c-fp32-x"] == ("50 % slower; Top-1 worse: 0.9, now 0.8", True)
    assert said["d-fp32-x"] == ("measured on another machine: times are not comparable", False)
    assert [one.worse for one in found] == [True, True, False, False]


def test_a_row_is_found_again_under_the_name_that_a_longer_list_gives_it() -> None:
    before = sweep(row("a-fp32-x"), row("b-fp32-x"))
    found = since(before, sweep(row("a-fp32-x-batch1"), row("c-fp32-x")))
    assert [one.name for one in found.changes] == ["a-fp32-x-batch1"]
    assert found.new == ("c-fp32-x",) and found.gone == ("b-fp32-x",)


def test_the_page_names_each_row_and_escapes_it() -> None:
    page = render_page_of(sweep(*SEVERAL.rows, row("<b>-int8-x")), sweep(row("net-int8-openvino", p50_ms=1.0)))
    assert "<b>-int8-x" not in page and "&lt;b&gt;-int8-x" in page
    assert 'href="net-int8-openvino/report.html"' in page and 'href="net-fp16-tensorrt/report.html"' not in page
    assert "300 % slower" in page and "New: net-fp32-onnxruntime, net-int8-onnxruntime" in page
    assert page.count('class="plot"') == 2


def test_the_other_files_tell_of_every_row() -> None:
    lines = render_csv(SEVERAL).splitlines()
    assert len(lines) == 1 + len(SEVERAL.rows) and lines[0].startswith("name,model,precision")
    xml = render_junit(SEVERAL)
    assert xml.count("<testcase") == len(SEVERAL.rows) and 'errors="1"' in xml and "it cannot be" in xml


def test_the_published_schema_is_current_and_takes_a_sweep() -> None:
    # To publish a change: write sweep_json_schema() there, indented by two.
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    assert published == sweep_json_schema()
    document = json.loads(SEVERAL.model_dump_json(by_alias=True))
    jsonschema.validate(document, published)
    assert Sweep.model_validate(document) == SEVERAL
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document | {"surprise": 1}, published)
