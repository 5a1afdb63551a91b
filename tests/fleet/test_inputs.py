"""Protects what travels: what a build reads gets to another machine whole, once, and under its content's hash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from radixrt.errors import InputError
from radixrt.fields import fill
from radixrt.fleet.inputs import Input, Sender, inputs_of, moved, received
from radixrt.options import CompileOptions


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))
    for name in ("data/a/1.png", "net.py", "helper.py", "list.csv", "images/1.png", "images/2.png", "best.pth"):
        path = tmp_path / "here" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "here" / "list.csv").write_text("path,label\nimages/1.png,0\n/abs/2.png,1\n")
    return tmp_path / "here"


def receive_from(sender: Sender) -> Callable[[Input], Path]:
    return lambda one: received(one, sender.files, sender.piece)


def test_each_input_arrives_with_what_it_refers_to_and_once(work: Path) -> None:
    for data, beside in (("data", "a/1.png"), ("list.csv", "images/1.png")):
        named = {"model": f"{work}/net.py:make", "data": work / data, "checkpoint": work / "best.pth"}
        asked = fill(CompileOptions, named)
        inputs = inputs_of(asked, {})
        there = moved(asked, inputs, receive_from(Sender(inputs)))
        code, _, function = str(there.model).rpartition(":")
        assert function == "make" and Path(code).read_text() == "net.py"
        assert Path(code).with_name("helper.py").exists() and not str(code).startswith(str(work))
        root = Path(str(there.data))
        assert (root if root.is_dir() else root.parent).joinpath(beside).exists()
        assert Path(str(there.checkpoint)).read_text() == "best.pth"
        # What is there is asked for no more.
        assert moved(asked, inputs, lambda one: received(one, lambda _: [], lambda *_: b"")) == there


def test_what_changes_on_the_way_is_refused(work: Path) -> None:
    asked = fill(CompileOptions, {"data": work / "data"})
    inputs = inputs_of(asked, {})
    (work / "data" / "a" / "1.png").write_text("changed")
    sender = Sender(inputs)
    with pytest.raises(InputError, match="changed while it was sent"):
        received(inputs[0], sender.files, sender.piece)


def test_what_a_list_names_elsewhere_does_not_travel_and_is_known(work: Path) -> None:
    (work / "images" / "list.csv").write_text("path,label\n1.png,0\n../data/a/1.png,1\n/abs/2.png,1\n/abs/3.png,1\n")
    asked = fill(CompileOptions, {"data": work / "images" / "list.csv"})
    inputs = inputs_of(asked, {})
    assert inputs[0].outside == f"{work}/images/../data/a/1.png"
    place = receive_from(Sender(inputs))(inputs[0])
    assert {path.name for path in place.parent.rglob("*")} == {"list.csv", "1.png"}
    assert {path.name for path in place.parents[1].iterdir()} == {place.parent.name, f"{place.parent.name}.lock"}


def test_a_list_that_cannot_be_read_is_the_builds_to_refuse(work: Path) -> None:
    (work / "list.csv").write_bytes("path,label\nimages/\xe9.png,0\n".encode("latin-1"))
    assert inputs_of(fill(CompileOptions, {"data": work / "list.csv"}), {})[0].outside == ""


def test_code_that_makes_data_or_judges_is_sent(work: Path) -> None:
    asked = fill(CompileOptions, {"data": f"{work}/net.py:make", "metric": f"-{work}/helper.py:loss"})
    inputs = inputs_of(asked, {})
    there = moved(asked, inputs, receive_from(Sender(inputs)))
    assert {one.option for one in inputs} == {"data", "metric"}
    data, metric = str(there.data), str(there.metric)
    assert data.endswith("/net.py:make") and Path(data.removesuffix(":make")).read_text() == "net.py"
    assert metric.startswith("-/") and Path(metric[1:].removesuffix(":loss")).read_text() == "helper.py"


def test_several_bundles_are_sent_one_by_one(work: Path) -> None:
    asked = fill(CompileOptions, {"against": f"compile,{work}/data,{work}/images"})
    inputs = inputs_of(asked, {})
    there = moved(asked, inputs, lambda one: Path("/there", Path(one.path).name))
    assert there.against == ["compile", "/there/data", "/there/images"]


def test_a_private_key_stays_where_it_is(work: Path) -> None:
    assert inputs_of(fill(CompileOptions, {"sign_key": work / "best.pth"}), {}) == ()


def test_half_of_an_input_that_a_killed_worker_left_is_removed(work: Path) -> None:
    left = work.parent / "there" / "radixrt" / "inputs" / ".new-left" / "content"
    left.mkdir(parents=True)
    inputs = inputs_of(fill(CompileOptions, {"data": work / "data"}), {})
    place = receive_from(Sender(inputs))(inputs[0])
    assert place.is_dir() and not left.exists()


def test_names_are_no_inputs() -> None:
    asked = fill(CompileOptions, {"model": "timm:resnet18", "data": "torch:zeros", "against": "compile"})
    assert inputs_of(asked, {}) == ()
    asked = fill(CompileOptions, {"model": "timm:resnet18", "data": "elpv", "against": "compile"})
    assert inputs_of(asked, {}) == ()
