"""PyTorch as the reference: what every later stage is held against."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from radixrt.errors import RadixRTError

_ROUNDING = 4  # the graph may be this many times as far from float64 as PyTorch in float32 is

if TYPE_CHECKING:
    import torch


def torch_runner(module: torch.nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a call from normalised images, float32 (N, C, H, W), to logits, float32 (N, classes)."""
    import torch

    module.eval()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = module(torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))).numpy()
        return logits

    return run


def onnx_runner(model: ir.Model | onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    """The same call, through onnxruntime on the CPU, the graph run as it stands. It must take the batch it is given."""
    import onnxruntime as ort

    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # A reference is what the graph says, not what a runtime makes of it.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = session.run(None, {name: np.ascontiguousarray(images, dtype=np.float32)})[0]
        return logits

    return run


def _in_float64(module: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    import copy

    import torch

    with torch.inference_mode():
        exact: np.ndarray = copy.deepcopy(module).double()(torch.from_numpy(images.astype(np.float64))).numpy()
    return exact


def hold_against(module: torch.nn.Module, model: ir.Model, images: np.ndarray, *, tolerance: float = 1e-3) -> float:
    """Runs a captured graph against PyTorch on real images.

    Args:
        module: the original.
        model: its graph. A static batch larger than the images is filled up by repeating them.
        images: normalised, float32 (N, C, H, W).
        tolerance: the largest difference allowed, as a share of the largest logit (or of 1 where that is smaller).
            Both sides add float32 numbers in another order; over eleven networks of random weights and up to a hundred
            convolutions that made 5e-7 to 4e-4.

    Returns:
        The largest absolute difference between the logits.

    Raises:
        RadixRTError: the difference is larger, and not for rounding (the graph is then also much farther from the
            module in float64 than the module in float32 is), or the logits are not finite.
    """
    size = model.graph.inputs[0].shape
    batch = size[0] if size is not None and isinstance(size[0], int) else len(images)
    images = np.resize(images, (-(-len(images) // batch) * batch, *images.shape[1:]))
    expected_of, found_of = torch_runner(module), onnx_runner(model)
    worst = 0.0
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        expected, found = expected_of(part), found_of(part)
        if not (np.isfinite(expected).all() and np.isfinite(found).all()):
            side = "PyTorch" if not np.isfinite(expected).all() else "the captured graph"
            raise RadixRTError(f"{side} returns logits that are NaN or infinite on real images")
        error = float(np.abs(expected - found).max())
        allowed = tolerance * max(1.0, float(np.abs(expected).max()))
        if error > allowed:
            # A deep network of random weights magnifies rounding: what counts then is how far PyTorch itself is off.
            exact = _in_float64(module, part)
            allowed += _ROUNDING * float(np.abs(expected - exact).max())
            error_of_graph = float(np.abs(found - exact).max())
            if error_of_graph > allowed:
                raise RadixRTError(
                    f"the captured graph differs from PyTorch by {error:.3g} on real images, where "
                    f"{allowed:.3g} is allowed: "
                    "the exporter produced another function"
                )
        worst = max(worst, error)
    return worst
