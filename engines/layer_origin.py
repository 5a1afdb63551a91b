"""Which torch module a layer of a compiled engine came from.

Engines rename and fuse. A layer is therefore looked up by any label it carries: the name of an ONNX node or of a
tensor, with the endings that engines add. A label that names the tensor behind an activation stands for the layer in
front of it too, because that is what was fused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir

from radixrt.export.graph.origin import module_of

# What ONNX Runtime and OpenVINO append to a name.
_ENDING = re.compile(r"(_nchwc|_quant|_kernel_time|/WithoutBiases|/fq_weights_\d+|_token_\d+)+$")
_FUSED_BEHIND = ("Relu", "Sigmoid", "HardSigmoid", "Clip", "Mul", "Add", "QuantizeLinear", "DequantizeLinear", "Cast")
_LAYERS = ("Conv", "Gemm", "MatMul")


class Origins:
    """Finds torch modules by the labels of a deploy graph.

    Args:
        deploy: the deploy graph that the engine was built from.
    """

    def __init__(self, deploy: Path) -> None:
        model = ir.load(deploy)
        self._by_label: dict[str, ir.Node] = {}
        for node in model.graph:
            for value in node.outputs:
                if value.name:
                    self._by_label[value.name] = node
        # A node's own name wins over a tensor that happens to be called the same.
        self._by_label |= {node.name: node for node in model.graph if node.name}

    def of(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Returns the torch modules behind labels, each once; empty where they are unknown."""
        found: dict[str, None] = {}
        for label in labels:
            node = self._by_label.get(label) or self._by_label.get(_ENDING.sub("", label))
            if node is None:
                continue
            for part in reversed((node, *_fused_before(node))):
                found.setdefault(module_of(part))
        return tuple(name for name in found if name)


def _fused_before(node: ir.Node) -> tuple[ir.Node, ...]:
    """Returns the layer that an activation was fused behind, with what lies between; empty where there is none."""
    passed: list[ir.Node] = []
    while node.op_type in _FUSED_BEHIND and node.inputs and node.inputs[0] is not None:
        producer = node.inputs[0].producer()
        if producer is None or len(tuple(node.inputs[0].uses())) != 1:
            return ()
        passed.append(producer)
        if producer.op_type in _LAYERS:
            return tuple(passed)
        node = producer
    return ()
