"""The one way to write nodes and constants into a graph: in batches that are put in place or taken back as a whole.

::

    writer = GraphWriter(graph, "layer1.0.se.attention")
    gate = writer.op("Sigmoid", [logits], "gate")
    scaled = writer.op("Mul", [features, gate], "out")
    if refused:
        writer.discard()                # nothing reads ``features`` but what did before
    else:
        writer.commit(old, scaled)      # the readers of ``old`` read ``scaled``

Until its batch ends, what is written belongs to no graph, yet the tensors that it reads know it as a reader. So each
batch must end: by ``append``, ``insert_before``, ``insert_behind``, ``put_behind``, ``commit`` or ``discard``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.export.graph.constants import forget
from radixrt.export.graph.origin import NAME_SCOPES, copy_origin, set_module, take_place

Attribute: TypeAlias = "int | float | str | Sequence[int] | Sequence[float] | ir.Attr"
Attributes: TypeAlias = Mapping[str, Attribute]

# The opset from which a reduction reads its axes as an input, where it is not the default; before, they are an
# attribute.
_AXES_AS_INPUT = {"ReduceSum": 13}
_AXES_AS_INPUT_DEFAULT = 18


class GraphWriter:
    """Writes into one graph. Names are unique in it; constants become its initializers where something reads them.

    Args:
        graph: what to write into. While the writer is in use, nothing else may add names to it.
        prefix: what the names of all that is written begin with. Where names of the graph begin with it already, a
            number is appended to it.
        origin: what the nodes come from where ``op`` is told nothing else: a node, or the path of a torch module.
    """

    def __init__(self, graph: ir.Graph, prefix: str = "", *, origin: ir.Node | str | None = None) -> None:
        self.graph = graph
        self.opset = graph.opset_imports.get("", 0)
        self._origin = origin
        self._taken = {value.name for value in graph.inputs} | set(graph.initializers)
        self._taken |= {value.name for node in graph for value in node.outputs}
        self.prefix = self._fresh_prefix(prefix) if prefix else ""
        self._begin()

    def _begin(self) -> None:
        self._tape = ir.tape.Tape()
        self._names: list[str] = []

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The nodes of the batch that has not ended, in order."""
        return tuple(self._tape.nodes)

    def unique(self, name: str) -> str:
        """Returns a name that begins with the writer's prefix and that nothing else in the graph has."""
        base = f"{self.prefix}.{name}" if self.prefix else name
        unique, count = base, 1
        while unique in self._taken:
            unique, count = f"{base}_{count}", count + 1
        self._taken.add(unique)
        self._names.append(unique)
        return unique

    def constant(self, array: NDArray[Any], name: str) -> ir.Value:
        """Writes a constant; where the graph has one of that name and the same numbers already, returns that one."""
        base = f"{self.prefix}.{name}" if self.prefix else name
        known = self.graph.initializers.get(base) or next((v for v in self._tape.initializers if v.name == base), None)
        if known is not None and known.const_value is not None and _equal(known.const_value, array):
            return known
        return self._tape.initializer(ir.tensor(array, name=self.unique(name)))

    def integers(self, numbers: Sequence[int], name: str) -> ir.Value:
        """Writes a constant of 64-bit integers, as shapes, axes and bounds are."""
        return self.constant(np.asarray(numbers, np.int64), name)

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        attributes: Attributes | None = None,
        *,
        dtype: ir.DataType | None = None,
        shape: ir.Shape | None = None,
        node_name: str | None = None,
        origin: ir.Node | None = None,
        instead_of: ir.Node | None = None,
    ) -> ir.Value:
        """Writes a node with one output, and returns that.

        Args:
            op_type: an operator of ONNX's own domain.
            inputs: what it reads.
            name: of the output, made unique; also the node's, where nothing below says otherwise.
            attributes: by name.
            dtype: of the output; the first input's where None.
            shape: of the output, where it is known.
            node_name: the node's own name.
            origin: the node that this one comes from.
            instead_of: the node that did in another spelling what this one does: its name, its origin and all its
                metadata pass on.
        """
        (output,) = self.ops(
            op_type,
            inputs,
            [name],
            attributes,
            dtype=dtype,
            shapes=[shape],
            node_name=node_name,
            origin=origin,
            instead_of=instead_of,
        )
        return output

    def ops(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        names: Sequence[str],
        attributes: Attributes | None = None,
        *,
        dtype: ir.DataType | None = None,
        shapes: Sequence[ir.Shape | None] | None = None,
        node_name: str | None = None,
        origin: ir.Node | None = None,
        instead_of: ir.Node | None = None,
    ) -> tuple[ir.Value, ...]:
        """Like :meth:`op`, for a node with an output for each of ``names``."""
        if dtype is None and inputs and inputs[0] is not None:
            dtype = inputs[0].dtype
        type_ = None if dtype is None else ir.TensorType(dtype)
        outputs = [
            ir.Value(name=self.unique(name), type=type_, shape=shape)
            for name, shape in zip(names, shapes or [None] * len(names), strict=True)
        ]
        if node_name is None and instead_of is not None:
            node_name = instead_of.name
        self._tape.op_multi_out(op_type, inputs, attributes, outputs=outputs, name=node_name or outputs[0].name)
        self._label(self._tape.nodes[-1], origin, instead_of)
        return tuple(outputs)

    def reduce(self, op_type: str, value: ir.Value, axes: Sequence[int], name: str, *, keepdims: bool) -> ir.Value:
        """Writes a reduction over ``axes``, which the graph's opset takes as an input or as an attribute."""
        keep = {"keepdims": int(keepdims)}
        if self.opset >= _AXES_AS_INPUT.get(op_type, _AXES_AS_INPUT_DEFAULT):
            return self.op(op_type, [value, self.integers(axes, f"{name}_axes")], name, keep)
        return self.op(op_type, [value], name, {**keep, "axes": list(axes)})

    def append(self) -> None:
        """Ends the batch: its nodes go to the end of the graph."""
        self.graph.extend(self._end())

    def insert_before(self, node: ir.Node) -> None:
        """Ends the batch: its nodes go in front of ``node``."""
        self.graph.insert_before(node, self._end())

    def insert_behind(self, value: ir.Value) -> None:
        """Ends the batch: its nodes go behind the one that makes ``value``; to the start of the graph where none does.

        The readers of ``value`` stay what they are.
        """
        maker = value.producer()
        nodes = self._end()
        if maker is not None:
            self.graph.insert_after(maker, nodes)
        elif len(self.graph):
            self.graph.insert_before(self.graph[0], nodes)
        else:
            self.graph.extend(nodes)

    def put_behind(self, value: ir.Value, result: ir.Value, *, bare: Collection[str] = ()) -> None:
        """Ends the batch as :meth:`insert_behind`, and those who read ``value`` read ``result``, a tensor of the batch.

        The graph's outputs stay, and so does what nodes of the names in ``bare`` read.
        """
        own = {*self._tape.nodes}
        readers = [(node, index) for node, index in value.uses() if node not in own and node.name not in bare]
        self.insert_behind(value)
        for node, index in readers:
            node.replace_input_with(index, result)

    def commit(self, old: ir.Value, new: ir.Value, *, prune: bool = True) -> None:
        """Ends the batch: it stands behind ``old``, and all that read ``old`` reads ``new``, the graph's outputs too.

        Args:
            old: a tensor that a node of the graph makes. ``new`` takes its shape and type.
            new: a tensor of the batch, computed without ``old``.
            prune: whether nodes and constants that nothing reads now leave the graph. ``new`` then has the name that
                ``old`` had. Otherwise both keep their names, except that a graph's output stays called what it was.
        """
        producer = old.producer()
        if producer is None:
            raise ValueError(f"no node makes {old.name!r}, so none can stand in its place")
        nodes = self._end()
        self.graph.insert_after(producer, nodes)
        new.shape, new.type = old.shape or new.shape, old.type or new.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        if prune or new.is_graph_output():
            self._taken.discard(new.name)
            name = old.name
            old.name, new.name = f"{name}.replaced", name
        if prune:
            self._prune(producer)

    def discard(self) -> None:
        """Ends the batch by taking it back: the tensors that it read have the readers that they had before."""
        for node in self._tape.nodes:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        self._taken.difference_update(self._names)
        self._begin()

    def _end(self) -> tuple[ir.Node, ...]:
        nodes, constants = tuple(self._tape.nodes), self._tape.initializers
        for value in constants:
            if value.uses():
                self.graph.register_initializer(value)
        self._begin()
        return nodes

    def _prune(self, node: ir.Node) -> None:
        stale = [node]
        while stale:
            node = stale.pop()
            if node.graph is None or any(value.uses() or value.is_graph_output() for value in node.outputs):
                continue
            read = [value for value in node.inputs if value is not None]
            self.graph.remove(node, safe=True)
            for value in dict.fromkeys(read):
                maker = value.producer()
                if maker is not None:
                    stale.append(maker)
                else:
                    forget(self.graph, value)

    def _label(self, node: ir.Node, origin: ir.Node | None, instead_of: ir.Node | None) -> None:
        if instead_of is not None:
            take_place(instead_of, node)
        for source in (origin, self._origin):
            if source is None or NAME_SCOPES in node.metadata_props:
                continue
            if isinstance(source, str):
                set_module(node, source)
            else:
                copy_origin(source, node)

    def _fresh_prefix(self, base: str) -> str:
        prefix, number = base, 1
        while any(name is not None and name.startswith(prefix) for name in self._taken):
            number += 1
            prefix = f"{base}{number}"
        return prefix


def _equal(tensor: ir.TensorProtocol, array: NDArray[Any]) -> bool:
    if tuple(tensor.shape.numpy()) != array.shape or tensor.dtype != ir.DataType.from_numpy(array.dtype):
        return False
    return np.array_equal(tensor.numpy(), array, equal_nan=array.dtype.kind == "f")
