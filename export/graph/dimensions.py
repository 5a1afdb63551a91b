"""Names for the symbolic dimensions of a graph whose image has free sides: what each is of ``height`` and ``width``.

Shape inference knows that two sides of a feature map are free and calls them ``unk__17`` and ``unk__18``. Here every
such dimension is computed at a few sizes, and what it comes to is its name: ``height/4``, ``2*width``,
``height*width/256``. One that is no such product at those sizes keeps the name it has.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from fractions import Fraction
from math import prod

import onnx_ir as ir

from radixrt.export.graph.shapes import Sizes, concretise
from radixrt.export.sides import BATCH_DIM, HEIGHT_DIM, WIDTH_DIM, Sides, ranges_noted

_FACTORS = (BATCH_DIM, HEIGHT_DIM, WIDTH_DIM)


def name_dimensions(model: ir.Model, sides: Sides) -> None:
    """Names every free dimension of ``model`` that is a product of batch, height and width, in place.

    The ranges themselves are noted in the model, whose file then says them to whatever reads it next.
    """
    model.metadata_props.update(ranges_noted(sides))
    probes = Sizes.probes(sides)
    found = [concretise(model.graph, sizes) for sizes in probes]
    whole = [(sizes.batch, sizes.height, sizes.width) for sizes in probes]
    known: dict[tuple[int, ...], str | None] = {}
    for value in (value for node in model.graph for value in node.outputs):
        if value.shape is None or all(isinstance(side, int) for side in value.shape):
            continue
        shapes = [at.shapes.get(value) for at in found]
        if any(shape is None or len(shape) != len(value.shape) for shape in shapes):
            continue
        named = []
        for side, sizes in zip(value.shape, zip(*shapes, strict=True), strict=True):
            if sizes not in known:
                known[sizes] = _name(sizes, whole)
            named.append(side if isinstance(side, int) else known[sizes] or side.value)
        value.shape = ir.Shape(named)


def evaluated(name: str | None, sizes: Mapping[str, int]) -> int | None:
    """What a dimension of such a name comes to; None where it is no such product of what ``sizes`` has."""
    product, _, divisor = (name or "").partition("/")
    factors = [sizes.get(factor, int(factor) if factor.isdigit() else 0) for factor in product.split("*")]
    found = prod(factors)
    return found // int(divisor or 1) if found and (divisor or "1").isdigit() else None


def _name(sizes: tuple[int, ...], whole: list[tuple[int, int, int]]) -> str | None:
    """The product that a dimension is at each of the sizes; None where it is none."""
    for powers in sorted(itertools.product((0, 1), repeat=len(_FACTORS)), key=sum):
        if not any(powers):
            continue
        products = [prod(size for size, power in zip(at, powers, strict=True) if power) for at in whole]
        ratios = {Fraction(size, product) for size, product in zip(sizes, products, strict=True)}
        if len(ratios) == 1:
            ratio = ratios.pop()
            factors = [name for name, power in zip(_FACTORS, powers, strict=True) if power]
            times = [str(ratio.numerator)] if ratio.numerator != 1 else []
            return "*".join([*times, *factors]) + (f"/{ratio.denominator}" if ratio.denominator != 1 else "")
    return None
