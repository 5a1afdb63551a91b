"""What a TensorRT for RTX plan costs, judged without a GPU: its kernels, and the bytes that they read and write.

The builder's verbose log ends in a ``Layers:`` block that lists each compiled kernel with its inputs, constants and
outputs, their shapes and types. Bytes are counted per kernel as inputs + constants + outputs, each at its listed
shape and type, and summed: the traffic if no cache helped. A tensor that two kernels read counts twice. It is a
measure for comparing plans of one network, not a latency.

Multiply-adds come from the graph's convolutions and matrix products; each belongs to the kernel that the log says it
was compiled into.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, computed_field

from radixrt.engines.base import BuildOptions
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.build import build_plan
from radixrt.errors import InputError, UnavailableError
from radixrt.export.graph.dimensions import evaluated
from radixrt.export.sides import BATCH_DIM, HEIGHT_DIM, WIDTH_DIM

_BITS = {
    "Float": 32,
    "Half": 16,
    "BFloat16": 16,
    "Int8": 8,
    "UInt8": 8,
    "FP8": 8,
    "Bool": 8,
    "Int32": 32,
    "Int64": 64,
    "Int4": 4,
    "FP4": 4,
}
_SECTION = re.compile(r"(Inputs|Constants|Outputs): \[(.*?)\](?=, (?:Inputs|Constants|Outputs|TacticName|StreamId)\b)")
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[([-\d,]*)\].*?Datatype: (\w+)")
# Bytes are counted, not measured, but a difference of less than this is nothing to choose a precision by.
EQUAL = 0.005
# Kinds of rows that synchronise two streams: nothing is launched for them, nothing computed, nothing moved.
_NO_KERNELS = ("signal", "wait")
# One kernel in a handful carries a network's name for the layer in front of its type; these do the multiplying.
_MULTIPLIES = ("correlation", "gemm", "convolution", "runtime_fusion", "fusion", "sgemm", "matmul")


class KernelTensor(BaseModel):
    """A tensor as one kernel sees it."""

    model_config = ConfigDict(frozen=True)

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


class Kernel(BaseModel):
    """One compiled kernel.

    Attributes:
        name: the builder's name for it.
        kind: the builder's kind, such as ``correlation`` (a convolution), ``gemm`` or ``kgen`` (generated code).
        nodes: the ONNX nodes that were compiled into it.
        macs: multiply-adds of those nodes that are counted here, 0 where none.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    kind: str
    inputs: tuple[KernelTensor, ...]
    constants: tuple[KernelTensor, ...]
    outputs: tuple[KernelTensor, ...]
    nodes: tuple[str, ...]
    macs: int = 0

    @computed_field  # type: ignore[prop-decorator]  # pydantic's documented use
    @property
    def bytes_read(self) -> int:
        return sum(t.bytes for t in (*self.inputs, *self.constants))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bytes_written(self) -> int:
        return sum(t.bytes for t in self.outputs)

    @property
    def precision(self) -> str:
        """The type of the widest work: that of the largest input, which decides the unit that multiplies."""
        return max(self.inputs, key=lambda t: t.bytes).dtype if self.inputs else ""


