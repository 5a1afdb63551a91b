"""Piecewise linear functions of one number, and vectors each of whose elements is one: the activations by what they do.

However a graph spells it, an elementwise function made of sums, factors, minima, maxima, clips and choices by
comparison is a :class:`Curve` of its argument: a slope for each interval between knots. So ``clip(x + 3, 0, 6) / 6``,
``min(relu(x + 3), 6) * 0.16666667`` and ``where(x > -3, where(x < 3, x / 6 + 0.5, 1), 0)`` are the same curve, and
:func:`written` gives each the same name:

==================================  ==================================================
no knot                             an affine function, no activation
one knot, flat on one side          Relu
one knot                            LeakyRelu, or PRelu where the elements differ
two knots, flat outside             HardSigmoid, which is what a clip is up to factors
more                                a sum of Relus
==================================  ==================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
from scipy import sparse

from radixrt.export.attention.affine import Activated, Affine, Floats, identity
from radixrt.export.graph.facts import GATES

KINDS = frozenset({"Relu", "LeakyRelu", "PRelu", "HardSigmoid"})
_RANGES = dict.fromkeys(GATES, (0.0, 1.0))
_RANGES |= dict.fromkeys(("Tanh", "Erf", "Softsign"), (-1.0, 1.0)) | dict.fromkeys(("Relu", "Softplus"), (0.0, np.inf))
_EPSILON = 1e-9
# Constants such as 0.16666667 are float32: a factor this close to one is one.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Curve:
    """``offset + slopes[0] x + sum over knots of (slopes[i + 1] - slopes[i]) max(x - knots[i], 0)``."""

    knots: tuple[float, ...]
    slopes: tuple[float, ...]
    offset: float

    def __call__(self, x: float) -> float:
        jumps = zip(self.knots, self.slopes, self.slopes[1:], strict=False)
        return self.offset + self.slopes[0] * x + sum((b - a) * max(x - knot, 0.0) for knot, a, b in jumps)

    def slope(self, x: float) -> float:
        """The slope at ``x``, which is no knot."""
        return self.slopes[sum(knot < x for knot in self.knots)]

    def zeros(self) -> list[float]:
        """Where it is zero between knots or outside of them."""
        ends = [-np.inf, *self.knots, np.inf]
        found = []
        for left, right, slope in zip(ends, ends[1:], self.slopes, strict=False):
            at = left if np.isfinite(left) else right if np.isfinite(right) else 0.0
            if slope and left < (zero := at - self(at) / slope) < right:
                found.append(zero)
        return found

    def of(self, factor: float, offset: float) -> Curve:
        """The curve of ``factor x + offset``."""
        if not factor:
            return line(0.0, self(offset))
        knots, slopes = [(k - offset) / factor for k in self.knots], [s * factor for s in self.slopes]
        return _from_slopes(*(knots, slopes) if factor > 0 else (knots[::-1], slopes[::-1]), (0.0, self(offset)))

    def within(self, low: float, high: float) -> Curve:
        """A curve that is the same from ``low`` to ``high`` and goes straight on beyond."""
        inside = [i for i, knot in enumerate(self.knots) if low + _EPSILON < knot < high - _EPSILON]
        if len(inside) == len(self.knots):
            return self
        at = low if np.isfinite(low) else high
        first = inside[0] if inside else sum(knot <= low + _EPSILON for knot in self.knots)
        slopes = self.slopes[first : first + len(inside) + 1]
        return _from_slopes([self.knots[i] for i in inside], slopes, (at, self(at)))

    def times(self, factor: float, offset: float = 0.0) -> Curve:
        """``factor`` times the curve, plus ``offset``."""
        return _tidied(self.knots, [s * factor for s in self.slopes], self.offset * factor + offset)


def line(slope: float, offset: float) -> Curve:
    """An affine function."""
    return Curve((), (slope,), offset)


@lru_cache(maxsize=4096)
def plus(left: Curve, right: Curve) -> Curve:
    """The sum of two curves."""
    knots = sorted({*left.knots, *right.knots})
    slopes = [left.slope(x) + right.slope(x) for x in _between(knots)]
    return _tidied(knots, slopes, left.offset + right.offset)


@lru_cache(maxsize=4096)
def largest(left: Curve, right: Curve) -> Curve:
    """The larger of two curves at each point."""
    difference = plus(left, right.times(-1.0))
    chosen = select(lambda x: difference(x) > 0, (difference,), left, right)
    assert chosen is not None  # two curves meet where they change places
    return chosen


def smallest(left: Curve, right: Curve) -> Curve:
    """The smaller of two curves at each point."""
    return largest(left.times(-1.0), right.times(-1.0)).times(-1.0)


def clipped(curve: Curve, low: float, high: float) -> Curve:
    """A curve held between two numbers, either of which may be infinite."""
    if np.isfinite(low):
        curve = largest(curve, line(0.0, low))
    return smallest(curve, line(0.0, high)) if np.isfinite(high) else curve


def bent(curve: Curve, slope: float) -> Curve:
    """``slope`` times the curve where it is negative: a leaky ReLU of it."""
    return plus(largest(curve, line(0.0, 0.0)), smallest(curve, line(0.0, 0.0)).times(slope))


def select(where: Callable[[float], bool], signs: Sequence[Curve], yes: Curve, no: Curve) -> Curve | None:
    """``yes`` where a condition holds and ``no`` elsewhere; None where the two do not meet there.

    Args:
        where: the condition, which changes only where one of ``signs`` has a zero or a jump.
        signs: the curves whose signs decide it.
        yes: what the condition chooses.
        no: the other.
    """
    knots = sorted({*yes.knots, *no.knots, *(x for sign in signs for x in (*sign.knots, *sign.zeros()))})
    chosen = [yes if where(x) else no for x in _between(knots)]
    for knot, left, right in zip(knots, chosen, chosen[1:], strict=False):
        if abs(left(knot) - right(knot)) > _ROUNDING * max(1.0, abs(left(knot))):
            return None
    slopes = [curve.slope(x) for curve, x in zip(chosen, _between(knots), strict=True)]
    at = knots[0] if knots else 0.0
    return _from_slopes(knots, slopes, (at, chosen[0](at)))


def _between(knots: Sequence[float]) -> list[float]:
    """A point inside each interval."""
    if not knots:
        return [0.0]
    return [knots[0] - 1.0, *((a + b) / 2 for a, b in pairwise(knots)), knots[-1] + 1.0]


def _from_slopes(knots: Sequence[float], slopes: Sequence[float], point: tuple[float, float]) -> Curve:
    """The curve with these slopes through ``point``."""
    through = _tidied(knots, slopes, 0.0)
    return Curve(through.knots, through.slopes, point[1] - through(point[0]))


def _tidied(knots: Sequence[float], slopes: Sequence[float], offset: float) -> Curve:
    """Without the knots at which nothing bends."""
    largest_slope = max(map(abs, slopes))
    kept: list[float] = []
    slopes_kept = [slopes[0]]
    for knot, slope in zip(knots, slopes[1:], strict=True):
        if kept and abs(knot - kept[-1]) <= _EPSILON * max(1.0, abs(knot)):
            slopes_kept[-1] = slope
        elif abs(slope - slopes_kept[-1]) > _EPSILON * largest_slope:
            kept.append(knot)
            slopes_kept.append(slope)
    return Curve(tuple(kept), tuple(slopes_kept), offset)


@dataclass(frozen=True, eq=False)
class Curves:
    """A vector whose element ``i`` is ``curves[i]`` of element ``i`` of ``argument``."""

    argument: Affine
    curves: tuple[Curve, ...]

    def each(self, function: Callable[[Curve], Curve]) -> Curves:
        """The same function of each element."""
        known = {curve: function(curve) for curve in set(self.curves)}
        return Curves(self.argument, tuple(known[curve] for curve in self.curves))


def read(vector: Affine) -> Curves:
    """A vector as curves of the argument of the activations in it, or of itself where there are none to see through."""
    return _through(vector) or Curves(vector, (line(1.0, 0.0),) * vector.size)


def plainest(vector: Affine) -> Affine:
    """The same vector; one that adds piecewise linear functions of one argument up, as the function that they make."""
    seen = _through(vector) if len(vector.terms) > 1 else None
    return vector if seen is None else written(seen)


def together(parts: Sequence[Affine | Floats]) -> tuple[Affine, list[tuple[Curve, ...]]] | None:
    """Several vectors as curves of one argument; None where they have no such argument. Arrays are constants."""
    read_parts = [read(part) if isinstance(part, Affine) else part for part in parts]
    argument = next((part.argument for part in read_parts if isinstance(part, Curves)), None)
    if argument is None:
        return None
    rows: list[tuple[Curve, ...]] = []
    for part in read_parts:
        if not isinstance(part, Curves):
            rows.append(tuple(line(0.0, float(number)) for number in part))
        elif part.argument is argument:
            rows.append(part.curves)
        else:
            ratio = _multiple(part.argument, argument)
            if ratio is None:
                return None
            rows.append(tuple(c.of(a, b) for c, a, b in zip(part.curves, *ratio, strict=True)))
    return argument, rows


def _through(vector: Affine) -> Curves | None:
    acted = [(b, m) for b, m in vector.terms if isinstance(b, Activated) and b.kind in KINDS]
    argument: Affine | None = None
    total = (line(0.0, 0.0),) * vector.size
    for basis, matrix in acted:
        matrix = sparse.csr_matrix(matrix)
        matrix.eliminate_zeros()
        if (np.diff(matrix.indptr) != 1).any():
            return None
        inner = basis.inner.take(matrix.indices.astype(np.int64))
        argument = inner if argument is None else argument
        ratio = (np.ones(inner.size), np.zeros(inner.size)) if inner is argument else _multiple(inner, argument)
        if ratio is None:
            return None
        pieces = zip(matrix.indices, matrix.data, *ratio, strict=True)
        curves = [_known(basis, int(at)).of(a, b).times(float(factor)) for at, factor, a, b in pieces]
        total = tuple(map(plus, total, curves))
    if argument is None:
        return None
    others = {basis for basis, _ in acted}
    rest = Affine(tuple((b, m) for b, m in vector.terms if b not in others), vector.bias)
    ratio = _multiple(rest, argument) if rest.terms else (np.zeros(rest.size), rest.bias)
    if ratio is None:
        return None
    return Curves(argument, tuple(plus(c, line(float(a), float(b))) for c, a, b in zip(total, *ratio, strict=True)))


def _known(basis: Activated, element: int) -> Curve:
    if basis.kind == "HardSigmoid":
        return clipped(line(*basis.params), 0.0, 1.0)
    slopes = {"Relu": (0.0,), "LeakyRelu": basis.params, "PRelu": basis.params[element : element + 1]}[basis.kind]
    return bent(line(1.0, 0.0), slopes[0])


def _multiple(left: Affine, right: Affine) -> tuple[Floats, Floats] | None:
    """``a`` and ``b`` with ``left = a * right + b`` element by element, to within float32's rounding."""
    bases = [basis for basis, _ in right.terms]
    ours = dict(left.terms)
    if not bases or not set(ours) <= set(bases):
        return None
    theirs = sparse.csr_matrix(sparse.hstack([m for _, m in right.terms]))
    empty = {b: sparse.csr_matrix((left.size, b.size)) for b in bases if b not in ours}
    mine = sparse.csr_matrix(sparse.hstack([ours[b] if b in ours else empty[b] for b in bases]))
    squares = np.asarray(theirs.multiply(theirs).sum(axis=1), np.float64).ravel()
    if not squares.all():
        return None
    ratio = np.asarray(mine.multiply(theirs).sum(axis=1), np.float64).ravel() / squares
    apart = abs(mine - sparse.diags_array(ratio, format="csr") @ theirs)
    if apart.nnz and (np.sqrt(squares) * np.abs(ratio) * _ROUNDING < apart.max(axis=1).toarray().ravel()).any():
        return None
    return ratio, left.bias - ratio * right.bias


