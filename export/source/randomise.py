"""Random weights that a compiler can be tried on: live residual branches, and BatchNorm statistics of real images.

A freshly initialised network is degenerate in two ways. Its running statistics are those of no data (mean 0, variance
1), so activations grow or die with depth. And training recipes set the last BatchNorm scale of each residual branch to
zero (He et al. 2018, "bag of tricks"), so that every branch, attention block included, multiplies by zero. INT8
measured on that would mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from radixrt.errors import InputError, first_line
from radixrt.export.feed import Feed, length, shapes
from radixrt.export.source.module_inputs import ModuleInputs

ENLIVENED = 0.2
"""What a zero scale becomes.

At 1 a deep random network is chaotic, as no trained one is: with ResNeSt-50, rounding the weights to 8 bits then
leaves a cosine of 0.80 between the logits, at 0.5 of 0.89, at 0.2 of 0.99 (ResNeSt-101: 0.77, 0.82, 0.97).
"""


def enliven(module: torch.nn.Module) -> None:
    """Sets each normalisation scale or scalar gain that is zero throughout to :data:`ENLIVENED`; biases stay."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = name.endswith("weight") and parameter.ndim == 1
            gain = parameter.ndim == 0
            if (scale or gain) and not bool(parameter.any()):
                parameter.fill_(ENLIVENED)


def fit_statistics(module: torch.nn.Module, inputs: ModuleInputs, batches: Iterable[Feed]) -> None:
    """Sets every BatchNorm's running statistics to the average over ``batches``; weights and mode stay as they are.

    Args:
        module: a network in eval mode. Only its BatchNorms run in training mode meanwhile, so that dropout stays off.
        inputs: what it is called with.
        batches: its inputs, images normalised. Batches of one sample are skipped: pooled maps have no
            variance there.

    Raises:
        InputError: no batch holds two samples, or the statistics come out as NaN or infinite.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not norms:
        return
    kept = [(layer, layer.training, layer.momentum) for layer in norms]
    try:
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # a cumulative average instead of an exponential one
            layer.train()
        seen = 0
        with torch.inference_mode():
            for batch in batches:
                if length(batch) >= 2:
                    inputs.call(module, batch)
                    seen += length(batch)
    except Exception as error:  # a module may raise anything
        raise InputError(f"the model does not run on {shapes(batch)}: {first_line(error)}") from error
    finally:
        for layer, training, momentum in kept:
            layer.train(training)
            layer.momentum = momentum
    if not seen:
        raise InputError("BatchNorm statistics need at least two calibration images in one batch: give more images")
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point() and not bool(buffer.isfinite().all()):
            raise InputError(f"BatchNorm statistics fitted on the calibration images are not finite at {name}")