class PlanCost(BaseModel):
    """The kernels of a plan with the bytes that they move, at the largest batch it was built for."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[Kernel, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def kernels(self) -> int:
        return len(self.rows)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bytes_read(self) -> int:
        return sum(row.bytes_read for row in self.rows)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def bytes_written(self) -> int:
        return sum(row.bytes_written for row in self.rows)

    @property
    def bytes_moved(self) -> int:
        return self.bytes_read + self.bytes_written

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.rows)


@dataclass(frozen=True)
class Int8Comparison:
    """An INT8 plan beside the FP16 plan of the same network.

    Attributes:
        bytes_ratio: bytes moved by the INT8 plan over those of the FP16 plan; above 1 the INT8 plan moves more.
        recommended: ``int8`` or ``fp16``.
        notes: sentences for the report.
    """

    int8_kernels: int
    fp16_kernels: int
    int8_bytes: int
    fp16_bytes: int
    bytes_ratio: float
    recommended: str
    notes: tuple[str, ...]


def plan_cost(deploy: Path | bytes, options: BuildOptions) -> PlanCost:
    """Compiles a deploy graph with TensorRT for RTX and counts what the plan does.

    Args:
        deploy: the ONNX file, or its bytes.
        options: what the user chose; the first compute capability is the one compiled for (8.6 where none is named).

    Raises:
        UnavailableError: tensorrt-rtx is not installed.
        InputError: the graph cannot be compiled, or the builder listed no kernels.
    """
    try:
        api = TrtApi.load("tensorrt_rtx")
    except ImportError as error:
        raise UnavailableError(
            "plan cost", "tensorrt-rtx is not installed", "Install it with `pip install tensorrt-rtx`."
        ) from error
    graph = deploy if isinstance(deploy, bytes) else deploy.read_bytes()
    one = (options.compute_capabilities or ("8.6",))[:1]
    plan = build_plan(api, graph, dataclasses.replace(options, compute_capabilities=one))
    if not plan.log.layers:
        raise InputError(
            f"TensorRT for RTX {api.version_text} listed no kernels: its log format is not the one that is known here"
        )
    return cost_of_layers(plan.log.layers[0], node_macs(graph, options))


def cost_of_layers(log: str, macs: Mapping[str, int] | None = None) -> PlanCost:
    """Reads the ``Layers:`` block of a builder's verbose log. Rows that only synchronise streams are no kernels.

    Args:
        log: the block, as logged.
        macs: multiply-adds by ONNX node name.
    """
    lines = [line for line in log.splitlines() if line.startswith("Name: ") and "LayerType: " in line]
    rows = [row for row in map(_read_kernel, lines) if row.kind not in _NO_KERNELS]
    owners: dict[str, int] = {}
    for index, row in enumerate(rows):
        for node in row.nodes:
            # A node may appear in the metadata of several kernels: the one that multiplies owns it, else the last.
            if node not in owners or row.kind in _MULTIPLIES or rows[owners[node]].kind not in _MULTIPLIES:
                owners[node] = index
    totals = [0] * len(rows)
    for node, index in owners.items():
        totals[index] += (macs or {}).get(node, 0)
    return PlanCost(rows=tuple(row.model_copy(update={"macs": n}) for row, n in zip(rows, totals, strict=True)))


def node_macs(graph: bytes, options: BuildOptions) -> dict[str, int]:
    """Returns the multiply-adds of each convolution and matrix product of an ONNX file, by node name.

    Args:
        graph: the file's bytes; shapes are inferred.
        options: its largest batch and the middle size of its image are taken for what is open.
    """
    import onnx
    import onnx_ir as ir

    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load_from_string(graph)))
    batch = options.batch.max
    middle = options.sides.middle if options.sides is not None else ()
    sizes = {BATCH_DIM: batch, **dict(zip((HEIGHT_DIM, WIDTH_DIM), middle, strict=False))}
    counts: dict[str, int] = {}
    for node in model.graph:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.name is None:
            continue
        weight, result = node.inputs[1], node.outputs[0]
        if weight is None or weight.shape is None or result.shape is None:
            continue
        dims = [dim if isinstance(dim, int) else evaluated(dim.value, sizes) or batch for dim in result.shape]
        inner = [dim if isinstance(dim, int) else batch for dim in weight.shape]
        if node.op_type == "Conv":
            depth = math.prod(inner[1:])
        elif len(inner) == 1 or node.attributes.get_int("transB", 0) != 0:
            depth = inner[-1]
        else:
            depth = inner[-2]
        counts[node.name] = math.prod(dims) * depth
    return counts


def compare_int8(int8: PlanCost, fp16: PlanCost) -> Int8Comparison:
    """Says whether an INT8 plan moves fewer bytes than the FP16 plan, and which of them to ship.

    TensorRT for RTX documents INT8 convolution as weight-only: its kernels take INT8 and write FP32, so each Q/DQ
    pair adds traffic. Networks of this kind are bound by memory more often than by arithmetic, so the plan that moves
    less is recommended; a GPU has the last word.
    """
    ratio = int8.bytes_moved / fp16.bytes_moved
    figures = (
        f"{int8.kernels} kernels and {int8.bytes_moved / 1e6:.1f} MB in INT8, "
        f"against {fp16.kernels} and {fp16.bytes_moved / 1e6:.1f} MB in FP16"
    )
    wide = sum(t.bytes for row in int8.rows for t in row.outputs if t.dtype == "Float")
    if abs(ratio - 1) < EQUAL:
        notes = (
            f"The INT8 plan moves as many bytes as the FP16 plan would ({figures}): no layer of this network gains by "
            "INT8 here; build PREC=fp16 for this target.",
        )
    elif ratio > 1:
        notes = (
            f"The INT8 plan moves {100 * (ratio - 1):.0f} % more bytes than the FP16 plan would ({figures}): "
            f"{wide / 1e6:.1f} MB of what its kernels write is FP32; build PREC=fp16 for this target.",
        )
    else:
        notes = (f"The INT8 plan moves {100 * (1 - ratio):.0f} % fewer bytes than the FP16 plan would ({figures}).",)
    return Int8Comparison(
        int8.kernels,
        fp16.kernels,
        int8.bytes_moved,
        fp16.bytes_moved,
        ratio,
        "fp16" if ratio > 1 - EQUAL else "int8",
        notes,
    )


def _read_kernel(line: str) -> Kernel:
    name = line[len("Name: ") :].split(", LayerType: ", 1)[0]
    kind = line.split(", LayerType: ", 1)[1].split(",", 1)[0]
    sections = {section: _read_tensors(text) for section, text in _SECTION.findall(line)}
    return Kernel(
        name=name,
        kind=kind,
        inputs=sections.get("Inputs", ()),
        constants=sections.get("Constants", ()),
        outputs=sections.get("Outputs", ()),
        nodes=tuple(re.findall(r"\[ONNX Layer: ([^\]]*)\]", line)),
    )


def _read_tensors(text: str) -> tuple[KernelTensor, ...]:
    tensors = []
    for name, dims, dtype in _TENSOR.findall(text):
        shape = tuple(int(dim) for dim in dims.split(",") if dim)
        if dtype not in _BITS:
            raise InputError(
                f"the builder's log has a type {dtype!r} whose size is not known here: report it with the log"
            )
        tensors.append(KernelTensor(name=name, dtype=dtype, shape=shape, bytes=math.prod(shape) * _BITS[dtype] // 8))
    return tuple(tensors)
