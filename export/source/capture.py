"""A PyTorch module becomes an ONNX graph, through ``torch.export``.

The graph has one input, ``input`` (float32, N x C x H x W, already normalised). Its first output is the main
one: the logits (N x classes), called ``logits`` unless the module names its outputs itself, where there are any. A
module that returns more has more
(:mod:`radixrt.export.source.outputs`). A dynamic batch is the symbolic dimension ``batch``. Reading ONNX files is
:mod:`radixrt.export.reader.onnx_file`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from radixrt.errors import InputError, first_line
from radixrt.export.feed import IMAGE_INPUT
from radixrt.export.graph.origin import NAME_SCOPES, set_module
from radixrt.export.reader.onnx_file import BATCH_DIM
from radixrt.export.source.outputs import OUTPUT_NAME, NamedOutputs, named_outputs
from radixrt.export.source.quiet import quiet
from radixrt.export.spec import BatchSpec

if TYPE_CHECKING:
    import torch

__all__ = ["BATCH_DIM", "OUTPUT_NAME", "capture"]


def capture(
    module: torch.nn.Module,
    input_size: tuple[int, int, int],
    batch: BatchSpec | None = None,
    *,
    opset: int = 18,
    logits: str | None = None,
) -> ir.Model:
    """Exports a network to ONNX.

    Args:
        module: takes a float32 tensor (N, C, H, W) and returns one tensor or several, with a row per image each.
            It is put into eval mode.
        input_size: channels, height, width.
        batch: the batch sizes the graph must accept; one static image by default.
        opset: the ONNX opset, 18 or later.
        logits: which of several outputs is the logits, as :func:`radixrt.export.source.outputs.named_outputs` takes it.

    Returns:
        The graph, with the torch module path in each node's metadata; not yet simplified.

    Raises:
        InputError: the module does not run on such an input, returns something else than tensors, or cannot be
            exported.
    """
    import torch

    batch = batch or BatchSpec()
    if opset < 18:
        raise InputError(f"cannot export at opset {opset}: the exporter starts at 18")
    module.eval()
    # A batch of one would be taken for a constant where the batch is dynamic.
    example = torch.zeros(max(2, batch.max) if batch.dynamic else batch.max, *input_size)
    named = _outputs(module, example, logits)
    shapes: Any = ({0: torch.export.Dim(BATCH_DIM, min=batch.min, max=batch.max)},) if batch.dynamic else None
    try:
        with quiet("torch", "onnxscript", "onnx_ir"):
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[IMAGE_INPUT],
                output_names=list(named.tensors),
                dynamic_shapes=shapes,
                verbose=False,
            )
    except Exception as error:  # the exporter documents no bound on what it raises
        raise InputError(f"torch.export cannot capture this model: {first_line(_root_cause(error))}") from error
    assert program is not None
    model: ir.Model = program.model
    outputs = {value.name: value for value in model.graph.outputs}
    model.graph.outputs[:] = [outputs[name] for name in named.ordered]
    _name_convolutions(model)
    return model


def _outputs(module: torch.nn.Module, example: torch.Tensor, logits: str | None) -> NamedOutputs:
    import torch

    shape = "x".join(str(size) for size in example.shape)
    try:
        with torch.inference_mode():
            output = module(example)
    except Exception as error:  # a module may raise anything
        raise InputError(f"the model does not run on an input of {shape}: {first_line(_root_cause(error))}") from error
    named = named_outputs(output, logits)
    for name, tensor in named.tensors.items():
        if tensor.ndim == 0 or tensor.shape[0] != example.shape[0] or tensor.dtype != torch.float32:
            found = f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
            raise InputError(
                f"the model returns {name} as {found} for an input of {shape}: wrap it in a module whose outputs are "
                "float32 and have one row per image"
            )
    return named


def _name_convolutions(model: ir.Model) -> None:
    """Names a convolution that swallowed its BatchNorm after itself: the fusion leaves the BatchNorm's scope on it."""
    for node in model.graph:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.inputs) < 2:
            continue
        weight = node.inputs[1]
        if weight is None or not weight.is_initializer() or not (weight.name or "").endswith(".weight"):
            continue
        if "batch_norm" in node.metadata_props.get(NAME_SCOPES, ""):
            set_module(node, (weight.name or "").removesuffix(".weight"))


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
