"""Modules that take several tensors, in whatever they take them: captured with a free batch, equal to themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from radixrt.errors import InputError
from radixrt.export.source.capture import capture
from radixrt.export.source.module_inputs import ModuleInputs
from radixrt.export.source.reference import hold_against
from radixrt.export.spec import BatchSpec, InputSpec


class Pair(NamedTuple):
    image: torch.Tensor
    meta: torch.Tensor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(6, 5)

    def mix(self, image: torch.Tensor, meta: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.conv(image).mean((2, 3)), meta], 1))


class Plain(Net):
    def forward(self, image: torch.Tensor, meta: torch.Tensor, scale: float = 1.0) -> Any:
        return self.mix(image, meta) * scale


class Keyword(Net):
    def forward(self, image: torch.Tensor, other: torch.Tensor | None = None, *, meta: torch.Tensor) -> Any:
        return self.mix(image, meta)


class Dictionary(Net):
    def forward(self, batch: dict[str, torch.Tensor]) -> Any:
        return {"answer": self.mix(batch["image"], batch["meta"]), "meta": batch["meta"] * 2}


class List(Net):
    def forward(self, parts: list[torch.Tensor]) -> Any:
        return [self.mix(parts[0], parts[1]), parts[1] * 2]


class Named(Net):
    def forward(self, pair: Pair) -> Any:
        return Pair(self.mix(pair.image, pair.meta), pair.meta * 2)


class Bytes(Net):
    def forward(self, image: torch.Tensor, meta: torch.Tensor) -> Any:
        return self.mix(image.permute(0, 3, 1, 2).float() / 255, meta.float())


IMAGE, META = np.zeros((3, 8, 8), np.float32), np.zeros(2, np.float32)
BY_NAME = {"image": IMAGE, "meta": META}
CASES: list[tuple[type[Net], Any, list[str]]] = [
    (Plain, BY_NAME, ["image", "meta"]),
    (Plain, {"meta": META, "image": IMAGE}, ["image", "meta"]),
    (Plain, (IMAGE, META), ["image", "meta"]),
    (Keyword, BY_NAME, ["image", "meta"]),
    (Dictionary, BY_NAME, ["image", "meta"]),
    (List, (IMAGE, META), ["parts.0", "parts.1"]),
    (Named, Pair(IMAGE, META), ["pair.image", "pair.meta"]),  # type: ignore[arg-type]
    (Bytes, (np.zeros((8, 8, 3), np.uint8), np.zeros(2, np.int64)), ["image", "meta"]),
]


def feed_of(inputs: ModuleInputs, count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {spec.name: ((count, *map(int, spec.shape[1:])), spec.dtype) for spec in inputs.specs}  # type: ignore[arg-type]
    return {name: (random.normal(size=shape) * 9).astype(dtype) for name, (shape, dtype) in shapes.items()}


@pytest.mark.parametrize(("net", "example", "names"), CASES)
def test_a_module_is_captured_with_the_inputs_of_a_sample(net: type[Net], example: Any, names: list[str]) -> None:
    module = net().eval()
    inputs = ModuleInputs.of_example(module, example)
    model = capture(module, inputs, BatchSpec(1, 4))
    assert [value.name for value in model.graph.inputs] == names
    assert all(str(value.shape).startswith("[batch,") for value in model.graph.inputs)
    assert hold_against(module, inputs, model, feed_of(inputs, 3)) < 1e-4


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (Plain, ["meta=1x2", "image=1x3x8x8:float32"]),
        (Dictionary, ["image=1x3x8x8", "meta=1x2"]),
        (List, ["parts.0=1x3x8x8", "parts.1=1x2"]),
    ],
)
def test_a_module_is_captured_with_the_inputs_that_are_named(net: type[Net], words: list[str]) -> None:
    module = net().eval()
    inputs = ModuleInputs.of_specs(module, [InputSpec.parse(word) for word in words])
    model = capture(module, inputs, BatchSpec(2, 2))
    assert {value.name for value in model.graph.inputs} == {word.split("=")[0] for word in words}
    assert hold_against(module, inputs, model, feed_of(inputs, 2)) < 1e-4


def test_inputs_that_a_module_does_not_take_are_refused() -> None:
    for given, said in ((["image=1x3x8x8"], "meta is missing"), (["image=1x3x8x8", "mete=1x2"], "takes image, meta")):
        with pytest.raises(InputError, match=said):
            ModuleInputs.of_specs(Plain(), [InputSpec.parse(word) for word in given])
    for word in ("image", "image=3,8,8", "image=1x3x8x8:float", "image=0x3:float32"):
        with pytest.raises(InputError, match="write NAME=1x3x320x320:float32"):
            InputSpec.parse(word)
