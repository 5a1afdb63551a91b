"""Image sides that stay free: which heights and widths a network, its graph and its engine take.

A user writes ``320..960:32``: from 320 to 960 in steps of 32. In a graph such a side is the symbolic dimension
``height`` or ``width``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from radixrt.errors import InputError

BATCH_DIM, HEIGHT_DIM, WIDTH_DIM = "batch", "height", "width"
"""The symbolic dimensions of a graph: the samples, and an image's sides."""
LARGEST_SIDE = 8192
_NOTE = "radixrt."

Size = tuple[int, int]
"""Height and width of an image."""


def spelt(size: Size) -> str:
    """A size for a sentence: ``320 x 640``, the height first."""
    return f"{size[0]} x {size[1]}"


@dataclass(frozen=True)
class SideRange:
    """The sizes that one side may have: ``min``, ``min + step``, and so on to ``max``; one where they are equal."""

    min: int
    max: int
    step: int = 1

    @classmethod
    def parse(cls, text: str | int, option: str) -> SideRange:
        """Reads ``640``, ``320..960`` or ``320..960:32``.

        Args:
            text: what the user wrote.
            option: the option it was written for, to speak of.

        Raises:
            InputError: it is none of these, the range is empty, or its step does not lead from one end to the other.
        """
        match = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6})(?::(\d{1,6}))?)?", str(text).strip())
        if match is None:
            raise InputError(f"bad {option} {text!r}: write one size (640) or a range with its step (320..960:32)")
        low, high, step = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
        if not 1 <= low <= high <= LARGEST_SIDE:
            raise InputError(
                f"bad {option} {text!r}: sizes are 1 to {LARGEST_SIDE}, and the first must not exceed the second"
            )
        if step < 1:
            raise InputError(f"bad {option} {text!r}: the step must be 1 or more")
        if rest := (high - low) % step:
            shorter = f"{low}..{high - rest}:{step} or " if high - rest > low else ""
            raise InputError(
                f"bad {option} {text!r}: steps of {step} from {low} come to {high - rest} and then pass {high}: write "
                f"{shorter}{low}..{high - rest + step}:{step}"
            )
        return cls(low, high, step if high > low else 1)

    @property
    def free(self) -> bool:
        """Whether there is more than one size."""
        return self.min != self.max

    @property
    def middle(self) -> int:
        """The size nearest to the middle, the smaller of two."""
        return self.at(0.5)

    def at(self, share: float) -> int:
        """The size that lies so far between the smallest (0) and the largest (1), on a step, rounded down."""
        return self.min + int((self.max - self.min) * share) // self.step * self.step

    def first(self, count: int) -> tuple[int, ...]:
        """The smallest sizes, at most so many."""
        return tuple(range(self.min, min(self.max, self.min + (count - 1) * self.step) + 1, self.step))

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max and (size - self.min) % self.step == 0

    def __str__(self) -> str:
        if not self.free:
            return str(self.min)
        return f"{self.min}..{self.max}" + (f":{self.step}" if self.step > 1 else "")


@dataclass(frozen=True)
class Sides:
    """The sizes that an image may have."""

    height: SideRange
    width: SideRange

    @property
    def free(self) -> bool:
        """Whether there is more than one size."""
        return self.height.free or self.width.free

    @property
    def free_ranges(self) -> tuple[SideRange, ...]:
        """The ranges of the sides that are free, the height's first."""
        return tuple(side for side in (self.height, self.width) if side.free)

    def free_of(self, size: Size) -> Size | tuple[int, ...]:
        """Those of a height and a width that are free."""
        return tuple(own for own, side in zip(size, (self.height, self.width), strict=True) if side.free)

    def outside(self, spec: Sequence[int], shape: Sequence[int]) -> str:
        """Why the engine does not take an array of a shape, a clause; nothing where it does.

        Args:
            spec: of the engine's input, (N, ...), free sides as -1.
            shape: of the array, (N, ...).
        """
        free = [got for want, got in zip(spec[1:], shape[1:], strict=True) if want == -1]
        for got, side in zip(free, self.free_ranges, strict=False):
            if got not in side:
                return f"a side of {got} is not one of {side}"
        return ""

    @property
    def lowest(self) -> Size:
        return self.height.min, self.width.min

    @property
    def middle(self) -> Size:
        """The size that images are prepared in, and that an engine is tuned for and timed at."""
        return self.height.middle, self.width.middle

    @property
    def highest(self) -> Size:
        return self.height.max, self.width.max

    @property
    def between(self) -> Size:
        """A size inside the range that is not square, where the range has one: its sides lie apart by their place."""
        for low, high in ((0.25, 0.75), (0.0, 0.5), (0.5, 1.0), (0.0, 1.0)):
            for size in ((self.height.at(low), self.width.at(high)), (self.height.at(high), self.width.at(low))):
                if size[0] != size[1] and size not in (self.lowest, self.highest):
                    return size
        return self.middle

    @property
    def tried(self) -> tuple[Size, ...]:
        """The sizes at which an engine is proved: the lowest, one between that is not square, the highest."""
        return tuple(dict.fromkeys((self.lowest, self.between, self.highest)))

    @property
    def calibrated(self) -> tuple[Size, ...]:
        """The sizes in which images calibrate, in turn: the middle, and those at which the engine is proved."""
        return tuple(dict.fromkeys((self.middle, *self.tried)))

    @property
    def probes(self) -> Iterator[Size]:
        """Sizes near the lowest that are tried one by one: each side alone a step further, then both."""
        height, width = self.height, self.width
        yield self.lowest
        for more in (1, 2, 3):
            taller, wider = (min(s.min + more * s.step, s.max) for s in (height, width))
            yield from ((taller, width.min), (height.min, wider), (taller, wider))

    def __contains__(self, size: Size) -> bool:
        return size[0] in self.height and size[1] in self.width

    def __str__(self) -> str:
        return f"{self.height} x {self.width}"


