"""A checkpoint is read whole, or refused in one sentence that names what is wrong; it never runs code."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from radixrt.errors import InputError
from radixrt.export.source.checkpoint import load_weights, read_checkpoint

NOON = datetime(2026, 1, 1, 12)


class Net(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.model = nn.Conv2d(3, 4, 1)  # a real "model." prefix, which must stay
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)


def wrapped(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    "nest",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "arch": "net", "args": argparse.Namespace(lr=0.1)},
        lambda state: {
            "state_dict": state,
            "best": np.float64(0.9),
            "curve": np.arange(3),
            "out": Path("runs"),
            "at": NOON,
        },
        lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        lambda state: {"model_ema": {"module": state}, "epoch": 1},
        lambda state: {"state_dict": wrapped(state, "module.")},
        lambda state: wrapped(state, "_orig_mod.module."),
        lambda state: {"model": {"state_dict": wrapped(state, "model.")}},
    ],
)
@pytest.mark.parametrize("old_format", [False, True])
def test_every_nesting_gives_the_same_weights(nest: Callable[[Any], Any], old_format: bool, tmp_path: Path) -> None:
    trained, fresh = Net(), Net()
    path = tmp_path / "net.pth"
    torch.save(nest(trained.state_dict()), path, _use_new_zipfile_serialization=not old_format)
    load_weights(fresh, read_checkpoint(path), "net.pth")
    for key, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[key], value), key


def test_the_average_is_taken_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "state_dict_ema": {"w": torch.ones(1)}}, path)
    assert read_checkpoint(path)["w"].item() == 1


def test_safetensors_and_half_precision(tmp_path: Path) -> None:
    trained, fresh = Net(), Net()
    path = tmp_path / "net.safetensors"
    save_file(
        {key: value.half() if value.is_floating_point() else value for key, value in trained.state_dict().items()}, path
    )
    load_weights(fresh, read_checkpoint(path), "net.safetensors")
    assert fresh.head.weight.dtype == torch.float32
    torch.testing.assert_close(fresh.head.weight, trained.head.weight, rtol=1e-3, atol=1e-3)  # 11 bits of mantissa


def test_counters_of_batches_may_be_missing() -> None:
    state = Net().state_dict()
    del state["norm.num_batches_tracked"]
    load_weights(Net(), state, "net.pth")


def test_keys_that_do_not_fit_are_listed_and_nothing_is_loaded() -> None:
    net = Net()
    before = net.head.weight.detach().clone()
    state: dict[str, torch.Tensor] = {**Net(5).state_dict(), "extra.weight": torch.zeros(1)}
    del state["norm.bias"]
    with pytest.raises(InputError) as caught:
        load_weights(net, state, "checkpoint net.pth")
    message = str(caught.value)
    assert "1 missing: norm.bias" in message
    assert "1 unexpected: extra.weight" in message
    assert "head.weight (5, 4) instead of (3, 4)" in message
    assert torch.equal(net.head.weight, before)


def test_a_checkpoint_of_another_network_is_named_shortly() -> None:
    state = {f"layer{i}.weight": torch.zeros(1) for i in range(500)}
    with pytest.raises(InputError, match=r"500 unexpected: .* and 490 more") as caught:
        load_weights(Net(), state, "checkpoint net.pth")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("head.weight", float("nan"), "head.weight holds 1 values that are NaN"),
        ("model.bias", float("inf"), "model.bias holds 1 values"),
        ("norm.running_var", -1.0, "norm.running_var holds negative"),
    ],
)
def test_weights_that_are_no_numbers_are_named(key: str, value: float, message: str) -> None:
    state = Net().state_dict()
    state[key].view(-1)[0] = value
    with pytest.raises(InputError, match=message):
        load_weights(Net(), state, "checkpoint net.pth")


class Attack:
    """Writes a file when it is unpickled by something that trusts pickles."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_pickled_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for old_format in (False, True):
        torch.save({"state_dict": Attack(marker)}, tmp_path / "a.pth", _use_new_zipfile_serialization=not old_format)
        with pytest.raises(InputError, match="pickled Python objects"):
            read_checkpoint(tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Attack(marker)))
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "b.pth")
    assert not marker.exists()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**9, 256),
        torch.empty(10**9, 256, device="meta"),
        torch.sparse_coo_tensor(
            torch.zeros(2, 1, dtype=torch.int64), torch.ones(1), (10**9, 256), check_invariants=True
        ),
    ],
    ids=["strides of zero", "no storage", "sparse"],
)
def test_a_small_file_that_claims_a_terabyte_is_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    # The head's shape decides how many classes are built, so a claim that is believed is allocated.
    torch.save({"head.weight": tensor}, tmp_path / "net.pth")
    assert (tmp_path / "net.pth").stat().st_size < 10_000
    with pytest.raises(InputError, match=r"head\.weight claims 1000000000x256 values"):
        read_checkpoint(tmp_path / "net.pth")


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(Net(), tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"pickled Python objects \([\w.]*Net\).*state_dict\(\)"):
        read_checkpoint(tmp_path / "net.pth")


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "net.pt")
    with pytest.raises(InputError, match="TorchScript"):
        read_checkpoint(tmp_path / "net.pt")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(suffix: str, keep: float, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(Net().state_dict(), path)
    else:
        save_file(Net().state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InputError, match=r"truncated|no weights") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "absent.pth")
    (tmp_path / "net.h5").write_bytes(b"x")
    with pytest.raises(InputError, match="no known kind"):
        read_checkpoint(tmp_path / "net.h5")
    torch.save({"epoch": 3}, tmp_path / "net.pth")
    with pytest.raises(InputError, match="holds no weights"):
        read_checkpoint(tmp_path / "net.pth")
