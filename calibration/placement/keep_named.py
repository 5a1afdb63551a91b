"""Keeping rule: what the user, or accuracy recovery, named."""

from __future__ import annotations

from radixrt.calibration.placement.options import PlacementOptions
from radixrt.export.graph.layers import Layer
from radixrt.export.graph.origin import module_of


def covers(names: frozenset[str], layer: Layer) -> bool:
    """Whether a layer is named: by its node, its output tensor, its torch module, or a module around it."""
    module = module_of(layer.node)
    if {layer.node.name, layer.output.name, module} & names:
        return True
    return any(module.startswith(f"{name}.") for name in names)


def reason(layer: Layer, options: PlacementOptions) -> str | None:
    """Why the layer stays in float; None where this rule has no objection."""
    if options.only is not None and not covers(options.only, layer):
        return "not among the layers asked for"
    if options.exclude and covers(options.exclude, layer):
        return "kept in float on request"
    return None
