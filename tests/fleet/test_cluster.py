"""A row must go where what it asks for is, and be refused before anything starts where that is nowhere."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from radixrt import __version__
from radixrt.errors import InputError, UnavailableError
from radixrt.fleet.cluster import Cluster, check_same
from radixrt.fleet.inputs import Input
from radixrt.fleet.options import SweepOptions
from radixrt.fleet.rows import Row, rows_of
from radixrt.fleet.worker import Look, _unreached
from radixrt.remote.device import Device
from radixrt.reuse import source_sha256

TARGETS = ("onnxruntime", "tensorrt-rtx")
LOST = {("orin", "onnxruntime"): ("it does not answer", "Switch it on.")}


def machine(node: str, targets: tuple[str, ...] = TARGETS, reaches: bool = True, **resources: float) -> Look:
    return Look(
        node, node, __version__, source_sha256(), targets, {},
        unreached={} if reaches else LOST, resources={"CPU": 1.0, **resources},
    )  # fmt: skip


def row(target: str, *devices: Device) -> Row:
    options = SweepOptions("resnest-nano-elpv", precision="fp32", target=target, on=devices)
    return rows_of(options)[0]


def test_a_row_goes_where_its_device_or_a_gpu_is_kept() -> None:
    looks = (machine("plain"), machine("near", orin=1.0), machine("gpu", GPU=1.0))
    fleet = Cluster("plain", looks, 1, None)

    def where(one: Row) -> list[str]:
        return [look.node for look in fleet._able(one, looks)]

    assert where(row("onnxruntime", Device.of("jetson@orin"))) == ["near"]
    assert where(row("tensorrt-rtx")) == ["gpu"]
    assert where(row("onnxruntime")) == ["plain", "near", "gpu"]


@pytest.mark.parametrize("other", [machine("b", reaches=False), machine("b", targets=("openvino",))])
def test_a_device_that_no_machine_can_use_is_refused(other: Look) -> None:
    fleet = Cluster("a", (other, machine("a", reaches=False)), 1, None)
    with pytest.raises(UnavailableError, match="no machine of the sweep can use it: it does not answer"):
        fleet.check((row("onnxruntime", Device.of("jetson@orin")),))


def test_what_no_machine_can_give_is_refused_and_goes_where_one_can() -> None:
    asked = row("onnxruntime")
    cannot = replace(machine("a"), refused={(asked.target, asked.build): "it has no DLA"})
    with pytest.raises(InputError, match=f"{asked.name} cannot be: it has no DLA; leave the combination out"):
        Cluster("a", (cannot,), 1, None).check((asked,))
    both = (cannot, machine("b"))
    assert [look.node for look in Cluster("a", both, 1, None)._able(asked, both)] == ["b"]


def test_a_row_whose_files_cannot_travel_stays_at_home() -> None:
    asked = replace(row("onnxruntime"), inputs=(Input("data", "/set/list.json", "f00", False, "/elsewhere/1.png"),))
    both = (machine("a"), machine("b"))
    assert [look.node for look in Cluster("b", both, 1, None)._able(asked, both)] == ["b"]
    with pytest.raises(InputError, match=r"data is /set/list.json, which names /elsewhere/1.png: .* a folder that"):
        Cluster("head", both, 1, None).check((asked,))


def test_more_cores_than_a_machine_gives_are_refused() -> None:
    fleet = Cluster("a", (machine("a"), machine("b", CPU=2.0)), 4, None)
    with pytest.raises(InputError, match=r"a build asks for 4 cores, .* give 2 at most"):
        fleet.check((row("onnxruntime"),))


@pytest.mark.parametrize(
    ("other", "said"),
    [({"radixrt": "0.0.9"}, "has RadixRT 0.0.9"), ({"source": "edited"}, f"has RadixRT {__version__} with other code")],
)
def test_a_worker_with_another_radixrt_is_refused(other: dict[str, str], said: str) -> None:
    here = machine("b")
    check_same(here)
    there = object.__new__(Look)  # as it is unpickled: another version's look has other fields
    vars(there).update({"host": "b", "radixrt": here.radixrt, "source": here.source} | other)
    with pytest.raises(InputError, match=f"the worker b {said}, and here is .*: install the same on every machine"):
        check_same(there)


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed here")
def test_a_device_where_nobody_answers_is_unreached(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host orin\n HostName 127.0.0.1\n Port 1\n")
    device = Device(name="orin", ssh="orin", ssh_config=tmp_path / "config")
    ((key, (reason, hint)),) = _unreached(device, ("onnxruntime",))
    assert key == ("orin", "onnxruntime") and "refused" in reason and "ssh" in hint
