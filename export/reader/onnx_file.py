"""Reads an ONNX network that nobody vouches for.

After: an ``onnx_ir.Model`` whose inputs have fixed sides, or an image those that stay free (``height`` and ``width``),
and are float32, integers or bool; outputs in float32 or integers, of which the first is the main one
(:mod:`radixrt.export.source.outputs`); nodes in order and each with a name of its own, every weight in memory and a
number, local functions inlined, opset 18 or later, and the batch either static or the symbolic dimension ``batch``,
with which it was tried. What is computed in between is what the file computes, in its types.

Everything else is refused with one sentence, but for operators of other domains where the caller leaves them as they
stand: such a graph is inferred as far as it goes, and never run. The file is never believed: sizes are held against
bytes, external data must lie in the file's folder, and operators that could run for ever have no place in such a
network.
"""

from __future__ import annotations

import graphlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from radixrt.errors import InputError, first_line
from radixrt.export.graph.save import PROTOBUF_LIMIT
from radixrt.export.graph.session import run_once
from radixrt.export.reader.batch import fixed_batch
from radixrt.export.reader.ends import check_ends, float_ends, with_samples_axis
from radixrt.export.reader.image_sides import at_sides, free_sides, settle_sides, with_noted
from radixrt.export.reader.integer_ends import float_integer_ends
from radixrt.export.reader.operators import check_operators, note_shapes
from radixrt.export.reader.opset import OLDEST_OPSET, PAIRS_OPSET, convert_opset, opset_of
from radixrt.export.reader.sparse import dense_weights
from radixrt.export.reader.spelling.operator_form import as_pairs, as_standard_pairs, contrib_pair
from radixrt.export.reader.tensors import graphs_of, load_tensors
from radixrt.export.sides import BATCH_DIM, Sides, refuse_sides
from radixrt.export.source.outputs import main_output
from radixrt.export.spec import BatchSpec, FileChoice

_IR_VERSION = 8  # of opset 18; before 4, weights had to be inputs as well
_LARGEST_VALUE = 1 << 29  # elements: 2 GB of float32; a 64-channel map of 1024 x 1024 is 1 << 26
_NAMES = ("name", "input", "output", "op_type", "domain", "dim_param", "overload")


def read_onnx(
    path: Path,
    choice: FileChoice | None = None,
    remark: Callable[[str], None] = lambda text: None,
) -> ir.Model:
    """Reads an ONNX file.

    Args:
        path: the file.
        choice: what the file leaves open, but for the batch, which stays as the file has it.
        remark: takes a sentence on each thing that the file is not what it says, or that is read otherwise.

    Raises:
        InputError: it is missing, damaged, hostile, or not a network of a supported kind.
    """
    path, choice = Path(path), choice or FileChoice()
    proto = _parse(path)
    choice = with_noted(proto, choice)
    _sort(proto, path)
    dense_weights(proto, path)
    load_tensors(proto, path)
    if count := as_pairs(proto, path):
        remark(f"{path} is quantised in the operator form: its {count} quantised operators are read as Q/DQ pairs.")
    opaque = check_operators(proto, path, choice)
    _check_interface(proto, path, choice, remark, believed=bool(opaque))
    float_ends(proto, path, remark)
    sides = free_sides(proto, choice)
    needed = PAIRS_OPSET if any(map(contrib_pair, proto.graph.node)) else OLDEST_OPSET
    if opset_of(proto) < needed:
        proto = convert_opset(proto, path, needed, sides=sides, runs=not opaque)
    as_standard_pairs(proto)
    _name_nodes(proto.graph)
    if opaque:
        note_shapes(proto)
        remark(
            f"{path} was not run: it holds {', '.join(opaque)}, which stand as they are; blocks behind them are found "
            "only where the file, or a layer that reads them, tells the shapes."
        )
    proto = _infer(proto, path) if opaque else _settle_batch(proto, path, remark, sides)
    _order_outputs(proto.graph, choice.logits, path)
    try:
        model: ir.Model = ir.from_proto(proto)
        if model.functions:
            common.InlinePass()(model)
            common.NameFixPass()(model)
    except Exception as error:  # onnx-ir raises several kinds, for graphs that the checker lets pass
        raise InputError(f"{path} holds a graph that cannot be read: {first_line(error)}") from error
    return model