def written(vector: Curves) -> Affine:
    """The vector by the plainest activation that it is; what bends only where its argument never is bends nowhere."""
    argument, curves = vector.argument, vector.curves
    if any(curve.knots for curve in curves):
        narrow = tuple(curve.within(*ends) for curve, ends in zip(curves, _ends(argument), strict=True))
        # A hard sigmoid that some channels never leave at one end is a hard sigmoid all the same.
        curves = curves if any(curve.knots for curve in narrow) else narrow
    most = max(len(curve.knots) for curve in curves)
    if most == 0:
        return argument.scale(_each(curves, lambda c: c.slopes[0])).shift(_each(curves, lambda c: c.offset))
    if most == 1:
        return _one_knot(argument, curves)
    if all(len(c.knots) == 2 and not c.slopes[0] and not c.slopes[2] for c in curves):
        return _ramp(argument, curves)
    total = argument.scale(_each(curves, lambda c: c.slopes[0])).shift(_each(curves, lambda c: c.offset))
    for place in range(most):
        knots = _each(curves, partial(_knot, place=place))
        jumps = _each(curves, partial(_jump, place=place))
        total = total.plus(identity(Activated("Relu", argument.shift(-knots))).scale(jumps))
    return total


def _ends(argument: Affine) -> Iterator[tuple[float, float]]:
    """Between which numbers each element lies, by the activations that it is made of."""
    low, high = argument.bias.copy(), argument.bias.copy()
    for basis, matrix in argument.terms:
        least, most = _RANGES.get(basis.kind, (-np.inf, np.inf))
        entries = sparse.coo_matrix(matrix)
        used = entries.data != 0.0
        rows, factors = entries.row[used], entries.data[used]
        np.add.at(low, rows, np.where(factors > 0, factors * least, factors * most))
        np.add.at(high, rows, np.where(factors > 0, factors * most, factors * least))
    return zip(low.tolist(), high.tolist(), strict=True)


