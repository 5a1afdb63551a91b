"""PyTorch as the reference: what every later stage is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from radixrt.errors import RadixRTError
from radixrt.export.graph.session import open_session
from radixrt.export.source.outputs import named_outputs

_ROUNDING = 4  # the graph may be this many times as far from float64 as PyTorch in float32 is

if TYPE_CHECKING:
    import torch


def torch_outputs(module: torch.nn.Module, logits: str | None = None) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a call from normalised images, float32 (N, C, H, W), to every output by name, the logits first.

    Args:
        module: the network, which is put into eval mode.
        logits: which of several outputs is the logits, as :func:`radixrt.export.source.outputs.named_outputs` takes it.
    """
    import torch

    module.eval()

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            result = module(torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)))
        return {name: tensor.numpy() for name, tensor in named_outputs(result, logits).ordered.items()}

    return run


def torch_runner(module: torch.nn.Module, logits: str | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """The same call to the logits alone, (N, classes)."""
    run = torch_outputs(module, logits)
    return lambda images: next(iter(run(images).values()))


def onnx_outputs(model: ir.Model | onnx.ModelProto) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The same call, through onnxruntime on the CPU, the graph run as it stands. It must take the batch it is given."""
    # A reference is what the graph says, not what a runtime makes of it.
    session = open_session(model, optimize=False)
    name = session.get_inputs()[0].name
    outputs = [output.name for output in session.get_outputs()]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = session.run(outputs, {name: np.ascontiguousarray(images, dtype=np.float32)})
        return dict(zip(outputs, found, strict=True))

    return run


def onnx_runner(model: ir.Model | onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    """The same call to the first output alone, which is the logits of every graph that was read or captured."""
    run = onnx_outputs(model)
    return lambda images: next(iter(run(images).values()))


def _in_float64(module: torch.nn.Module, images: np.ndarray, logits: str | None) -> list[np.ndarray]:
    import copy

    import torch

    with torch.inference_mode():
        result = copy.deepcopy(module).double()(torch.from_numpy(images.astype(np.float64)))
    return [tensor.numpy() for tensor in named_outputs(result, logits).ordered.values()]


def hold_against(
    module: torch.nn.Module, model: ir.Model, images: np.ndarray, *, tolerance: float = 1e-3, logits: str | None = None
) -> float:
    """Runs a captured graph against PyTorch on real images.

    Args:
        module: the original.
        model: its graph. A static batch larger than the images is filled up by repeating them.
        images: normalised, float32 (N, C, H, W).
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
    batch = size[0] if size is not None and isinstance(size[0], int) else len(images)
    images = np.resize(images, (-(-len(images) // batch) * batch, *images.shape[1:]))
    expected_of, found_of = torch_outputs(module, logits), onnx_outputs(model)
    worst = 0.0
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        exact: list[np.ndarray] = []
        # Both have the logits first and the others in the module's order.
        pairs = zip(expected_of(part).items(), found_of(part).values(), strict=True)
        for index, ((name, expected), found) in enumerate(pairs):
            if not (np.isfinite(expected).all() and np.isfinite(found).all()):
                side = "PyTorch" if not np.isfinite(expected).all() else "the captured graph"
                raise RadixRTError(f"{side} returns {name} that are NaN or infinite on real images")
            error = float(np.abs(expected - found).max())
            allowed = tolerance * max(1.0, float(np.abs(expected).max()))
            if error > allowed:
                # A deep network of random weights magnifies rounding: what counts is how far PyTorch itself is off.
                exact = exact or _in_float64(module, part, logits)
                allowed += _ROUNDING * float(np.abs(expected - exact[index]).max())
                error_of_graph = float(np.abs(found - exact[index]).max())
                if error_of_graph > allowed:
                    raise RadixRTError(
                        f"the captured graph differs from PyTorch by {error:.3g} in {name} on real images, where "
                        f"{allowed:.3g} is allowed: the exporter produced another function"
                    )
            worst = max(worst, error)
    return worst
