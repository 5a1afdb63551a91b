"""A limit on one figure by its name, as ``--gate`` takes it: ``miou>=0.71``, ``miou_drop<=0.5``, ``p95_ms<=8``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from radixrt.errors import InputError
from radixrt.validate.quality import Metric
from radixrt.validate.schema import Gate, Latency, LatencyRow, OutputParity, Parity, Size, SizeParity, Unit

_LIMIT = re.compile(r"\s*([A-Za-z0-9_@./:-]+?)\s*(>=|<=)\s*([^<>=\s]+)\s*")
_Value = Callable[[Parity | None, Latency | None, Size | None], float | None]


@dataclass(frozen=True)
class _Figure:
    unit: Unit
    value: _Value


def _parity(of: Callable[[Parity], float | None]) -> _Value:
    return lambda parity, latency, size: of(parity) if parity else None


def _all(parity: Parity) -> list[OutputParity | SizeParity]:
    return [*parity.outputs, *parity.sizes]


def _cosines(parity: Parity) -> Iterator[float]:
    return (one.cosine_min for one in _all(parity) if one.cosine_min is not None)


def _steady(of: Callable[[Latency], float]) -> _Value:
    return lambda parity, latency, size: of(latency) if latency and not latency.unsteady else None


def _row(latency: Latency) -> LatencyRow:
    engine = latency.rows[0].name
    return min((row for row in latency.rows if row.name == engine), key=lambda row: row.batch)


FIGURES: Mapping[str, _Figure] = {
    "cosine_min": _Figure("cosine", _parity(lambda parity: min(_cosines(parity), default=None))),
    "sqnr_db": _Figure("dB", _parity(lambda parity: min(one.sqnr_db for one in _all(parity)))),
    "max_abs": _Figure("own", _parity(lambda parity: max(one.max_abs for one in _all(parity)))),
    "p50_ms": _Figure("ms", _steady(lambda latency: _row(latency).p50_ms)),
    "p95_ms": _Figure("ms", _steady(lambda latency: _row(latency).p95_ms)),
    "speedup": _Figure("times", _steady(lambda latency: latency.speedup_p50)),
    "engine_bytes": _Figure("bytes", lambda parity, latency, size: size.engine_bytes if size else None),
}
"""The figures that every task has; those of parity are of the output, and the image's size, that is worst."""


@dataclass(frozen=True)
class FigureLimit:
    """A limit: the ``figure`` must be at least, or at most, ``limit``."""

    figure: str
    at_least: bool
    limit: float

    @property
    def text(self) -> str:
        """The limit as a user writes it."""
        return f"{self.figure}{'>=' if self.at_least else '<='}{self.limit:g}"

    def keeps(self, value: float) -> bool:
        """Whether a figure is on the right side; one that equals the limit is, whatever its last bit says."""
        slack = 1e-9 * max(1.0, abs(self.limit))
        return value >= self.limit - slack if self.at_least else value <= self.limit + slack

    def value(
        self, parity: Parity | None, metrics: Sequence[Metric], latency: Latency | None, size: Size | None
    ) -> float | None:
        """The engine's figure; None where it was not measured."""
        if self.figure in FIGURES:
            return FIGURES[self.figure].value(parity, latency, size)
        named = {name: value for one in metrics for name, value in _named(one)}
        return named.get(self.figure)

    def gate(self, value: float | None, kept: bool, reason: str) -> Gate:
        """The judgement for the report."""
        unit = FIGURES[self.figure].unit if self.figure in FIGURES else "own"
        return Gate(
            name=self.figure,
            unit=unit,
            limit=self.limit,
            value=value,
            passed=kept,
            reason=reason,
            at_least=self.at_least,
        )


def _named(metric: Metric) -> Iterator[tuple[str, float]]:
    yield metric.name, metric.engine
    yield f"{metric.name}_drop", metric.drop_points


def read_figure_limits(given: str | Sequence[str]) -> tuple[FigureLimit, ...]:
    """Reads limits, one by one or with commas between.

    Raises:
        InputError: one of them is not a figure, ``>=`` or ``<=``, and a number.
    """
    several = (given,) if isinstance(given, str) else given
    return tuple(_read(text) for one in several for text in one.split(",") if text.strip())


def _read(text: str) -> FigureLimit:
    found = _LIMIT.fullmatch(text)
    try:
        limit = float(found[3]) if found else math.nan
    except ValueError:
        limit = math.nan
    if found is None or not math.isfinite(limit):
        raise InputError(f"the gate {text.strip()!r} is no limit on a figure: write such as miou>=0.71 or p95_ms<=8")
    return FigureLimit(found[1], found[2] == ">=", limit)