def free_middle(sides: Sides | None) -> tuple[int, ...]:
    """The middle sizes of the sides that are free; none where none is."""
    return () if sides is None else sides.free_of(sides.middle)


def ranges_noted(sides: Sides) -> dict[str, str]:
    """The ranges as an ONNX file notes them in its metadata."""
    return {_NOTE + HEIGHT_DIM: str(sides.height), _NOTE + WIDTH_DIM: str(sides.width)}


def noted(metadata: Mapping[str, str], name: str) -> SideRange | None:
    """The range of ``height`` or ``width`` that an ONNX file notes; None where it notes none.

    Raises:
        InputError: what it notes is no range.
    """
    text = metadata.get(_NOTE + name)
    return None if text is None else SideRange.parse(text, f"{name} in the file's metadata")


def parse_size(text: str) -> Literal["fit"] | Size:
    """Reads ``480x640``, height and width, or ``fit``.

    Raises:
        InputError: it is neither.
    """
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text.strip())
    if text.strip() == "fit":
        return "fit"
    if match is None:
        raise InputError(f"bad size {text!r}: write a height and a width (480x640), or fit")
    return int(match[1]), int(match[2])


def sized(shape: Sequence[int], batch: int, free: Sequence[int] = ()) -> tuple[int, ...]:
    """A shape with sizes in the place of its free dimensions.

    Args:
        shape: free dimensions are -1.
        batch: the samples, the first dimension.
        free: sizes of the free sides of an image, in order.
    """
    sizes = iter(free)
    return tuple(
        size if size != -1 else batch if place == 0 else next(sizes, batch) for place, size in enumerate(shape)
    )


def sides_in(
    shapes: Iterable[Sequence[int | str | None]], height: SideRange | None, width: SideRange | None
) -> Sides | None:
    """The sides that a graph leaves free, with the ranges that they were given.

    Args:
        shapes: of its inputs, with the names of symbolic dimensions.
        height: the range of ``height``.
        width: the range of ``width``.

    Returns:
        Both sides of the first input that has a free one, of which the other may be fixed; None where none is free.
    """
    for shape in shapes:
        names = list(shape)
        if HEIGHT_DIM not in names and WIDTH_DIM not in names:
            continue
        place = names.index(HEIGHT_DIM) if HEIGHT_DIM in names else names.index(WIDTH_DIM) - 1
        found = [
            SideRange(side, side) if isinstance(side, int) else asked
            for side, asked in zip(names[place : place + 2], (height, width), strict=True)
        ]
        if found[0] is not None and found[1] is not None:
            return Sides(found[0], found[1])
    return None


_STEPS = (2, 4, 8, 16, 32, 64, 128)
Trial = Callable[[Size], str]
"""Runs a network once on an image of a size; says in a clause why it cannot, nothing where it can."""


def refuse_sides(run: Trial, sides: Sides, what: str) -> None:
    """Tries a network at a few sizes of a range: small ones that differ by a step, one between, and the largest.

    Args:
        run: the network.
        sides: the range.
        what: the network, to begin a sentence with.

    Raises:
        InputError: it does not run at one of them: which, why, and which step would do, where one would.
    """
    failed = {size: why for size in dict.fromkeys(sides.probes) if (why := run(size))}
    if not failed:
        failed = {size: why for size in (sides.between, sides.highest) if (why := run(size))}
    if not failed:
        return
    why = next(iter(failed.values()))
    said = f"{what} does not take {', '.join(map(spelt, list(failed)[:4]))} ({why})"
    better = next((found for step in _STEPS if (found := _on_multiples(sides, step)) and _runs(run, found)), None)
    if better is not None:
        raise InputError(f"{said}; it takes --height {better.height} --width {better.width}")
    worked = [size for size in dict.fromkeys((*sides.probes, sides.middle)) if not run(size)]
    if len(worked) > 1:
        raise InputError(f"{said}, though {spelt(worked[0])} and {spelt(worked[1])}: name a range that it takes")
    only = f", {spelt(worked[0])} here" if worked else ""
    raise InputError(
        f"{said}: it takes one size{only}, fixed by what stands there (a Flatten before a Linear, embeddings of "
        "positions); pool instead, or name that size with --input-size"
    )


def _runs(run: Trial, sides: Sides) -> bool:
    return not any(map(run, dict.fromkeys(sides.probes)))


def _on_multiples(sides: Sides, step: int) -> Sides | None:
    """The same range in multiples of ``step``; None where it holds no such steps, or has them already."""

    def multiples(side: SideRange) -> SideRange | None:
        if not side.free:
            return side
        low, high = -(-side.min // step) * step, side.max // step * step
        by = math.lcm(step, side.step)
        high = low + (high - low) // by * by
        return SideRange(low, high, by) if low < high else None

    height, width = multiples(sides.height), multiples(sides.width)
    found = Sides(height, width) if height is not None and width is not None else None
    return None if found == sides else found
