"""A captured graph is the PyTorch module: same values, same interface, at every batch size that was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from radixrt.errors import InputError, RadixRTError
from radixrt.export.graph.origin import module_of
from radixrt.export.reader.simplify import simplify
from radixrt.export.source.capture import capture
from radixrt.export.source.module_inputs import ModuleInputs
from radixrt.export.source.reference import hold_against, torch_runner
from radixrt.export.spec import BatchSpec

SIZE = (3, 64, 64)
IMAGE = ModuleInputs.image(SIZE)


def images(count: int) -> dict[str, np.ndarray]:
    return {"input": np.random.default_rng(0).standard_normal((count, *SIZE)).astype(np.float32)}


class Block(nn.Module):
    """Split attention with radix 2, as its authors write it, which reshapes by the batch's size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, padding=1, groups=2, bias=False)
        self.bn0 = nn.BatchNorm2d(16)
        self.fc1 = nn.Conv2d(8, 4, 1)
        self.fc2 = nn.Conv2d(4, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn0(self.conv(x)).relu()
        batch, _, height, width = x.shape
        splits = x.reshape(batch, 2, 8, height, width)
        pooled = splits.sum(1).mean((2, 3), keepdim=True)
        gates = self.fc2(self.fc1(pooled).relu()).view(batch, 1, 2, -1).transpose(1, 2).softmax(1)
        return (splits * gates.reshape(batch, 2, 8, 1, 1)).sum(1)


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("stem", nn.Conv2d(3, 8, 3, stride=4))
    net.add_module("attention", Block())
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("head", nn.Linear(8, 5))
    return net.eval()


@pytest.fixture(scope="module")
def dynamic() -> tuple[nn.Module, ir.Model]:
    net = network()
    return net, simplify(capture(net, IMAGE, BatchSpec(1, 4)))


def test_a_dynamic_batch_runs_at_every_size(dynamic: tuple[nn.Module, ir.Model]) -> None:
    net, model = dynamic
    for count in (1, 2, 3, 4):
        # float32, few layers; the exporter folds the BatchNorm into the convolution.
        assert hold_against(net, IMAGE, model, images(count), tolerance=1e-5) < 1e-5


def test_the_interface_has_the_agreed_names(dynamic: tuple[nn.Module, ir.Model]) -> None:
    _, model = dynamic
    assert [(value.name, str(value.shape)) for value in model.graph.inputs] == [("input", "[batch,3,64,64]")]
    assert [(value.name, str(value.shape)) for value in model.graph.outputs] == [("logits", "[batch,5]")]
    assert model.opset_imports[""] == 18


def test_no_shape_arithmetic_is_left(dynamic: tuple[nn.Module, ir.Model]) -> None:
    _, model = dynamic
    assert not {node.op_type for node in model.graph} & {"Shape", "Gather", "Concat", "BatchNormalization"}
    for node in model.graph:
        assert "unk" not in str(node.outputs[0].shape), node.name


def test_nodes_are_known_by_their_modules(dynamic: tuple[nn.Module, ir.Model]) -> None:
    _, model = dynamic
    convolutions = [module_of(node) for node in model.graph if node.op_type == "Conv"]
    # attention.conv is fused with attention.bn0 and still called by its own name.
    assert convolutions == ["stem", "attention.conv", "attention.fc1", "attention.fc2"]
    assert next(module_of(node) for node in model.graph if node.op_type == "Softmax") == "attention"


def test_a_static_batch_is_static_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    net = network()
    model = simplify(capture(net, IMAGE, BatchSpec(2, 2)))
    assert str(model.graph.inputs[0].shape) == "[2,3,64,64]"
    # Three images are filled up to four: two batches of two.
    assert hold_against(net, IMAGE, model, images(3), tolerance=1e-5) < 1e-5
    assert capfd.readouterr() == ("", "")
    assert b".py" not in ir.to_proto(model).SerializeToString()


def test_a_graph_that_computes_something_else_is_caught(dynamic: tuple[nn.Module, ir.Model]) -> None:
    _, model = dynamic
    torch.manual_seed(1)
    other = network()
    nn.init.normal_(other.get_submodule("head").weight)  # type: ignore[arg-type]
    with pytest.raises(RadixRTError, match="differs from PyTorch"):
        hold_against(other, IMAGE, model, images(2))
    with pytest.raises(RadixRTError, match="PyTorch returns logits that are NaN"):
        hold_against(other, IMAGE, model, {"input": np.full((1, *SIZE), np.nan, np.float32)})


class Chaos(nn.Module):
    """Magnifies rounding a million times, as a deep random network does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.net(x)
        return (logits * 1e6).sin()  # type: ignore[no-any-return]


def test_rounding_that_pytorch_shows_too_is_no_fault_of_the_graph() -> None:
    chaos = Chaos().eval()
    model = simplify(capture(chaos, IMAGE, BatchSpec(2, 2)))
    assert hold_against(chaos, IMAGE, model, images(2), tolerance=1e-9) > 1e-9
    with pytest.raises(RadixRTError, match="differs from PyTorch"):
        chaos.net.get_submodule("head").bias.data += 0.1  # type: ignore[operator, union-attr]
        hold_against(chaos, IMAGE, model, images(2), tolerance=1e-9)


class Several(nn.Module):
    """Returns a map, logits and an embedding: as a tuple, or as a dictionary."""

    def __init__(self, named: bool = False) -> None:
        super().__init__()
        self.named = named
        self.convolution = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> Any:
        found = self.convolution(x).relu()
        pooled = found.mean((2, 3))
        head = self.head(pooled)
        return {"map": found, "classes": head, "embedding": pooled} if self.named else (found, head, pooled)


# Order and names are what everything behind goes by: the logits first, the others as the module has them.
@pytest.mark.parametrize(
    ("named", "wanted", "names"),
    [
        (False, None, ["logits", "output_0", "output_2"]),
        (False, "output_2", ["logits", "output_0", "output_1"]),
        (True, None, ["classes", "map", "embedding"]),
        (True, "embedding", ["embedding", "map", "classes"]),
    ],
)
def test_a_module_with_several_outputs(named: bool, wanted: str | None, names: list[str]) -> None:
    module = Several(named).eval()
    model = simplify(capture(module, IMAGE, BatchSpec(1, 4), logits=wanted))
    assert [value.name for value in model.graph.outputs] == names
    assert hold_against(module, IMAGE, model, images(3), logits=wanted) < 1e-5
    assert torch_runner(module, IMAGE, wanted)(images(2)).shape == (2, 8 if wanted else 5)
    with torch.no_grad():
        module.convolution.weight.mul_(1.5)
    with pytest.raises(RadixRTError, match="exporter produced another function"):
        hold_against(module, IMAGE, model, images(3), logits=wanted)


class Nested(nn.Module):
    """Structures in structures, a dataclass, nothing, a tensor twice, the input, half precision, one number."""

    def forward(self, x: torch.Tensor) -> Any:
        pooled = x.mean((2, 3))
        maps = {"fine": x, "coarse": (x[:, :, ::2], None)}
        return Result(pooled, [pooled.half(), pooled], maps, x.mean())


@dataclass
class Result:
    """Nobody registered it with PyTorch."""

    logits: torch.Tensor
    twice: list[torch.Tensor]
    maps: dict[str, Any]
    level: torch.Tensor


def test_a_structure_of_any_depth_is_captured_under_the_names_on_the_way() -> None:
    module = Nested().eval()
    model = simplify(capture(module, IMAGE))
    names = ["logits", "twice.0", "twice.1", "maps.fine", "maps.coarse.0", "level"]
    assert [value.name for value in model.graph.outputs] == names
    assert [len(value.shape or ()) for value in model.graph.outputs] == [2, 2, 2, 4, 4, 0]
    assert hold_against(module, IMAGE, model, images(2)) < 1e-3
    with pytest.raises(InputError, match=r"returns level of shape \(\) .* no row for each sample.*--batch 1"):
        capture(module, IMAGE, BatchSpec(1, 4))


class Text(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
        return x.mean((2, 3)), "cat"


class Branches(nn.Module):
    """Its result depends on the values it sees, which no graph can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) if float(x.sum()) >= 0 else x.amax((2, 3))


