"""The shapes and the constants of a graph once its symbolic dimensions are given sizes.

A dynamic batch leaves ``Shape -> Gather -> Concat -> Reshape`` chains, and exporters disagree on which shapes they
write down. :func:`concretise` walks the graph once: whole-graph constants are folded with ONNX's reference operators,
the shape of every other value comes from ONNX's own inference for its node, fed with the constants found so far. So a
pass reads plain shapes whatever the exporter, and never has to know a spelling of a shape chain.

The graph is not changed. What cannot be inferred (an operator of another domain, say) is absent from the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from radixrt.export.graph.facts import holds_graphs
from radixrt.export.sides import HEIGHT_DIM, WIDTH_DIM, SideRange, Sides, noted, sides_in

Array = npt.NDArray[np.generic]

_LARGEST_FOLD = (
    1 << 24
)  # elements; a weight that a graph transposes is folded, a feature map built from constants is not
_ANY_SIDES = Sides(SideRange(96, 160, 32), SideRange(96, 160, 32))  # most networks take multiples of 32
_LARGEST_DATA = 64  # elements; what shape inference reads as data is a shape, a list of axes or a list of sizes


@dataclass(frozen=True)
class Sizes:
    """The sizes that stand in for symbolic dimensions: the batch, and the sides of an image.

    The sides differ, so that no kernel and no transpose fits both by chance.
    """

    batch: int = 3
    height: int = 96
    width: int = 128

    @classmethod
    def of(cls, sides: Sides | None) -> Sizes:
        """Small sizes that a network of such sides takes; those of any network where they are not known."""
        return cls.probes(sides)[0]

    @classmethod
    def probes(cls, sides: Sides | None) -> tuple[Sizes, ...]:
        """Sizes of which each differs from the first in one dimension: what changes with it shows."""
        height, width = (sides or _ANY_SIDES).height, (sides or _ANY_SIDES).width
        first = next((size for size in width.first(3) if size != height.min), width.min)
        wider = next((size for size in reversed(width.first(3)) if size != first), first)
        sizes = [
            (3, height.min, first),
            (5, height.min, first),
            (3, height.first(2)[-1], first),
            (3, height.min, wider),
        ]
        return tuple(cls(*size) for size in dict.fromkeys(sizes))

    def of_dimension(self, name: str | None, axis: int, rank: int) -> int:
        """The size of a symbolic dimension: the first is the batch, the image's sides have names or come in order."""
        if axis == 0:
            return self.batch
        if name in (HEIGHT_DIM, WIDTH_DIM):
            return self.height if name == HEIGHT_DIM else self.width
        return self.width if axis == rank - 1 or rank == 2 else self.height


@dataclass
class Concrete:
    """What :func:`concretise` found. Both maps are keyed by the graph's values."""

    shapes: dict[ir.Value, tuple[int, ...]] = field(default_factory=dict)
    folded: dict[ir.Value, Array] = field(default_factory=dict)
    types: dict[ir.Value, onnx.TypeProto] = field(default_factory=dict)

    def constant(self, value: ir.Value | None) -> Array | None:
        """The elements of ``value`` where they are the same in every run at these sizes."""
        if value is None:
            return None
        if value in self.folded:
            return self.folded[value]
        if value.const_value is not None:
            return value.const_value.numpy()
        return None


def graph_sides(model: ir.Model, height: SideRange | None = None, width: SideRange | None = None) -> Sides | None:
    """The sides that a graph leaves free, with the ranges they were given, or that its file notes.

    Returns:
        As :func:`radixrt.export.sides.sides_in`.
    """
    height = height or noted(model.metadata_props, HEIGHT_DIM)
    width = width or noted(model.metadata_props, WIDTH_DIM)
    shapes = ([d if isinstance(d, int) else d.value for d in value.shape or ()] for value in model.graph.inputs)
    return sides_in(shapes, height, width)


def concretise(graph: ir.Graph, sizes: Sizes) -> Concrete:
    """Infers the shapes and constants of ``graph``, whose nodes stand in topological order, at ``sizes``."""
    found = Concrete()
    for value in graph.inputs:
        if value.shape is not None and value.dtype is not None:
            _note(found, value, value.dtype, _assign(value.shape, sizes))
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None:
            _note(found, value, tensor.dtype, tuple(int(d) for d in tensor.shape.numpy()))
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in graph.opset_imports.items()]
    for node in graph:
        if node.domain == "" and not _fold(node, found):
            _infer(node, found, imports)
        for value in node.outputs if node.domain else ():
            # What nobody here can compute is as its file says.
            if value.shape is not None and value.dtype is not None:
                _note(found, value, value.dtype, _assign(value.shape, sizes))
    return found


def _assign(shape: ir.Shape, sizes: Sizes) -> tuple[int, ...]:
    return tuple(
        d if isinstance(d, int) else sizes.of_dimension(d.value, axis, len(shape)) for axis, d in enumerate(shape)
    )


def _note(found: Concrete, value: ir.Value, dtype: ir.DataType, shape: tuple[int, ...]) -> None:
    found.shapes[value] = shape
    found.types[value] = onnx.helper.make_tensor_type_proto(int(dtype), shape)


def _fold(node: ir.Node, found: Concrete) -> bool:
    """Computes a node whose inputs are all constants."""
    if node.op_type.startswith(("Random", "Multinomial", "Bernoulli")) or holds_graphs(node):
        return False
    if node.op_type == "Shape":
        source = node.inputs[0]
        shape = found.shapes.get(source) if source is not None else None
        if shape is None:
            return False
        start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(shape))
        _keep(found, node.outputs[0], np.asarray(shape[start:end], np.int64))
        return True
    feeds: dict[str, Array] = {}
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        array = found.constant(value)
        if array is None or array.size > _LARGEST_FOLD:
            return False
        feeds[value.name or f"input_{index}"] = array
    try:
        results = ReferenceEvaluator(ir.serde.serialize_node(node)).run(None, feeds)
    except Exception:  # the reference operators raise whatever numpy does; an operator they lack is simply not folded
        return False
    for value, result in zip(node.outputs, results, strict=False):
        _keep(found, value, np.asarray(result))
    return True


def _keep(found: Concrete, value: ir.Value, array: Array) -> None:
    found.folded[value] = array
    _note(found, value, ir.DataType.from_numpy(array.dtype), array.shape)


def _infer(node: ir.Node, found: Concrete, imports: list[onnx.OperatorSetIdProto]) -> None:
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        if value is None or value.name is None:
            continue
        if value not in found.types:
            return
        types[value.name] = found.types[value]
        array = found.constant(value) if _elements(found.shapes.get(value)) <= _LARGEST_DATA else None
        if array is not None:
            data[value.name] = onnx.numpy_helper.from_array(array, value.name)
    version = next((i.version for i in imports if i.domain in ("", "ai.onnx")), 1)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, ir.serde.serialize_node(node), types, data, opset_imports=imports
        )
    except Exception:  # InferenceError, SchemaError and, for a malformed node, RuntimeError: no shape, so no rewrite
        return
    for value in node.outputs:
        proto = inferred.get(value.name or "")
        if proto is None or not proto.tensor_type.HasField("shape"):
            continue
        dims = proto.tensor_type.shape.dim
        if all(d.HasField("dim_value") for d in dims):
            _note(found, value, ir.DataType(proto.tensor_type.elem_type), tuple(d.dim_value for d in dims))


def _elements(shape: tuple[int, ...] | None) -> float:
    return float("inf") if shape is None else float(np.prod(shape, dtype=np.float64))
