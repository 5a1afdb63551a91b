"""PyTorch as the reference: what every later stage is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from radixrt.errors import RadixRTError
from radixrt.export.feed import Feed, length, part, repeated
from radixrt.export.graph.session import onnx_outputs
from radixrt.export.source.module_inputs import ModuleInputs
from radixrt.export.source.outputs import named_outputs, plain

_ROUNDING = 4  # the graph may be this many times as far from float64 as PyTorch in float32 is

if TYPE_CHECKING:
    import torch


def torch_outputs(
    module: torch.nn.Module, inputs: ModuleInputs, logits: str | None = None
) -> Callable[[Feed], dict[str, np.ndarray]]:
    """Returns a call from inputs by name, images normalised, to every output by name, the logits first.

    Args:
        module: the network, which is put into eval mode.
        inputs: what it is called with.
        logits: which of several outputs is the logits, as :func:`radixrt.export.source.outputs.named_outputs` takes it.
    """
    import torch

    module.eval()

    def run(feed: Feed) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            result = inputs.call(module, feed)
        return {name: plain(tensor).numpy() for name, tensor in named_outputs(result, logits, feed).ordered.items()}

    return run


def torch_runner(
    module: torch.nn.Module, inputs: ModuleInputs, logits: str | None = None
) -> Callable[[Feed], np.ndarray]:
    """The same call to the logits alone, (N, classes)."""
    run = torch_outputs(module, inputs, logits)
    return lambda feed: next(iter(run(feed).values()))


def onnx_runner(model: ir.Model | onnx.ModelProto) -> Callable[[Feed], np.ndarray]:
    """The same call to the first output alone, which is the logits of every graph that was read or captured."""
    run = onnx_outputs(model)
    return lambda feed: next(iter(run(feed).values()))


def _in_float64(module: torch.nn.Module, inputs: ModuleInputs, feed: Feed, logits: str | None) -> list[np.ndarray]:
    import copy

    import torch

    with torch.inference_mode():
        wide = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in feed.items()}
        result = inputs.call(copy.deepcopy(module).double(), wide)
    return [tensor.numpy() for tensor in named_outputs(result, logits, feed).ordered.values()]


def hold_against(
    module: torch.nn.Module,
    inputs: ModuleInputs,
    model: ir.Model,
    samples: Feed,
    *,
    tolerance: float = 1e-3,
    logits: str | None = None,
) -> float:
    """Runs a captured graph against PyTorch on real images.

    Args:
        module: the original.
        inputs: what it is called with.
        model: its graph. A static batch larger than the samples is filled up by repeating them.
        samples: its inputs.
        tolerance: the largest difference allowed, as a share of the largest value of that output (or of 1 where that
            is smaller). Both sides add float32 numbers in another order; over eleven networks of random weights and up
            to a hundred convolutions that made 5e-7 to 4e-4 of the logits.
        logits: which of several outputs is the logits.

    Returns:
        The largest absolute difference of any output.

    Raises:
        RadixRTError: the difference is larger, and not for rounding (the graph is then also much farther from the
            module in float64 than the module in float32 is), or an output is not finite.
    """
    size = model.graph.inputs[0].shape
    batch = size[0] if size is not None and isinstance(size[0], int) else length(samples)
    samples = repeated(samples, -(-length(samples) // batch) * batch)
    expected_of, found_of = torch_outputs(module, inputs, logits), onnx_outputs(model)
    worst = 0.0
    for start in range(0, length(samples), batch):
        few = part(samples, start, start + batch)
        exact: list[np.ndarray] = []
        # Both have the logits first and the others in the module's order.
        pairs = zip(expected_of(few).items(), found_of(few).values(), strict=True)
        for index, ((name, expected), found) in enumerate(pairs):
            if not (np.isfinite(expected).all() and np.isfinite(found).all()):
                side = "PyTorch" if not np.isfinite(expected).all() else "the captured graph"
                raise RadixRTError(f"{side} returns {name} that are NaN or infinite on real images")
            if expected.dtype.kind != "f":
                expected, found = expected.astype(np.float32), found.astype(np.float32)
            error = float(np.abs(expected - found).max())
            allowed = tolerance * max(1.0, float(np.abs(expected).max()))
            if error > allowed:
                # A deep network of random weights magnifies rounding: what counts is how far PyTorch itself is off.
                exact = exact or _in_float64(module, inputs, few, logits)
                allowed += _ROUNDING * float(np.abs(expected - exact[index]).max())
                error_of_graph = float(np.abs(found - exact[index]).max())
                if error_of_graph > allowed:
                    raise RadixRTError(
                        f"the captured graph differs from PyTorch by {error:.3g} in {name} on real images, where "
                        f"{allowed:.3g} is allowed: the exporter produced another function"
                    )
            worst = max(worst, error)
    return worst