@pytest.mark.parametrize(
    ("module", "size", "message"),
    [
        (Text(), SIZE, r"returns str \(output_1\), not a tensor"),
        (nn.Conv2d(1, 1, 1), SIZE, "does not run on input 1x3x64x64"),
        (Branches(), SIZE, "cannot capture this model, whose path depends on the numbers"),
    ],
)
def test_what_cannot_be_captured_is_said_in_one_sentence(
    module: nn.Module, size: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        capture(module, ModuleInputs.image(size))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_an_output_of_any_rank_is_captured_under_a_name_that_claims_nothing() -> None:
    graph = capture(nn.ReLU(), IMAGE, BatchSpec(1, 4)).graph
    assert [(value.name, len(value.shape or ())) for value in graph.outputs] == [("output", 4)]
    with pytest.raises(InputError, match="output is not a tensor of logits"):
        capture(nn.ReLU(), IMAGE, logits="output")


def test_an_opset_that_the_exporter_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="starts at 18"):
        capture(network(), IMAGE, opset=17)


class Named(nn.Module):
    """Owns things by names that torch.fx's graphs have for themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.meta = nn.Conv2d(3, 4, 1)
        self.tail = nn.Conv2d(4, 2, 1)
        self.graph = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.tail(self.meta(x)) * self.graph
        return found


def test_a_child_may_have_a_name_of_the_exporters_own() -> None:
    module = Named().eval()
    before = list(module.state_dict())
    graph = simplify(capture(module, IMAGE))
    assert hold_against(module, IMAGE, graph, images(1)) < 1e-5
    assert list(module.state_dict()) == before and "meta" not in module.__dict__
