"""What the whole compiler agrees on: precisions and batch sizes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from radixrt.errors import InputError


class Precision(str, Enum):
    """The narrowest type of a deploy graph's convolutions."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"

    @classmethod
    def parse(cls, text: str) -> Precision:
        """Reads a precision as a user writes it.

        Raises:
            InputError: the text names no precision.
        """
        try:
            return cls(text.lower())
        except ValueError:
            raise InputError(f"unknown precision {text!r}: choose one of {', '.join(p.value for p in cls)}") from None


@dataclass(frozen=True)
class BatchSpec:
    """The batch sizes that an engine accepts: ``min`` to ``max``; a static batch where they are equal."""

    min: int = 1
    max: int = 1

    @property
    def dynamic(self) -> bool:
        return self.min != self.max

    @property
    def opt(self) -> int:
        """The batch size an engine is tuned for: the largest."""
        return self.max

    @classmethod
    def parse(cls, text: str) -> BatchSpec:
        """Reads ``8`` or ``1..8``.

        Raises:
            InputError: the text is neither, or the range is empty.
        """
        match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text.strip())
        if match is None:
            raise InputError(f"bad batch {text!r}: write one size (8) or a range (1..8)")
        low = int(match[1])
        high = int(match[2] or low)
        if not 1 <= low <= high:
            raise InputError(f"bad batch {text!r}: sizes start at 1 and the first must not exceed the second")
        return cls(low, high)

    def __str__(self) -> str:
        return f"{self.min}..{self.max}" if self.dynamic else str(self.min)
