"""A name means one model; its weights are what the report says they are; and no network is waited for."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from radixrt.calibration.data.preprocess import Preprocess
from radixrt.errors import InputError
from radixrt.export.source import load as zoo
from radixrt.export.source import pretrained
from radixrt.export.source.module_inputs import ModuleInputs
from radixrt.export.source.randomise import fit_statistics

TINY = "timm:test_resnet.r160_in1k"  # timm's own network for tests: 0.5 million weights


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "_cached", lambda config: False)
    monkeypatch.setattr(pretrained, "_answers", lambda url, timeout_s: False)


def load(name: str, **options: object) -> zoo.LoadedModel:
    return zoo.load(zoo.resolve(name), **options)  # type: ignore[arg-type]


def test_every_known_name_has_a_definition() -> None:
    known = zoo.known_models()
    assert len({model.name for model in known}) == len(known) > 25
    for model in known:
        ref = zoo.resolve(model.name)
        assert ref.name == model.name
        assert ref.source == model.definition


@pytest.mark.parametrize(
    ("typed", "kind", "target"),
    [
        ("resnest50", "timm", "resnest50d"),
        ("timm:resnest50d.in1k", "timm", "resnest50d.in1k"),
        ("gcresnet50t", "timm", "gcresnet50t"),
        ("ResNeSt50_fast_2s1x64d", "resnest", "resnest50_fast_2s1x64d"),
        ("resnest:resnest50-fast-1s4x24d", "resnest", "resnest50_fast_1s4x24d"),
        ("sknet-nano-elpv", "sample", "sknet-nano-elpv"),
        ("pkg.module:factory", "factory", "pkg.module:factory"),
        ("some/file.py:factory", "factory", "some/file.py:factory"),
    ],
)
def test_a_name_means_one_definition(typed: str, kind: str, target: str) -> None:
    ref = zoo.resolve(typed)
    assert (ref.kind, ref.target) == (kind, target)
    assert "/" not in ref.name and ":" not in ref.name


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("resnset50", "did you mean .*resnest50"),
        ("timm:seresnext50_32x4", "did you mean .*timm:seresnext50_32x4d"),
        ("resnest:resnest51", "did you mean .*resnest:resnest50"),
        ("resnest50d.nonsense", "did you mean .*resnest50d.in1k"),
        ("qqqqqqqq", "radixrt models"),
        ("", "radixrt models"),
        ("absent.onnx", "no ONNX file"),
    ],
)
def test_an_unknown_name_offers_the_nearest(typed: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        zoo.resolve(typed)
    assert "\n" not in str(caught.value)


def test_random_weights_are_the_same_each_time_and_alive(no_hub: None) -> None:
    state = torch.random.get_rng_state()
    first, second, other = load(TINY), load(TINY), load(TINY, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (first.weights, first.note) == ("random", "timm's hub did not answer")
    assert first.module is not None and second.module is not None and other.module is not None
    pairs = list(zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.module.get_parameter("fc.weight"), other.module.get_parameter("fc.weight"))
    assert not first.module.training
    # Each block's last BatchNorm starts at zero in timm, which would leave attention without any effect.
    assert all(bool(m.weight.any()) for m in first.module.modules() if isinstance(m, nn.BatchNorm2d))
    images = np.random.default_rng(0).standard_normal((4, 3, 64, 64)).astype(np.float32)
    fit_statistics(first.module, ModuleInputs.image((3, 64, 64)), [{"input": images}])
    logits = first.module(torch.from_numpy(images))
    assert bool(logits.isfinite().all()) and float(logits.std(0).mean()) > 1e-3


def test_what_is_loaded_describes_itself(no_hub: None) -> None:
    model = load(TINY, num_classes=7)
    assert model.module is not None
    assert model.num_classes == model.module(torch.zeros(1, 3, 64, 64)).shape[1] == 7
    assert model.parameters == sum(p.numel() for p in model.module.parameters())
    assert model.data_config["input_size"] == (3, 160, 160)
    assert set(model.data_config) >= {"mean", "std", "crop_pct", "crop_mode", "interpolation"}
    with pytest.raises(InputError, match="1 or more"):
        load(TINY, num_classes=0)


def test_a_hub_that_never_answers_is_left_in_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections and says nothing
        start = time.monotonic()
        assert not pretrained._answers(f"http://127.0.0.1:{silent.getsockname()[1]}/config.json", 0.3)
        assert time.monotonic() - start < 5


def test_a_hub_that_fails_half_way_leaves_random_weights(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import timm

    create = timm.create_model

    def fail(name: str, pretrained: bool = False, **options: object) -> nn.Module:
        if pretrained:
            print("retrying", file=sys.stderr)
            raise ConnectionError("reset by peer")
        made: nn.Module = create(name, **options)  # type: ignore[arg-type]
        return made

    monkeypatch.setattr(pretrained, "_cached", lambda config: True)
    monkeypatch.setattr(timm, "create_model", fail)
    model = load(TINY)
    assert model.weights == "random" and "ConnectionError" in model.note
    assert capfd.readouterr() == ("", "")


def test_pretrained_weights_are_used_unless_the_head_would_be_random(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    found = timm.create_model("test_resnet")
    monkeypatch.setattr(pretrained, "_cached", lambda config: True)
    monkeypatch.setattr(timm, "create_model", lambda name, **options: found)
    model = load(TINY)
    assert model.weights == "pretrained" and model.module is found and not found.training
    monkeypatch.undo()
    monkeypatch.setattr(zoo, "_classes_of", lambda module: 1000)
    monkeypatch.setattr(pretrained, "load_pretrained", lambda name, timeout_s: found)
    random = load(TINY, num_classes=4)
    assert random.weights == "random" and "1000 classes, not 4" in random.note


def test_the_checkpoint_decides_the_number_of_classes(tmp_path: Path) -> None:
    import timm

    trained = timm.create_model("test_resnet", num_classes=6).eval()
    path = tmp_path / "best.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in trained.state_dict().items()}}, path)
    (tmp_path / "best.json").write_text('{"input_size": [3, 96, 96], "mean": [0, 0, 0]}')
    model = load(TINY, checkpoint=path)
    assert (model.weights, model.num_classes) == ("checkpoint", 6)
    preprocess = Preprocess.from_config(model.data_config).with_file(path.with_suffix(".json"))
    assert preprocess.input_size == (3, 96, 96) and preprocess.mean == (0, 0, 0)
    assert model.module is not None
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.module(images), trained(images))
    with pytest.raises(InputError, match="6 classes in its head"):
        load(TINY, checkpoint=path, num_classes=5)
    with pytest.raises(InputError, match=r"missing: .*unexpected: "):
        load("timm:test_byobnet", checkpoint=path)


FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    data_config = {"input_size": (1, 32, 32), "crop_pct": 1.0}

    def __init__(self, num_classes=3):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))

def fixed():
    return Net(2)

def broken():
    raise RuntimeError("no weights\\nhere")

def text():
    return "net"
"""


