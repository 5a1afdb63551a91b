"""A PyTorch module becomes an ONNX graph, through ``torch.export``.

The graph has the inputs of :class:`radixrt.export.source.module_inputs.ModuleInputs`. Its first output is the main
one: the logits (N x classes), called ``logits`` unless the module names its outputs itself, where there are any. A
module that returns more has more
(:mod:`radixrt.export.source.outputs`). A dynamic batch is the symbolic dimension ``batch``. Reading ONNX files is
:mod:`radixrt.export.reader.onnx_file`.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from radixrt.errors import InputError, first_line
from radixrt.export.feed import Feed, length, shapes
from radixrt.export.graph.origin import NAME_SCOPES, set_module
from radixrt.export.sides import BATCH_DIM, HEIGHT_DIM, WIDTH_DIM, Sides, Size, refuse_sides
from radixrt.export.source.module_inputs import ModuleInputs, parameters
from radixrt.export.source.outputs import OUTPUT_NAME, NamedOutputs, named_outputs, plain
from radixrt.export.source.quiet import quiet
from radixrt.export.spec import BatchSpec, InputSpec

if TYPE_CHECKING:
    import torch

__all__ = ["OUTPUT_NAME", "capture"]


def capture(
    module: torch.nn.Module,
    inputs: ModuleInputs,
    batch: BatchSpec | None = None,
    *,
    opset: int = 18,
    logits: str | None = None,
    sides: Sides | None = None,
) -> ir.Model:
    """Exports a network to ONNX.

    Args:
        module: returns one tensor or several, with a row for each sample, or of any shape where the batch is one. It is
            put into eval mode.
        inputs: what it is called with; sides that are not known are those of ``sides``.
        batch: the batch sizes the graph must accept; one static image by default.
        opset: the ONNX opset, 18 or later.
        logits: which of several outputs is the logits, as :func:`radixrt.export.source.outputs.named_outputs` takes it.
        sides: the sizes of its image, where they stay free: all that :func:`refuse_module_sides` lets pass.

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
    feed = _zeros(inputs, size, sides.between if sides is not None else (0, 0))
    named = _outputs(module, inputs, feed, logits)
    args, kwargs = inputs.filled({name: torch.from_numpy(array) for name, array in feed.items()})
    if args and isinstance(args[-1], dict):  # which the exporter would take for the keywords
        args, kwargs = (), {**dict(zip(parameters(module).names, args, strict=False)), **kwargs}
    try:
        with quiet("torch", "onnxscript", "onnx_ir"), _flat(module, feed, logits), _renamed(module):
            program = torch.onnx.export(
                module,
                args,
                kwargs=kwargs,
                dynamo=True,
                opset_version=opset,
                input_names=[spec.name for spec in inputs.specs],
                output_names=list(named.tensors),
                dynamic_shapes=_free(module, inputs, batch, sides) if batch.dynamic or sides is not None else None,
                verbose=False,
            )
    except Exception as error:  # the exporter documents no bound on what it raises
        raise InputError(_not_captured(first_line(_root_cause(error)))) from error
    assert program is not None
    model: ir.Model = program.model
    outputs = {value.name: value for value in model.graph.outputs}
    model.graph.outputs[:] = [outputs[name] for name in named.ordered]
    _name_convolutions(model)
    for value, spec in zip(model.graph.inputs, inputs.specs, strict=True):
        if None in spec.shape[1:] and value.shape is not None:
            # The exporter calls a height in steps of 32 "32*height".
            axes = _free_axes(spec)
            value.shape = ir.Shape([axes.get(place, side) for place, side in enumerate(value.shape)])
    return model


def _not_captured(why: str) -> str:
    if "data-dependent" not in why:
        return f"torch.export cannot capture this model: {why}"
    return (
        f"torch.export cannot capture this model, whose path depends on the numbers ({why.rstrip('. ')}): where every "
        "image takes the same, as in detectors, compile what torch.onnx.export(..., dynamo=False) writes"
    )


