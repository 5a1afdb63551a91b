"""A file whose sides are free keeps them free, and nothing that is done to it bakes a size in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from radixrt.errors import InputError
from radixrt.export.graph.dimensions import evaluated
from radixrt.export.graph.session import onnx_outputs
from radixrt.export.graph.shapes import graph_sides
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.reader.onnx_file import read_onnx
from radixrt.export.reader.sandbox import read_foreign, read_graph
from radixrt.export.reader.simplify import write_onnx
from radixrt.export.sides import SideRange
from radixrt.export.spec import FileChoice
from tests.networks.dense import unet

SIDES = FileChoice(height=SideRange(32, 96, 32), width=SideRange(32, 128, 32))


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A U-Net from the older exporter, which writes shape chains; it wants multiples of four."""
    return exported(tmp_path_factory.mktemp("free") / "unet.onnx", {2: "rows", 3: "columns"})


def exported(path: Path, axes: dict[int, str]) -> Path:
    image, named = torch.zeros(1, 3, 32, 64), {"image": axes}
    torch.onnx.export(unet(), (image,), path, dynamo=False, input_names=list(named), dynamic_axes=named)
    return path


def sides_in(model: ir.Model) -> list[list[int | str | None]]:
    ends = (*model.graph.inputs, *model.graph.outputs)
    return [[d if isinstance(d, int) else d.value for d in value.shape or ()] for value in ends]


def test_a_graph_goes_out_as_free_as_it_came_in(free: Path, tmp_path: Path) -> None:
    foreign = read_foreign(free, SIDES)
    model, report = rewrite(foreign.simplified, RewriteOptions(sides=graph_sides(foreign.graph, *sizes())))
    assert len(report.attention_blocks) == 5 and not report.refused
    assert sides_in(model) == [[1, 3, "height", "width"], [1, 4, "height", "width"]]
    named = {str(side) for node in model.graph for side in node.outputs[0].shape or () if not isinstance(side, int)}
    assert named == {"height", "width", "height/2", "width/2", "height/4", "width/4"}
    before, after = onnx_outputs(onnx.load(free)), onnx_outputs(model)
    for size in ((32, 32), (32, 128), (96, 64)):
        feed = {"image": np.random.default_rng(0).standard_normal((1, 3, *size)).astype(np.float32)}
        (expected,), (found,) = before(feed).values(), after(feed).values()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    # The file notes its ranges, so the next command need not be told.
    write_onnx(model, tmp_path / "again.onnx")
    assert graph_sides(read_graph(tmp_path / "again.onnx")) == graph_sides(foreign.graph, *sizes())


def sizes() -> tuple[SideRange | None, SideRange | None]:
    return SIDES.height, SIDES.width


def test_sizes_that_the_network_cannot_take_are_named_with_the_step_that_would_do(free: Path) -> None:
    with pytest.raises(InputError, match=r"does not take 33 x 32.*takes --height 32..96:4 --width 32..64:4"):
        read_onnx(free, FileChoice(height=SideRange(32, 96), width=SideRange(32, 64)))


def test_a_side_that_is_baked_in_is_named(tmp_path: Path) -> None:
    path = exported(tmp_path / "fixed.onnx", {})
    with pytest.raises(InputError, match=r"image has its height of 32 baked in.*axis 2"):
        read_onnx(path, FileChoice(height=SideRange(32, 64)))
    graph = read_onnx(path, FileChoice(height=SideRange(32, 32), width=SideRange(64, 64)))
    assert sides_in(graph)[0] == [1, 3, 32, 64]


def test_one_free_side_and_one_size(free: Path) -> None:
    graph = read_onnx(free, FileChoice(height=SideRange(32, 32), width=SideRange(32, 96, 32)))
    assert sides_in(graph)[0] == [1, 3, 32, "width"]
    with pytest.raises(InputError, match="--input-size 3,320,320, or keep them free with --height"):
        read_onnx(free, FileChoice(width=SideRange(32, 96, 32)))


def test_a_name_of_a_dimension_comes_to_its_size() -> None:
    sizes = {"batch": 2, "height": 64, "width": 96}
    assert [evaluated(name, sizes) for name in ("height/4", "2*width", "height*width/256", "batch")] == [16, 192, 24, 2]
    assert evaluated("unk__3", sizes) is None and evaluated(None, sizes) is None
