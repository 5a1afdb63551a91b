"""A file of any precision as the float32 graph that is compiled: the build alone decides a precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from radixrt.errors import InputError
from radixrt.export.passes.float32 import has_double, has_half, to_float32
from radixrt.export.reader.quantised import dequantised, quantised_tensors
from radixrt.export.spec import Precision

_OTHERS = {ir.DataType.FLOAT16: "FP16", ir.DataType.DOUBLE: "double"}


def in_float32(model: ir.Model, path: Path, remark: Callable[[str], None], *, keep_pairs: bool = False) -> ir.Model:
    """Returns a graph without FP16, double and INT8 arithmetic: ``model`` itself where it has none.

    Args:
        model: a graph that was read from a file.
        path: the file, to speak of.
        remark: takes a sentence on what was changed.
        keep_pairs: a quantised file's pairs are put back later.

    Raises:
        InputError: the graph is quantised in a way that cannot be taken off.
    """
    if count := quantised_tensors(model):
        try:
            model = dequantised(model)
        except InputError as error:
            raise InputError(f"{path} is quantised already: {error}") from error
        how = (
            f"keeps its {count} Q/DQ pairs, with their own scales"
            if keep_pairs
            else f"has its {count} Q/DQ pairs taken off (weights keep their rounded values)"
        )
        remark(f"{path} is quantised already: what is made of it {how}; as the original it runs as it stands.")
    elif keep_pairs:
        raise InputError(f"{path} is not quantised, so it has no pairs to keep: leave --own-pairs out")
    if has_half(model) or has_double(model):
        made = {node.outputs[0].dtype for node in model.graph if node.op_type != "Cast"}
        if others := [name for dtype, name in _OTHERS.items() if dtype in made]:
            remark(
                f"{path} computes in {' and '.join(others)}: what is made of it takes its numbers as float32; as the "
                "original it runs as it stands."
            )
        model = to_float32(model)
    return model


def demand_float(model: ir.Model, path: Path, asked: Precision = Precision.FP32) -> None:
    """Holds a graph that is used as it stands to the precision it is said to have: nothing in it may be narrower.

    Raises:
        InputError: it holds Q/DQ pairs, or FP16 tensors where float32 is meant.
    """
    if asked is not Precision.INT8 and quantised_tensors(model):
        what = "is quantised already"
    elif asked is Precision.FP32 and has_half(model):
        what = "holds FP16 tensors"
    else:
        return
    raise InputError(f"{path} {what}: `radixrt rewrite {path} -o float.onnx` writes it in float32, to go on with")
