"""The deploy graph as TensorRT 8.5 and 8.6 read it: FP32 types throughout and opset 17.

Before: a strongly typed graph of opset 18 or later.
After: the same graph with FP32 tensors and FP32 scales (what runs in FP16 and INT8 is then said by builder flags), and
the operators whose form changed at opset 18 written the older way:

- ``ReduceMean``, ``ReduceMax``, ``ReduceMin``, ``ReduceProd``, ``ReduceL1``, ``ReduceL2``: the axes are an attribute,
  no longer an input.
- ``Split``: no ``num_outputs``; equal parts are what the older form does without sizes.
- ``Pad``: no ``axes`` input.

Everything else that these networks use is the same in opset 17.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from radixrt.engines.tensorrt.api import TrtApi
from radixrt.errors import InputError
from radixrt.export.passes.float32 import has_half, to_float32

_AXES_ARE_AN_ATTRIBUTE = (
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
)


def for_version(deploy: Path, api: TrtApi) -> bytes:
    """Returns the deploy graph in the form that a version's parser reads, as the bytes of an ONNX file.

    Raises:
        InputError: a node has no form in that version's opset.
    """
    if api.max_opset is None:
        return deploy.read_bytes()
    model = ir.load(deploy)
    if has_half(model):
        model = to_float32(model)
    if model.opset_imports.get("", 0) > api.max_opset:
        to_opset_17(model)
    return bytes(ir.to_proto(model).SerializeToString())


def to_opset_17(model: ir.Model) -> None:
    """Rewrites a graph of opset 18 to opset 17, in place.

    Raises:
        InputError: a node uses what opset 17 does not have.
    """
    version = model.opset_imports.get("", 0)
    if version > 20:
        raise InputError(f"the graph is of opset {version}, TensorRT 8.x reads 17: export it with opset 18")
    for node in model.graph:
        if node.op_type in _AXES_ARE_AN_ATTRIBUTE and len(node.inputs) > 1:
            axes = node.inputs[1]
            if axes is not None:
                if axes.const_value is None:
                    raise InputError(
                        f"{node.op_type} {node.name!r} computes its axes, which TensorRT 8.x cannot: make them constant"
                    )
                node.attributes["axes"] = ir.AttrInt64s("axes", [int(a) for a in axes.const_value.numpy().ravel()])
            node.resize_inputs(1)
            node.attributes.pop("noop_with_empty_axes", None)
        elif node.op_type == "Split":
            node.attributes.pop("num_outputs", None)
        elif node.op_type == "Pad" and len(node.inputs) > 3 and node.inputs[3] is not None:
            raise InputError(f"Pad {node.name!r} names its axes, which TensorRT 8.x cannot read: pad every dimension")
        elif node.op_type == "Resize" and {"antialias", "axes", "keep_aspect_ratio_policy"} & set(node.attributes):
            raise InputError(f"Resize {node.name!r} uses options of opset 18, which TensorRT 8.x cannot read")
        node.version = None
    model.opset_imports[""] = 17
    # Files of opset 17 came with this version of the format, which old parsers check.
    model.ir_version = min(model.ir_version, 8)
