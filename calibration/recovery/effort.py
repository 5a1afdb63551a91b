"""How much of a search a network's size leaves room for: images, groups of layers, techniques.

A search is bounded by the multiplications of its forward passes, not by a clock, so that it finds the same on a slow
machine: large networks get fewer images and larger groups of layers, then none. Each layer's own error on a few images
is corrected in a network of any size: that costs little beside calibrating it, and gives back what weights in pairs
take (``saturation.py``).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import onnx_ir as ir

from radixrt.calibration.recovery.techniques import LOCAL_PASSES, RANGE_CHOICES, Technique
from radixrt.export.graph.layers import layers_of, macs_of

WORK = 7e11
"""Multiplications that one search may take by default: all techniques for a ResNeSt-50."""

FEWEST_IMAGES = 4
"""As many are fitted to, and judge, in the largest networks: their maps have positions enough for a channel's mean."""

_GROUPS = (12, 6)
"""Groups of layers, in order, that bias correction measures and mends one after another: the finest that fits."""
_ALONE = (0,)
"""No groups: each layer is corrected for its own error, and for nothing else."""
_ENOUGH_IMAGES, _LEAST_IMAGES = 32, 8


@dataclass(frozen=True)
class Effort:
    """How much of a search fits.

    Attributes:
        images: that are fitted to or judge.
        groups: of layers for bias correction.
        techniques: those that are tried at all.
        passes: the forward passes that are allowed.
    """

    images: int
    groups: int
    techniques: frozenset[Technique]
    passes: int


def effort_for(model: ir.Model, images: int, work: float = WORK) -> Effort:
    """What a search may take: every technique on enough images, else the most images with ranges chosen.

    Args:
        model: the float32 graph.
        images: as many as there are, at most.
        work: multiplications that all forward passes together may take.
    """
    # A pass runs every layer, whether it is quantised or not.
    passes = int(work / max(sum(macs_of(layer) for layer in layers_of(model.graph)), 1))
    sizes = sorted({images, *(n for n in (64, 32, 16, _LEAST_IMAGES) if n < images)}, reverse=True)
    enough = [count for count in sizes if count >= _ENOUGH_IMAGES]
    fewer = [*sizes, FEWEST_IMAGES] if images > FEWEST_IMAGES else sizes
    every, bias = frozenset(Technique), frozenset({Technique.BIAS})
    with_ranges = (every, bias | {Technique.RANGES})
    orders = (
        (enough, (every,), _GROUPS),
        (sizes, with_ranges, _GROUPS),
        (fewer, with_ranges, _ALONE),
        (fewer, (bias,), _ALONE),
    )
    for counts, choices, groupings in orders:
        for count, techniques, groups in itertools.product(counts, choices, groupings):
            prices = _passes(count, groups)
            if sum(prices[technique] for technique in techniques) <= passes:
                return Effort(count, groups, techniques, passes)
    return Effort(fewer[-1], 0, bias, passes)


def _passes(images: int, groups: int) -> dict[Technique, int]:
    """The forward passes that each technique takes."""
    judges = judging(images)
    fitted = images - judges
    return {
        # Each group of bias correction sees the fitted images, and so does the float network; the judges, twice on the
        # way, and what came of either way.
        Technique.BIAS: fitted * LOCAL_PASSES + judges + (fitted * (groups + 1) + judges * 3 if groups else 0),
        # Each layer's own error once in either graph, and what came of it.
        Technique.EQUALISE: fitted * 2 + judges * 3,
        Technique.RANGES: RANGE_CHOICES * images,
    }


def judging(images: int) -> int:
    """How many images judge: half of them, for a difference of two techniques is smaller than that of two images."""
    return images // 2