def _each(curves: Sequence[Curve], number: Callable[[Curve], float]) -> Floats:
    return np.asarray([number(curve) for curve in curves], np.float64)


def _knot(curve: Curve, place: int) -> float:
    return curve.knots[place] if place < len(curve.knots) else 0.0


def _jump(curve: Curve, place: int) -> float:
    return curve.slopes[place + 1] - curve.slopes[place] if place < len(curve.knots) else 0.0


def _one_knot(argument: Affine, curves: Sequence[Curve]) -> Affine:
    knots = _each(curves, partial(_knot, place=0))
    left, right = _each(curves, lambda c: c.slopes[0]), _each(curves, lambda c: c.slopes[-1])
    # Turned round where it is flat on the right, so that it can be flat on the left.
    turned = (right == 0.0) & (left != 0.0)
    signs = np.where(turned, -1.0, 1.0)
    left, right = np.where(turned, -right, left), np.where(turned, -left, right)
    slopes = np.divide(left, right, out=np.zeros(len(curves)), where=right != 0.0)
    inner = argument.shift(-knots) if knots.any() else argument
    inner = inner.scale(signs) if turned.any() else inner
    if not slopes.any():
        basis = Activated("Relu", inner)
    elif (np.abs(slopes - slopes[0]) <= _ROUNDING * np.abs(slopes[0])).all():
        basis = Activated("LeakyRelu", inner, (float(slopes[0]),))
    else:
        basis = Activated("PRelu", inner, tuple(map(float, slopes)))
    return _scaled(basis, right, np.asarray([c(k) for c, k in zip(curves, knots, strict=True)]))