def test_home_made_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_radix_net.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    for typed in ("my_radix_net.py:Net", f"{tmp_path}/my_radix_net.py:Net", "my_radix_net:Net"):
        model = load(typed, num_classes=9)
        assert (model.weights, model.num_classes, model.data_config["input_size"]) == ("random", 9, (1, 32, 32))
        assert len(model.data_config["mean"]) == 1
    assert load("my_radix_net:fixed").num_classes == 2
    state = {"model": {"conv.weight": torch.ones(4, 1, 3, 3), "conv.bias": torch.ones(4)}}
    state["model"] |= {"head.weight": torch.ones(8, 4), "head.bias": torch.ones(8)}
    torch.save(state, tmp_path / "net.pt")
    assert load("my_radix_net:Net", checkpoint=tmp_path / "net.pt").num_classes == 8
    with pytest.raises(InputError, match="of another shape"):
        load("my_radix_net:fixed", checkpoint=tmp_path / "net.pt")
    for typed, message in {
        "my_radix_net:fixed": "takes no num_classes",
        "my_radix_net:broken": "RuntimeError: no weights",
        "my_radix_net:text": "returns str",
        "my_radix_net:absent": "no function or class 'absent'",
        "absent_module_x:Net": "cannot be imported",
        "absent.py:Net": "no file absent.py",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            load(typed, num_classes=5 if typed.endswith("fixed") else None)
        assert "\n" not in str(caught.value)
    monkeypatch.delitem(sys.modules, "my_radix_net")


def test_the_authors_definitions(no_hub: None) -> None:
    pytest.importorskip("resnest")
    model = load("resnest:resnest50_fast_1s1x64d", num_classes=4)
    assert model.module is not None and (model.weights, model.num_classes) == ("random", 4)
    assert model.data_config["input_size"] == (3, 224, 224)
    # The keys of the authors' checkpoints.
    assert {"conv1.0.weight", "layer1.0.conv2.fc1.weight", "fc.weight"} <= model.module.state_dict().keys()


def test_an_onnx_file_brings_its_own_weights(tmp_path: Path) -> None:
    from tests.export.reader.test_onnx_file import save, tiny

    path = save(tiny(), tmp_path)
    model = load(str(path))
    assert model.module is None and model.foreign is not None
    assert (model.name, model.num_classes, model.data_config["input_size"]) == ("model", 5, (3, 8, 8))
    assert model.parameters == 4 * 3 * 9 + 4 + 20
    with pytest.raises(InputError, match="5 classes, not 4"):
        load(str(path), num_classes=4)
    with pytest.raises(InputError, match="holds its own weights"):
        load(str(path), checkpoint=path)