@contextmanager
def _flat(module: torch.nn.Module, feed: Feed, logits: str | None) -> Iterator[None]:
    """Lets a module return the tensors of its outputs as one tuple: the exporter knows few kinds of structures."""

    def flatten(module: torch.nn.Module, args: object, result: object) -> tuple[torch.Tensor, ...]:
        found = named_outputs(result, logits, feed).tensors.values()
        # A tensor that is returned twice, or is an input, needs a value of its own to have a name of its own.
        return tuple(plain(tensor).clone() for tensor in found)

    hook = module.register_forward_hook(flatten)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _renamed(module: torch.nn.Module) -> Iterator[None]:
    """Gives what a module owns by a name of torch.fx's own (``meta``, ``graph``) another, or it is overwritten."""
    from torch.fx import GraphModule

    owners: tuple[MutableMapping[str, Any], ...] = (module._modules, module._parameters, module._buffers)
    kept = [(owned, dict(owned)) for owned in owners]
    reserved = {name for _, before in kept for name in before if name == "meta" or hasattr(GraphModule, name)}
    for owned, before in kept:
        owned.clear()
        owned.update({f"{name}_" if name in reserved else name: value for name, value in before.items()})
        # The module itself goes on finding it by the name that it wrote.
        module.__dict__.update({name: value for name, value in before.items() if name in reserved})
    try:
        yield
    finally:
        for owned, before in kept:
            owned.clear()
            owned.update(before)
        for name in reserved:
            del module.__dict__[name]


def _zeros(inputs: ModuleInputs, count: int, size: Size) -> Feed:
    """So many samples of nothing, images of ``size`` where their sides are free."""
    free = dict(zip((HEIGHT_DIM, WIDTH_DIM), size, strict=True))
    found = {}
    for spec in inputs.specs:
        axes = _free_axes(spec)
        sides = (free[axes[place]] if place in axes else side for place, side in enumerate(spec.shape[1:], start=1))
        found[spec.name] = np.zeros((count, *map(int, sides)), spec.dtype)  # type: ignore[arg-type]
    return found


def _free_axes(spec: InputSpec) -> dict[int, str]:
    """The axes of an image's free sides, with their names."""
    if len(spec.shape) != 4:
        return {}
    return {place: name for place, name in ((2, HEIGHT_DIM), (3, WIDTH_DIM)) if spec.shape[place] is None}


def refuse_module_sides(module: torch.nn.Module, inputs: ModuleInputs, sides: Sides) -> None:
    """Tries a network at a few sizes of a range; the layer that fails, and what it says, is why it does not take one.

    Raises:
        InputError: it does not run at one of them, as :func:`radixrt.export.sides.refuse_sides` says it.
    """
    import torch

    module.eval()

    def failure(size: Size) -> str:
        try:
            with torch.inference_mode():
                inputs.call(module, _zeros(inputs, 1, size))
        except Exception as error:  # a module may raise anything
            return f"{_layer_of(error, module)}{first_line(_root_cause(error)).rstrip('.')}"
        return ""

    refuse_sides(failure, sides, "the model")


def _layer_of(error: BaseException, module: torch.nn.Module) -> str:
    """The innermost layer that an error went through, to begin a clause with."""
    import torch

    names = {id(layer): name for name, layer in module.named_modules()}
    found, trace = "", error.__traceback__
    while trace is not None:
        own = trace.tb_frame.f_locals.get("self")
        if isinstance(own, torch.nn.Module):
            found = names.get(id(own), "") or found
        trace = trace.tb_next
    return f"{found}: " if found else ""


def _free(module: torch.nn.Module, inputs: ModuleInputs, batch: BatchSpec, sides: Sides | None) -> Any:
    """The free dimensions of every input, the samples' and an image's, in the structure of the module's arguments."""
    import torch

    free: dict[str, Any] = {}
    if batch.dynamic:
        free[BATCH_DIM] = torch.export.Dim(BATCH_DIM, min=batch.min, max=batch.max)
    for name, side in ((HEIGHT_DIM, sides.height), (WIDTH_DIM, sides.width)) if sides is not None else ():
        if not side.free:
            continue
        if side.step > 1 and side.min % side.step == 0:
            # Told of the step, torch.export need not prove that the network takes what lies between.
            free[name] = side.step * torch.export.Dim(name, min=side.min // side.step, max=side.max // side.step)
        else:
            free[name] = torch.export.Dim(name, min=side.min, max=side.max)
    named_axes = {spec.name: {0: BATCH_DIM, **_free_axes(spec)} for spec in inputs.specs}
    args, kwargs = inputs.filled(
        {name: {place: free[dim] for place, dim in axes.items() if dim in free} for name, axes in named_axes.items()}
    )
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
    for name, tensor in named.tensors.items():
        # What one sample gives alone may have any shape: boxes, anchors, a number.
        if count > 1 and (tensor.ndim == 0 or tensor.shape[0] != count):
            raise InputError(
                f"the model returns {name} of shape {tuple(tensor.shape)} for {shape}, which has no row for each "
                "sample: leave it out, or build for one sample (--batch 1)"
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