def with_batch(model: ir.Model, batch: BatchSpec) -> ir.Model:
    """Gives a graph read from a file the batch that was asked for.

    Args:
        model: a graph with a dynamic batch, or with a static one that must then be ``batch`` already.
        batch: a static size fixes a dynamic batch; a range keeps it.

    Raises:
        InputError: the graph's batch is static and another one, or does not survive being fixed.
    """
    shape = model.graph.inputs[0].shape
    assert shape is not None
    if isinstance(shape[0], int):
        if batch.dynamic or batch.max != shape[0]:
            raise InputError(
                f"the graph takes a batch of {shape[0]}, not {batch}: give --batch {shape[0]}, or export it with a "
                "dynamic batch"
            )
        return model
    if batch.dynamic:
        return model
    proto = ir.to_proto(model)
    _set_batch(proto.graph, batch.max)
    fixed: ir.Model = ir.from_proto(_infer(proto, Path("the graph")))
    return fixed


def _parse(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise InputError(f"no ONNX file at {path}")
    if path.stat().st_size > PROTOBUF_LIMIT:
        raise InputError(f"{path} is larger than 2 GB, which no ONNX file can be: keep its weights as external data")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's own, the file system's, too little memory
        raise InputError(f"{path} is truncated or is not an ONNX file: export it again") from error
    if not proto.ir_version or not proto.graph.node or not proto.opset_import:
        raise InputError(f"{path} is truncated or is not an ONNX file: it holds no graph")
    if not proto.graph.output:
        raise InputError(f"{path} has no output: name what it computes as the graph's output")
    if not _is_text(proto):
        raise InputError(f"{path} holds names that are no text: it is damaged, export it again")
    _spell_plainly(proto)
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= opset_of(proto) <= newest:
        raise InputError(f"{path} is written for opset {opset_of(proto)}: export it at {OLDEST_OPSET} to {newest}")
    del proto.training_info[:]
    return proto


def _spell_plainly(proto: onnx.ModelProto) -> None:
    """Gives the graph a name, and the standard domain its short one: not everything behind knows ``ai.onnx``."""
    proto.graph.name = proto.graph.name or "graph"
    imports = [entry for owner in (proto, *proto.functions) for entry in owner.opset_import]
    for entry in (*imports, *(node for graph in graphs_of(proto) for node in graph.node)):
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain


def _is_text(message: Any) -> bool:
    """Whether strings are UTF-8 (protobuf hands out bytes where they are not) and names printable, fit for a report."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            for text in [value] if isinstance(value, (str, bytes)) else value:
                if isinstance(text, bytes) or (field.name in _NAMES and not text.isprintable()):
                    return False
        elif field.type == field.TYPE_MESSAGE and not all(
            map(_is_text, [value] if hasattr(value, "ListFields") else value)
        ):
            return False
    return True


def _sort(proto: onnx.ModelProto, path: Path) -> None:
    """Puts the nodes in an order in which they can run."""
    nodes = list(proto.graph.node)
    makers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in makers:
                raise InputError(f"{path} makes {name!r} twice and is not a valid ONNX graph: export it again")
            makers[name] = index
    order: graphlib.TopologicalSorter[int] = graphlib.TopologicalSorter()
    for index, node in enumerate(nodes):
        order.add(index, *(makers[name] for name in _reads(node) if name in makers))
    try:
        indices = list(order.static_order())
    except graphlib.CycleError as error:
        first = nodes[error.args[1][0]]
        raise InputError(
            f"{path} holds a cycle through node {first.name or first.output[0]!r}: export it again"
        ) from error
    if any(
        maker > index for index, node in enumerate(nodes) for n in _reads(node) if (maker := makers.get(n, -1)) >= 0
    ):
        del proto.graph.node[:]
        proto.graph.node.extend(nodes[index] for index in indices)


def _reads(node: onnx.NodeProto) -> list[str]:
    """The values a node reads, those that its subgraphs take from outside included."""
    names, pending = list(node.input), [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    while pending:
        for inner in pending.pop().node:
            names.extend(inner.input)
            pending.extend(attribute.g for attribute in inner.attribute if attribute.HasField("g"))
    return names


def _check_interface(
    proto: onnx.ModelProto, path: Path, choice: FileChoice, remark: Callable[[str], None], *, believed: bool
) -> None:
    """Inputs of fixed sides; numbers out; the batch, where it is not fixed, becomes ``batch``.

    What the file says of the shapes of other values is ``believed`` only where it cannot be run.
    """
    graph = proto.graph
    proto.ir_version = max(proto.ir_version, _IR_VERSION)
    weights = {tensor.name for tensor in graph.initializer}
    # Before IR version 4, weights were listed among the inputs.
    inputs = [value for value in graph.input if value.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    if not inputs:
        raise InputError(f"{path} has no input: export it with what it computes from as the graph's inputs")
    float_integer_ends(proto, path, remark)
    check_ends(proto, path)
    known = {value.name for value in inputs}
    if unknown := [spec.name for spec in choice.inputs if spec.name not in known]:
        raise InputError(f"{path} has no input {unknown[0]}: its inputs are {', '.join(sorted(known))}")
    with_samples_axis(proto, path, remark)
    for value in graph.input:
        settle_sides(value, choice, path)
    first = {v.name: _sides(v)[0].dim_value for v in graph.input if _sides(v)[0].dim_value >= 1}
    if len(set(first.values())) > 1:
        said = ", ".join(f"{name} {size}" for name, size in first.items())
        raise InputError(f"{path}: the first side of its inputs differs ({said}): each needs a row for every sample")
    _set_batch(graph, next(iter(first.values()), BATCH_DIM), believed=believed)


def _set_batch(graph: onnx.GraphProto, batch: int | str, *, believed: bool = False) -> None:
    """Sets the first side of every input; what the file says of other values goes unless it is ``believed``."""
    for value in (*graph.input, *(graph.output if believed else ())):
        for side in _sides(value)[:1]:
            if isinstance(batch, int):
                side.dim_value = batch
            elif value in graph.input or not side.dim_value:
                side.dim_param = batch
    if believed:
        return
    # It may speak of another batch; it is all inferred anew.
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _settle_batch(
    proto: onnx.ModelProto, path: Path, remark: Callable[[str], None], sides: Sides | None
) -> onnx.ModelProto:
    """Infers shapes and runs the graph; a batch that is not as free as the file says becomes the one that runs.

    Raises:
        InputError: it runs at no batch, or not at all the ``sides`` that its image may have.
    """
    if sides is not None:
        refuse_sides(at_sides(proto), sides, str(path))
    try:
        inferred = _infer(proto, path)
        only = fixed_batch(inferred, path, sides.lowest if sides else None)
    except InputError as refusal:
        if proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
            raise
        # What is baked in may contradict a free batch even before it runs.
        _set_batch(proto.graph, 1)
        try:
            inferred, only = _infer(proto, path), 1
            run_once(inferred, sides=sides)
        except Exception:  # of several kinds, and what the file itself says comes first
            raise refusal from None
    if only is None:
        return inferred
    _set_batch(proto.graph, only)
    remark(f"{path} says that its batch is free but computes only batches of {only}: it is compiled for {only}.")
    return _infer(proto, path)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Gives each node a name of its own: reports and calibration speak of nodes by name."""
    taken: set[str] = {node.name for node in graph.node}
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        name = node.name
        if not name or name in seen:
            name = f"{node.name or node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
        seen.add(name)


def _infer(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Checks the model and infers its shapes; what no memory would hold is refused before anything computes it."""
    try:
        # First, because the checker wants to see a shape on the output.
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(inferred)
    except Exception as error:  # C++ errors come through as several kinds
        raise InputError(f"{path} is not a valid ONNX graph: {first_line(error)}") from error
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        sides = [max(side.dim_value, 1) for side in value.type.tensor_type.shape.dim]
        if math.prod(sides) > _LARGEST_VALUE:
            shape = "x".join(map(str, sides))
            raise InputError(f"{path}: {value.name} would have {shape} elements, more than this compiler takes on")
    return inferred


def _order_outputs(graph: onnx.GraphProto, logits: str | None, path: Path) -> None:
    """Puts the main output first, and refuses one that does not have one row per image, where there are several."""
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    shapes = {v.name: [side.dim_value or side.dim_param or "?" for side in _sides(v)] for v in graph.output}
    for name, shape in shapes.items():
        rows = shape[0] if shape else 0
        # Inference may lose the name of a free batch, but not a number. One image alone gives what it gives.
        if batch.dim_value != 1 and isinstance(rows, int) and rows != batch.dim_value:
            raise InputError(f"{path}: output {name} does not have one row per image: leave that output out")
    first = main_output(shapes, logits, str(path))
    ordered = sorted(graph.output, key=lambda value: value.name != first)
    values = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in ordered]
    del graph.output[:]
    graph.output.extend(values)


def _sides(value: onnx.ValueInfoProto) -> Any:
    return value.type.tensor_type.shape.dim
