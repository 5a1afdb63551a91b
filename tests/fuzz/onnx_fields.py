"""Changes fields of ONNX files, and reads and simplifies what comes of it.

The fuzzer that changes bytes rarely gets past the protobuf parser. This one changes numbers, names, weights and nodes
of files that parse, so that the checker, shape inference, the runtime and onnxsim meet them. Files are read in forks,
as the command reads them in a child: a crash of the C++ libraries ends the fork, is counted, and the next file gets a
new one. Anything but a graph, a refusal in one sentence or such an end is a bug of ours.

Every second file is changed as a whole first, into another valid form of itself: another opset and IR version, FP16 or
Q/DQ pairs, weights among the inputs, a batch that is baked in. Such a file is taken, and must compute what it did:
there is no refusal to hide behind. Every third of them is rewritten for a target too, which takes as long as reading.
"""

from __future__ import annotations

import functools
import os
import random
import resource
import signal
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from radixrt.errors import InputError
from radixrt.export.passes.pipeline import RewriteOptions, rewrite
from radixrt.export.reader.onnx_file import read_onnx, with_batch
from radixrt.export.reader.plain import in_float32
from radixrt.export.reader.simplify import simplify
from radixrt.export.reader.spelling.transposes import cancel_transposes
from radixrt.export.spec import BatchSpec
from tests.export.reader.test_onnx_file import tiny
from tests.networks import gated
from tests.networks.onnx_files import CHANNELS, images, in_half, operator_form, outputs, se_net

SECONDS = 60
"""Of processor time for one file, so that a busy machine, or one that stops the fuzzer for a while, ends none."""
LONGEST_WAIT_S = 3_600
"""Of time on the clock: a file that waits for ever uses no processor."""
MEMORY = 8 << 30
TAKEN, REFUSED, BROKEN, ENDED = 0, 2, 70, 71
FILES_A_FORK = 64

_INTEGERS = (0, 1, -1, 2, 3, 7, 8, 16, 127, 255, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63))
_FLOATS = (0.0, -1.0, 1e-40, 1e38, float("inf"), float("nan"))
_TEXTS = (
    "",
    "image",
    "c",
    "r",
    "p",
    "f",
    "scores",
    "w",
    "b",
    "input",
    "relu",
    "gate",
    "strides",
    "pads",
    "group",
    "axis",
)
_OPERATORS = (
    "Conv",
    "Relu",
    "Flatten",
    "MatMul",
    "Add",
    "Div",
    "Reshape",
    "If",
    "Pad",
    "Slice",
    "Cast",
    "MaxPool",
    "Split",
)


@functools.cache
def seeds() -> tuple[onnx.ModelProto, ...]:
    """The files that are changed."""
    return (
        tiny(),
        tiny(batch=2),
        tiny(opset=11),
        gated.tiny("fp32"),
        gated.tiny("int8"),
        gated.tiny("fp32", "batch"),
        operator_form(),
    )


