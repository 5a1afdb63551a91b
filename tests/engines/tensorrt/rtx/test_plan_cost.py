from __future__ import annotations

import onnx
import onnx.parser
import pytest

from radixrt.engines.base import BuildOptions
from radixrt.engines.tensorrt.rtx.plan_cost import (
    Kernel,
    KernelTensor,
    PlanCost,
    compare_int8,
    cost_of_layers,
    node_macs,
)
from radixrt.errors import InputError
from radixrt.export.spec import BatchSpec, Precision
from tests.networks import gated

# Two kernels of a real log: a convolution in FP16, and the cast in front of it, which carries the convolution's name
# too.
LOG = (
    "Layers:\n"
    "Name: __myl_CastConc_myl0_0, LayerType: kgen, Inputs: [ { Name: input, Dimensions: [1,3,64,64], "
    "Strides: [12288,4096,64,1], StrideOrder: [3,2,1,0], Datatype: Float, Format: (Linear) Row major linear format }], "
    "Constants: [], Outputs: [ { Name: r.1, Dimensions: [1,4,64,64], Strides: [16384,1,256,4], StrideOrder: [3,0,2,1], "
    "Datatype: Half, Format: (NHWC) Channel major format }], TacticName: __myl_CastConc_0x0d, StreamId: 0, "
    "Metadata: [ONNX Layer: cast][ONNX Layer: conv]\n"
    "Name: conv_myl0_1, LayerType: correlation, Inputs: [ { Name: r.1, Dimensions: [1,4,64,64], "
    "Strides: [16384,1,256,4], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], "
    "Constants: [ { Name: w, Dimensions: [16,4,3,3], Strides: [36,1,12,4], StrideOrder: [3,0,2,1], Datatype: Half, "
    "Format: (NHWC) Channel major format }, { Name: one, Dimensions: [1], Strides: [1], StrideOrder: [0], "
    "Datatype: Float, Format: (Linear) Row major linear format }], Outputs: [ { Name: out, Dimensions: [1,16,64,64], "
    "Strides: [65536,1,1024,16], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], "
    "TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: conv]\n"
    "\nI/O Tensors:\n Name: input, IOMode: Input, DataType: Float, Dimensions: [1,3,64,64], Location: Device\n"
)


def test_a_log_is_read_into_kernels_with_their_bytes() -> None:
    cost = cost_of_layers(LOG, {"conv": 1000})
    assert [(row.name, row.kind) for row in cost.rows] == [
        ("__myl_CastConc_myl0_0", "kgen"),
        ("conv_myl0_1", "correlation"),
    ]
    cast, conv = cost.rows
    assert (cast.bytes_read, cast.bytes_written) == (3 * 64 * 64 * 4, 4 * 64 * 64 * 2)
    assert conv.bytes_read == 4 * 64 * 64 * 2 + 16 * 4 * 9 * 2 + 4
    assert cost.bytes_moved == cast.bytes_read + cast.bytes_written + conv.bytes_read + conv.bytes_written
    assert PlanCost.model_validate_json(cost.model_dump_json()) == cost


# Streams that wait for each other launch nothing; an SK plan lists 64 such rows beside its kernels.
def test_rows_that_synchronise_streams_are_no_kernels() -> None:
    rows = "".join(f"Name: sync_{kind}, LayerType: {kind}, Inputs: [], Outputs: []\n" for kind in ("signal", "wait"))
    cost = cost_of_layers(LOG.replace("\nI/O Tensors", f"{rows}\nI/O Tensors"))
    assert cost == cost_of_layers(LOG)
    assert cost.kernels == 2


# The convolution's work must be counted once, and in the kernel that multiplies.
def test_multiply_adds_go_to_the_kernel_that_multiplies() -> None:
    assert [row.macs for row in cost_of_layers(LOG, {"conv": 1000}).rows] == [0, 1000]


def test_a_type_of_unknown_size_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(InputError, match="Posit"):
        cost_of_layers(LOG.replace("Datatype: Half", "Datatype: Posit"))


def test_a_product_with_a_vector_is_counted_too() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N,6] x, float[6] v) => (float[N] y) { y = MatMul(x, v) }'
    )
    model.graph.node[0].name = "product"
    assert node_macs(model.SerializeToString(), BuildOptions(Precision.FP32, BatchSpec(1, 4))) == {"product": 4 * 6}


def test_multiply_adds_of_a_graph_are_those_of_the_formula() -> None:
    counts = node_macs(gated.tiny("fp32", "batch").SerializeToString(), BuildOptions(Precision.FP32, BatchSpec(1, 2)))
    assert counts["/net/conv"] == 2 * 32 * 16 * 16 * 27
    assert counts["/net/gate"] == 2 * 32 * 32
    assert counts["/net/logits"] == 2 * gated.CLASSES * 32


def plan(size: int, dtype: str = "Half") -> PlanCost:
    tensor = KernelTensor(name="t", dtype=dtype, shape=(size,), bytes=size)
    return PlanCost(rows=(Kernel(name="k", kind="kgen", inputs=(), constants=(), outputs=(tensor,), nodes=()),))


# The user asked for INT8 and must hear that it is the slower plan, with the figures.
def test_an_int8_plan_that_moves_more_is_told_and_the_other_recommended() -> None:
    worse = compare_int8(plan(126_000_000, "Float"), plan(100_000_000))
    assert (worse.recommended, round(worse.bytes_ratio, 2)) == ("fp16", 1.26)
    assert "26 % more" in worse.notes[0]
    assert "PREC=fp16" in worse.notes[0]
    equal = compare_int8(plan(100_100_000), plan(100_000_000))
    assert equal.recommended == "fp16" and "as many bytes" in equal.notes[0]
    better = compare_int8(plan(80_000_000), plan(100_000_000))
    assert better.recommended == "int8"
    assert "20 % fewer" in better.notes[0]
