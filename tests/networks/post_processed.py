"""SE networks whose files hold more than layers: suppression of boxes, a loop, an operator that nobody here knows."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def post_processed(kind: str, rounds: int | None = 3) -> onnx.ModelProto:
    """Builds one.

    Args:
        kind: ``boxes`` ends in NonMaxSuppression; ``loop`` halves its features in a Loop; ``foreign`` has an operator
            of another domain before the block.
        rounds: of the loop; None leaves their number to the file's input.
    """
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def const(name: str, values: object, dtype: type = np.float32) -> str:
        weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def conv(x: str, out: str, shape: tuple[int, ...], **more: object) -> str:
        return op("Conv", [x, const(f"{out}.weight", random.normal(0, 0.2, shape))], out, **more)

    def op(kind: str, inputs: list[str], out: str, **more: object) -> str:
        nodes.append(helper.make_node(kind, inputs, [out], name=f"{out}_node", **more))
        return out

    x = op("Relu", [conv("x", "stem", (16, 3, 3, 3), strides=[2, 2], pads=[1] * 4)], "features")
    if kind == "foreign":
        x = op("Swirl", [x], "swirled", domain="acme")
    u = conv(x, "map", (16, 16, 3, 3), pads=[1] * 4)
    z = op("Relu", [conv(op("GlobalAveragePool", [u], "pooled"), "fc1", (8, 16, 1, 1))], "hidden")
    v = op("Mul", [u, op("Sigmoid", [conv(z, "fc2", (16, 8, 1, 1))], "gate")], "scaled")
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])]
    if kind == "boxes":
        flat = op("Reshape", [conv(v, "box", (4, 16, 1, 1)), const("s4", [0, 4, -1], np.int64)], "flat")
        boxes = op("Transpose", [flat], "boxes", perm=[0, 2, 1])
        scores = op("Reshape", [conv(v, "score", (3, 16, 1, 1)), const("s3", [0, 3, -1], np.int64)], "scores")
        limits = [const("most", [20], np.int64), const("overlap", [0.5]), const("least", [0.0])]
        op("NonMaxSuppression", [boxes, scores, *limits], "selected")
        outputs = [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3, 256]),
            helper.make_tensor_value_info("selected", TensorProto.INT64, ["D", 3]),
        ]
    else:
        y = op("Flatten", [op("GlobalAveragePool", [v], "means")], "rows")
        if kind == "loop":
            y = _looped(nodes, y, const("rounds", rounds, np.int64) if rounds is not None else "")
            const("yes", True, np.bool_)
            const("half", 0.5)
        op("Gemm", [y, const("head", random.normal(0, 0.2, (4, 16)))], "y", transB=1)
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32])
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid("acme", 1)] if kind == "foreign" else [])]
    return helper.make_model(
        helper.make_graph(nodes, "net", [image], outputs, weights), opset_imports=opsets, ir_version=8
    )


def _looped(nodes: list[onnx.NodeProto], source: str, rounds: str) -> str:
    flag, row = (
        lambda name: helper.make_tensor_value_info(name, TensorProto.BOOL, []),
        lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 16]),
    )
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Mul", ["before", "half"], ["after"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), flag("go"), row("before")],
        [flag("on"), row("after")],
    )
    nodes.append(helper.make_node("Loop", [rounds, "yes", source], ["looped"], name="loop", body=body))
    return "looped"