def _ramp(argument: Affine, curves: Sequence[Curve]) -> Affine:
    starts, ends = (_each(curves, partial(_knot, place=place)) for place in (0, 1))
    low, high = (np.asarray([c(k) for c, k in zip(curves, knots, strict=True)]) for knots in (starts, ends))
    slopes = 1.0 / (ends - starts)
    if len({(c.knots, c.slopes) for c in curves}) == 1:
        basis = Activated("HardSigmoid", argument, (_round(slopes[0]), _round(-starts[0] * slopes[0])))
    else:
        basis = Activated("HardSigmoid", argument.shift(-starts).scale(slopes), (1.0, 0.0))
    return _scaled(basis, high - low, low)


def _round(number: float) -> float:
    return float(f"{number:.12g}") + 0.0


def _scaled(basis: Activated, factors: Floats, offsets: Floats) -> Affine:
    """``factors * basis + offsets``, which are one and zero where they are that but for rounding."""
    factors = np.where(np.abs(factors - 1.0) <= _ROUNDING, 1.0, factors)
    offsets = np.where(np.abs(offsets) <= _ROUNDING * np.abs(factors), 0.0, offsets)
    vector = identity(basis)
    vector = vector if (factors == 1.0).all() else vector.scale(factors)
    return vector.shift(offsets) if offsets.any() else vector