def mutated(proto: onnx.ModelProto, source: random.Random) -> bytes:
    """The file with one to three of its fields changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        message, field, value = source.choice(_fields(copy))
        try:
            _change(message, field, value, source)
        except (ValueError, TypeError):  # a number that its field does not hold
            continue
    content: bytes = copy.SerializeToString()
    return content


def _fields(message: Any) -> list[tuple[Any, Any, Any]]:
    found = []
    for field, value in message.ListFields():
        found.append((message, field, value))
        if field.type == field.TYPE_MESSAGE:
            for inner in value if _repeated(value) else [value]:
                found.extend(_fields(inner))
    return found


def _repeated(value: Any) -> bool:
    return not isinstance(value, (str, bytes, int, float)) and not hasattr(value, "ListFields")


def _change(message: Any, field: Any, value: Any, source: random.Random) -> None:
    if not _repeated(value):
        if field.type == field.TYPE_MESSAGE or source.random() < 0.1:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, _other(value, source))
        return
    place = source.randrange(len(value))
    what = source.random()
    if what < 0.3:
        del value[place]
    elif what < 0.5:
        value.append(value[place])
    elif field.type != field.TYPE_MESSAGE:
        value[place] = _other(value[place], source)
    elif what < 0.8:
        value[place].CopyFrom(source.choice(list(value)))
    else:
        value[place].Clear()


def _other(value: Any, source: random.Random) -> Any:
    if isinstance(value, int):
        return source.choice(_INTEGERS)
    if isinstance(value, float):
        return source.choice(_FLOATS)
    if isinstance(value, str):
        return source.choice(_TEXTS + _OPERATORS)
    data = bytearray(value or b"\0")
    data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    return bytes(data[: source.randrange(len(data) + 1)] if source.random() < 0.3 else data)


OPSETS = (7, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22)


def varied(source: random.Random) -> onnx.ModelProto:
    """A valid file: an SE network in an opset, IR version, type and form of batch that exporters leave."""
    opset = source.choice(OPSETS)
    file = se_net(opset, source.choice(("N", 1, 2)))
    file.ir_version = source.choice([v for v in (3, 4, 6, 7, 8, 9, 10) if v < 8 or opset >= 15])
    form = source.choice(("float", "float", "half", "half ends", "pairs"))
    if form.startswith("half") and opset >= 9:
        file = in_half(file, ends=form == "half")
    elif form == "pairs" and opset >= 13:
        file = with_pairs(file, source)
    if file.ir_version < 4 or source.random() < 0.2:
        for tensor in file.graph.initializer:
            file.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    if source.random() < 0.3:  # a batch that the file calls free and bakes in
        flatten = next(node for node in file.graph.node if node.op_type == "Flatten")
        size = file.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
        to = onnx.numpy_helper.from_array(np.array([size, CHANNELS], np.int64), "baked")
        file.graph.initializer.append(to)
        if file.ir_version < 4:
            file.graph.input.append(onnx.helper.make_tensor_value_info("baked", to.data_type, to.dims))
        flatten.CopyFrom(
            onnx.helper.make_node("Reshape", [flatten.input[0], "baked"], list(flatten.output), flatten.name)
        )
    return file


def with_pairs(file: onnx.ModelProto, source: random.Random) -> onnx.ModelProto:
    """Q/DQ pairs around some tensors, signed or not, in front of whatever reads them."""
    named = {node.output[0]: node for node in file.graph.node if node.output[0] != "y"}
    kind = source.choice((np.int8, np.uint8))
    for name in source.sample(sorted(named), 3):
        step = onnx.numpy_helper.from_array(np.array(0.05, np.float32), f"{name}_step")
        zero = onnx.numpy_helper.from_array(np.array(0 if kind is np.int8 else 128, kind), f"{name}_zero")
        file.graph.initializer.extend([step, zero])
        named[name].output[0] = f"{name}_float"
        ends = [f"{name}_float", f"{name}_int"], [f"{name}_int", name]
        for op, (start, end) in zip(("QuantizeLinear", "DequantizeLinear"), ends, strict=True):
            file.graph.node.append(onnx.helper.make_node(op, [start, step.name, zero.name], [end], f"{name}_{op}"))
    return file


def check_varied(file: onnx.ModelProto, path: Path, seed: int) -> int:
    """Takes a valid file, rewrites every third of them, and holds the result against it."""
    path.write_bytes(file.SerializeToString())
    given = images(file.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1)
    half = file.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    pairs = any(node.op_type == "QuantizeLinear" for node in file.graph.node)
    graph = simplify(in_float32(read_onnx(path), path, lambda text: None))
    model = cancel_transposes(graph)
    if seed % 6 == 1:
        model, report = rewrite(model, RewriteOptions())
        if len(report.attention_blocks) != 1:
            raise AssertionError(f"no block: {report.refused}")
    # Not `outputs`: ONNX Runtime's optimiser breaks some files of opset 21 with uint8 pairs before it can run them.
    expected = as_it_stands(onnx.load(path), given.astype(np.float16) if half else given).astype(np.float32)
    error = float(np.abs(outputs(ir.to_proto(model), given) - expected).max())
    if error > (0.3 if pairs else 0.02) * max(1.0, float(np.abs(expected).max())):
        raise AssertionError(f"another function, by {error}")
    return TAKEN


def as_it_stands(file: onnx.ModelProto, given: np.ndarray) -> np.ndarray:
    """What the runtime makes of a file without its optimiser."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["y"], {"x": given})[0])


def read_once(content: bytes, path: Path, source: random.Random) -> int:
    """Reads one file in this process, and says what became of it."""
    path.write_bytes(content)
    try:
        graph = in_float32(read_onnx(path), path, lambda text: None)
        cancel_transposes(simplify(with_batch(graph, BatchSpec(2, 2)) if source.random() < 0.3 else graph))
    except InputError as error:
        text = str(error)
        return REFUSED if text.strip() and "\n" not in text and len(text) < 4000 else BROKEN
    return TAKEN


def fuzz_fields(
    runs: int, folder: Path, first: int = 0, tell: Callable[[int], None] = lambda done: None
) -> Counter[str]:
    """Reads ``runs`` changed files, with the seeds of ``first`` and later; ``tell`` is told how many are done.

    Returns:
        How many were taken, refused, ended their process, or broke a promise; what broke one is kept in ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    counts, number, last = Counter[str](), first, first + runs
    while number < last:
        codes, end = _in_a_fork(range(number, min(number + FILES_A_FORK, last)), folder)
        if end < 0:  # the file after those that are answered for
            counts[f"ended by {signal.Signals(-end).name}"] += 1
            codes = bytes([*codes, ENDED])
        for seed, code in enumerate(codes, number):
            if code in (REFUSED, TAKEN):
                counts["taken" if code == TAKEN else "refused"] += 1
            else:
                counts["broken"] += code == BROKEN
                (folder / f"{seed}.onnx").write_bytes(changed(seed)[0])
        number += len(codes)
        tell(number - first)
    return counts


def changed(seed: int) -> tuple[bytes, onnx.ModelProto | None, random.Random]:
    """The file of a seed, the file again where it was changed as a whole, and what decides how it is read."""
    source = random.Random(seed)
    whole = varied(source) if seed % 2 else None
    return mutated(source.choice(seeds()), source) if whole is None else whole.SerializeToString(), whole, source


def _in_a_fork(numbers: range, folder: Path) -> tuple[bytes, int]:
    """Reads files in a fork of this process: what became of each, as far as it came, and the exit code."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(here)
        _child(numbers, folder, there)
    os.close(there)
    with os.fdopen(here, "rb") as stream:
        codes = stream.read()
    return codes, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _child(numbers: range, folder: Path, there: int) -> None:
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        path = folder / f"input-{os.getppid()}.onnx"
        os.dup2(os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        for seed in numbers:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.alarm(LONGEST_WAIT_S)
            content, whole, source = changed(seed)
            try:
                code = read_once(content, path, source) if whole is None else check_varied(whole, path, seed)
            except BaseException:
                code = BROKEN
                (folder / f"{seed}.txt").write_text(traceback.format_exc())
            os.write(there, bytes([code]))
    finally:
        os._exit(0)
