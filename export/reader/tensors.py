"""The tensors of an untrusted ONNX file: where their bytes lie, how many they may be, and whether they are numbers.

Nothing here allocates what a file merely claims: a tensor's declared size is held against the bytes that are really
there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from radixrt.errors import InputError
from radixrt.export.graph.save import WEIGHTS_LIMIT

BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.INT64: 64,
    TensorProto.INT32: 32,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.BOOL: 8,
}
"""Element types that a graph may hold, and the bits of each."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def type_name(element: int) -> str:
    """The name of an ONNX element type, as the specification writes it."""
    try:
        return str(TensorProto.DataType.Name(element)).lower()
    except ValueError:
        return f"type {element}"


def _tensors(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Every tensor of a graph and its subgraphs: initializers by name, attributes by node."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    yield from _attributes(graph.node)


def _attributes(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, TensorProto]]:
    for node in nodes:
        for attribute in node.attribute:
            name = f"{node.name or node.op_type}.{attribute.name}"
            if attribute.HasField("t"):
                yield name, attribute.t
            yield from ((name, tensor) for tensor in attribute.tensors)
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for subgraph in attribute.graphs:
                yield from _tensors(subgraph)


def graphs_of(model: onnx.ModelProto) -> Iterator[Any]:
    """A file's graph, its functions, and the branches and bodies in them."""
    pending: list[Any] = [model.graph, *model.functions]
    while pending:
        yield (graph := pending.pop())
        pending += [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]


def load_tensors(model: onnx.ModelProto, path: Path) -> None:
    """Checks every tensor and brings external data into the model.

    Raises:
        InputError: a tensor has an unsupported type or a false size, lies outside the model's folder, is missing, or
            holds NaN.
    """
    folder = path.parent.resolve()
    total = 0
    inlined = (_attributes(function.node) for function in model.functions)
    for name, tensor in itertools.chain(_tensors(model.graph), *inlined):
        size = _declared_bytes(name, tensor, path)
        total += size
        if total > WEIGHTS_LIMIT:
            raise InputError(f"{path} claims more than 2 GB of weights, which is more than this compiler takes on")
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.raw_data = _read_external(name, tensor, folder, size, path)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
        elif tensor.HasField("raw_data"):
            if len(tensor.raw_data) != size:
                raise _false_size(name, f"{size} bytes", len(tensor.raw_data), path)
        elif _typed_length(tensor) != (held := _typed_values(tensor)):
            raise _false_size(name, f"{held} values", _typed_length(tensor), path)
        if tensor.data_type in _FLOATS:
            _check_numbers(name, tensor, path)


def _false_size(name: str, claimed: str, held: int, path: Path) -> InputError:
    return InputError(f"{path}: {name} claims {claimed} and holds {held}: export the model again")


def _declared_bytes(name: str, tensor: TensorProto, path: Path) -> int:
    if tensor.data_type not in BITS:
        raise InputError(
            f"{path}: {name} is of the unsupported type {type_name(tensor.data_type)}: export the model in float32"
        )
    if any(side < 0 for side in tensor.dims):
        raise InputError(f"{path}: {name} has a negative dimension: export the model again")
    return (int(math.prod(tensor.dims)) * BITS[tensor.data_type] + 7) // 8


def _typed_values(tensor: TensorProto) -> int:
    """How many numbers a tensor's elements fill; those of four bits lie in pairs."""
    elements = int(math.prod(tensor.dims))
    return (elements + 1) // 2 if BITS[tensor.data_type] == 4 else elements


def _typed_length(tensor: TensorProto) -> int:
    fields: dict[int, Sized] = {
        TensorProto.FLOAT: tensor.float_data,
        TensorProto.DOUBLE: tensor.double_data,
        TensorProto.INT64: tensor.int64_data,
    }
    # The specification keeps the narrow types, float16 included, in int32_data.
    return len(fields.get(tensor.data_type, tensor.int32_data))


def _read_external(name: str, tensor: TensorProto, folder: Path, size: int, path: Path) -> bytes:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    # Following links is what makes "inside the folder" true.
    file = (folder / location.replace("\0", "")).resolve()
    if not location or "\0" in location or Path(location).is_absolute() or not file.is_relative_to(folder):
        raise InputError(
            f"{path}: {name} points to data outside the model's folder ({location!r}): keep it beside the file"
        )
    if not file.is_file():
        raise InputError(f"{path}: the data of {name}, {location!r}, is missing: copy it beside the file")
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(size)))
    except ValueError as error:
        raise InputError(f"{path}: {name} has a bad place in {location!r}: export the model again") from error
    if length != size or offset < 0 or offset + size > file.stat().st_size:
        raise InputError(
            f"{path}: {location!r} does not hold the {size} bytes of {name}: it is truncated or another file"
        )
    with file.open("rb") as stream:
        stream.seek(offset)
        content: bytes = stream.read(size)
        return content


def _check_numbers(name: str, tensor: TensorProto, path: Path) -> None:
    values = onnx.numpy_helper.to_array(tensor)
    if np.isnan(values).any():
        raise InputError(f"{path}: {name} holds {int(np.isnan(values).sum())} NaN values: take an earlier checkpoint")
    # One infinite scalar is a bound (of a Clip, of a padding), an infinite weight is not.
    if values.size > 1 and np.isinf(values).any():
        raise InputError(
            f"{path}: {name} holds {int(np.isinf(values).sum())} infinite values: export an earlier checkpoint"
        )
