"""Reads an ONNX file that nobody vouches for in a process of its own.

The checker, shape inference, onnxsim and the runtime are C++: a file can divide by zero in them, wind up their
recursion or keep them busy for ever (two integers, -2**63 / -1, end the runtime with SIGFPE). So they meet the file in
a child with bounded memory and time, and what comes back are protobuf messages. Whatever happens to the child is one
sentence here.

The child starts from scratch, not by forking (threads of other libraries would not survive that) and not through
``multiprocessing`` (which runs the caller's main module again).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from radixrt.errors import InputError
from radixrt.export.spec import FileChoice

LARGEST_MEMORY = 16 << 30
"""Bytes of address space: several copies of the 2 GB that a file may hold."""
LONGEST_S = 600
WAITED = 12
"""How many times as long by the clock, where it computes nothing."""
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]);from radixrt.export.reader.sandbox import child; child()"
)


@dataclass(frozen=True)
class Foreign:
    """What a file holds.

    Attributes:
        graph: what the file computes, as :func:`radixrt.export.reader.onnx_file.read_onnx` gives it.
        simplified: the same in float32, simplified: what is compiled.
        remarks: a sentence on each thing that is compiled otherwise than the file says.
    """

    graph: ir.Model
    simplified: ir.Model
    remarks: tuple[str, ...] = ()


def read_foreign(
    path: Path,
    choice: FileChoice | None = None,
    *,
    longest_s: int = LONGEST_S,
) -> Foreign:
    """Reads and simplifies an ONNX file.

    Args:
        path: the file.
        choice: what the file leaves open.
        longest_s: after how many seconds of processor time to give up.

    Raises:
        InputError: the file is refused, or reading it crashed, took too long or too much memory.
    """
    request = {"simplified": True, "choice": asdict(choice or FileChoice()), "longest_s": longest_s}
    (graph, simple), remarks = _in_child(path, request)
    return Foreign(graph, simple, tuple(remarks))


def read_graph(path: Path, *, longest_s: int = LONGEST_S) -> ir.Model:
    """Reads an ONNX file as it stands: a graph that RadixRT made, or says that it did.

    Raises:
        InputError: as :func:`read_foreign`.
    """
    (graph,), _ = _in_child(path, {"simplified": False, "choice": asdict(FileChoice()), "longest_s": longest_s})
    return graph


def _in_child(path: Path, request: dict[str, Any]) -> tuple[list[ir.Model], list[str]]:
    """The graphs that the child made, and its remarks."""
    # Isolated, so that no module of the folder that the user stands in takes a library's place.
    words = json.dumps(sys.path), json.dumps({"path": str(path), **request})
    command = [sys.executable, "-I", "-c", _START, *words]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        raise InputError(f"{path} cannot be read: {_end(done.returncode, request['longest_s'])}; export it again")
    head, _, content = done.stdout.partition(b"\n")
    said = json.loads(head)
    if "error" in said:
        raise InputError(said["error"])
    ends = list(itertools.accumulate(said["bytes"]))
    return [_parsed(content[start:end]) for start, end in zip([0, *ends], ends, strict=False)], said["remarks"]


def _parsed(content: bytes) -> ir.Model:
    model: ir.Model = ir.from_proto(onnx.ModelProto.FromString(content))
    return model


def _end(code: int, longest_s: int) -> str:
    """Why a child that said nothing came to its end."""
    if code == -signal.SIGXCPU:
        return f"that took more than {longest_s} s of processor time"
    if code == -signal.SIGALRM:
        return f"that took more than {WAITED * longest_s} s"
    if code == -signal.SIGKILL:
        return "the system stopped it, most likely for want of memory"
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"the file crashed the ONNX libraries ({name})"


def child() -> None:
    """What the child does: reads the file that its last argument names and writes graphs to standard output."""
    request = json.loads(sys.argv[2])
    _bound(request["longest_s"])
    # The libraries may write to standard output what they like; the answer goes where it went before.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # onnxsim imports it, for a feature that is not used here, and it takes longer than all the rest.
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        remarks: list[str] = []
        parts = [ir.to_proto(model).SerializeToString() for model in _read(request, remarks.append)]
        head: dict[str, object] = {"bytes": [len(part) for part in parts], "remarks": remarks}
    except InputError as error:
        parts, head = [], {"error": str(error)}
    except MemoryError:
        parts, head = (
            [],
            {"error": f"{request['path']} needs more memory than {LARGEST_MEMORY >> 30} GB: export it again"},
        )
    with answer:
        answer.write(json.dumps(head).encode() + b"\n")
        for part in parts:
            answer.write(part)


def _bound(longest_s: int) -> None:
    with contextlib.suppress(ValueError, OSError):  # not every system can
        resource.setrlimit(resource.RLIMIT_AS, (LARGEST_MEMORY, LARGEST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The system's own limit ends C++ that never returns to Python, and a child whose parent is gone. The clock counts
    # where others keep the machine busy, or stop this process, so it only ends what waits for ever.
    resource.setrlimit(resource.RLIMIT_CPU, (longest_s, longest_s + 1))
    signal.alarm(WAITED * longest_s)


def _read(request: dict[str, Any], remark: Callable[[str], None]) -> list[ir.Model]:
    from radixrt.export.graph.shapes import graph_sides
    from radixrt.export.reader.onnx_file import read_onnx, with_batch
    from radixrt.export.reader.plain import in_float32
    from radixrt.export.reader.simplify import simplify
    from radixrt.export.reader.spelling.transposes import cancel_transposes

    path, choice = Path(request["path"]), FileChoice.from_json(request["choice"])
    graph = read_onnx(path, choice, remark)
    if not request["simplified"]:
        return [graph]
    batch = choice.batch
    plain = in_float32(graph, path, remark, keep_pairs=choice.keep_pairs)
    sides = graph_sides(graph, choice.height, choice.width)
    simple = simplify(with_batch(plain, batch) if batch else plain, opaque=choice.opaque, sides=sides)
    moved = cancel_transposes(simple, sides)
    # What met where transposes were, a Pad and its convolution say, is one node now.
    return [graph, moved if moved is simple else simplify(moved, opaque=choice.opaque, sides=sides)]
