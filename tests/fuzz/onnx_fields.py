"""Changes fields of ONNX files, and reads and simplifies what comes of it.

The fuzzer that changes bytes rarely gets past the protobuf parser. This one changes numbers, names, weights and nodes
of files that parse, so that the checker, shape inference, the runtime and onnxsim meet them. Each file is read in a
fork of its own, as the command reads it in a child: a crash of the C++ libraries ends the fork, and is counted.
Anything but a graph, a refusal in one sentence or such an end is a bug of ours.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import onnx

from radixrt.errors import InputError
from radixrt.export.reader.onnx_file import read_onnx, with_batch
from radixrt.export.reader.simplify import simplify
from radixrt.export.spec import BatchSpec
from tests.export.reader.test_onnx_file import tiny
from tests.networks import gated

SECONDS = 60
MEMORY = 8 << 30
TAKEN, REFUSED, BROKEN = 0, 2, 70

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


def seeds() -> tuple[onnx.ModelProto, ...]:
    """The files that are changed."""
    return (
        tiny(),
        tiny(batch=2),
        tiny(opset=11),
        gated.tiny("fp32"),
        gated.tiny("int8"),
        gated.tiny("fp32", "batch"),
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


def read_once(content: bytes, path: Path, source: random.Random) -> int:
    """Reads one file in this process; the exit code of its fork."""
    path.write_bytes(content)
    try:
        graph = read_onnx(path)
        simplify(with_batch(graph, BatchSpec(2, 2)) if source.random() < 0.3 else graph)
    except InputError as error:
        text = str(error)
        return REFUSED if text.strip() and "\n" not in text and len(text) < 4000 else BROKEN
    return TAKEN


def fuzz_fields(runs: int, folder: Path, first: int = 0) -> Counter[str]:
    """Reads ``runs`` changed files, with the seeds of ``first`` and later.

    Returns:
        How many were taken, refused, ended their process, or broke a promise; what broke one is kept in ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files, counts = seeds(), Counter[str]()
    for number in range(first, first + runs):
        source = random.Random(number)
        content = mutated(source.choice(files), source)
        child = os.fork()
        if child == 0:
            _child(content, folder / f"input-{os.getppid()}.onnx", source)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code < 0:
            counts[f"ended by {signal.Signals(-code).name}"] += 1
        else:
            counts[{TAKEN: "taken", REFUSED: "refused"}.get(code, "broken")] += 1
        if code not in (TAKEN, REFUSED):
            (folder / f"{number}.onnx").write_bytes(content)
    return counts


def _child(content: bytes, path: Path, source: random.Random) -> None:
    code = BROKEN
    try:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.alarm(SECONDS)
        os.dup2(os.open(path.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        code = read_once(content, path, source)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
