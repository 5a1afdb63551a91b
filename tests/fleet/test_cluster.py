"""A row must go where what it asks for is, and be refused before anything starts where that is nowhere."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from radixrt import __version__
from radixrt.errors import InputError, UnavailableError
from radixrt.fleet.cluster import Cluster
from radixrt.fleet.options import SweepOptions
from radixrt.fleet.rows import Row, rows_of
from radixrt.fleet.worker import Look, _unreached
from radixrt.remote.device import Device
from radixrt.reuse import source_sha256

TARGETS = ("onnxruntime", "tensorrt-rtx")


def machine(node: str, unreached: bool = False, **resources: float) -> Look:
    lost = {("orin", "onnxruntime"): ("it does not answer", "Switch it on.")} if unreached else {}
    return Look(node, node, __version__, source_sha256(), TARGETS, {}, lost, {"CPU": 1.0, **resources})


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


def test_a_device_that_no_machine_reaches_is_refused() -> None:
    fleet = Cluster("a", (machine("a", unreached=True), machine("b", unreached=True)), 1, None)
    with pytest.raises(UnavailableError, match="no machine of the sweep can use it: it does not answer"):
        fleet.check((row("onnxruntime", Device.of("jetson@orin")),))


@pytest.mark.parametrize(
    ("other", "said"),
    [({"radixrt": "0.0.9"}, "has RadixRT 0.0.9"), ({"source": "edited"}, f"has RadixRT {__version__} with other code")],
)
def test_a_worker_with_another_radixrt_is_refused(other: dict[str, str], said: str) -> None:
    fleet = Cluster("a", (machine("a"), replace(machine("b"), **other)), 1, None)
    with pytest.raises(InputError, match=f"the worker b {said}, and here is .*: install the same on every machine"):
        fleet.check((row("onnxruntime"),))


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed here")
def test_a_device_where_nobody_answers_is_unreached(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("Host orin\n HostName 127.0.0.1\n Port 1\n")
    device = Device(name="orin", ssh="orin", ssh_config=tmp_path / "config")
    ((key, (reason, hint)),) = _unreached(device, ("onnxruntime",))
    assert key == ("orin", "onnxruntime") and "refused" in reason and "ssh" in hint
