"""A PyTorch module becomes an ONNX graph, through ``torch.export``.

The graph has the inputs of :class:`radixrt.export.source.module_inputs.ModuleInputs`. Its first output is the main
one: the logits (N x classes), called ``logits`` unless the module names its outputs itself, where there are any. A
module that returns more has more
(:mod:`radixrt.export.source.outputs`). A dynamic batch is the symbolic dimension ``batch``. Reading ONNX files is
:mod:`radixrt.export.reader.onnx_file`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from radixrt.errors import InputError, first_line
from radixrt.export.feed import Feed, length, shapes
from radixrt.export.graph.origin import NAME_SCOPES, set_module
from radixrt.export.reader.onnx_file import BATCH_DIM
from radixrt.export.source.module_inputs import ModuleInputs, parameters
from radixrt.export.source.outputs import OUTPUT_NAME, NamedOutputs, named_outputs
from radixrt.export.source.quiet import quiet
from radixrt.export.spec import BatchSpec

if TYPE_CHECKING:
    import torch

__all__ = ["BATCH_DIM", "OUTPUT_NAME", "capture"]


def capture(
    module: torch.nn.Module,
    inputs: ModuleInputs,
    batch: BatchSpec | None = None,
    *,
    opset: int = 18,
    logits: str | None = None,
) -> ir.Model:
    """Exports a network to ONNX.

    Args:
        module: returns one tensor or several, with a row for each sample. It is put into eval mode.
        inputs: what it is called with, of known sides.
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
    size = max(2, batch.max) if batch.dynamic else batch.max
    feed = {spec.name: np.zeros((size, *map(int, spec.shape[1:])), spec.dtype) for spec in inputs.specs}  # type: ignore[arg-type]
    named = _outputs(module, inputs, feed, logits)
    args, kwargs = inputs.filled({name: torch.from_numpy(array) for name, array in feed.items()})
    if args and isinstance(args[-1], dict):  # which the exporter would take for the keywords
        args, kwargs = (), {**dict(zip(parameters(module).names, args, strict=False)), **kwargs}
    try:
        with quiet("torch", "onnxscript", "onnx_ir"):
            program = torch.onnx.export(
                module,
                args,
                kwargs=kwargs,
                dynamo=True,
                opset_version=opset,
                input_names=[spec.name for spec in inputs.specs],
                output_names=list(named.tensors),
                dynamic_shapes=_free_batch(module, inputs, batch) if batch.dynamic else None,
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


def _free_batch(module: torch.nn.Module, inputs: ModuleInputs, batch: BatchSpec) -> Any:
    """The first axis of every input as one free dimension, in the structure of the module's arguments."""
    import torch

    free = torch.export.Dim(BATCH_DIM, min=batch.min, max=batch.max)
    args, kwargs = inputs.filled({spec.name: {0: free} for spec in inputs.specs})
    named = kwargs or (args and isinstance(args[-1], dict))
    return {**dict(zip(parameters(module).names, args, strict=False)), **kwargs} if named else args


def _outputs(module: torch.nn.Module, inputs: ModuleInputs, feed: Feed, logits: str | None) -> NamedOutputs:
    import torch

    shape, count = shapes(feed), length(feed)
    try:
        with torch.inference_mode():
            output = inputs.call(module, feed)
    except Exception as error:  # a module may raise anything
        raise InputError(f"the model does not run on {shape}: {first_line(_root_cause(error))}") from error
    named = named_outputs(output, logits, feed)
    kinds = (torch.float32, torch.uint8, torch.int32, torch.int64, torch.bool)
    for name, tensor in named.tensors.items():
        if tensor.ndim == 0 or tensor.shape[0] != count or tensor.dtype not in kinds:
            found = f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
            raise InputError(
                f"the model returns {name} as {found} for {shape}: wrap it in a module whose outputs are float32, "
                "integers or bool and have one row per sample"
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
