"""An open engine: what runs a batch, whatever library is behind it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from radixrt.errors import InputError

Array = NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of an engine. A dynamic dimension is -1."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Session(ABC):
    """An open engine. Use it as a context manager; closing twice is harmless, running after close is an error.

    Several threads may run it: at the same time where ``concurrent`` says that the runtime can, else one after another.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    concurrent: bool = False
    remark: str = ""  # what a reader of its times must know
    _closed: bool = False

    def __new__(cls, *args: object, **given: object) -> Self:
        """Gives every session its lock, whatever the constructors of libraries' sessions do."""
        session = super().__new__(cls)
        session._lock = threading.RLock()
        return session

    _lock: Any

    def run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Runs one batch.

        Args:
            feeds: every input by name, of the dtype and shape that ``inputs`` says (-1 takes any).

        Returns:
            Every output by name.

        Raises:
            InputError: a name, dtype or shape does not fit, or the session is closed.
        """
        with nullcontext() if self.concurrent else self._lock:
            if self._closed:
                raise InputError("the session is closed: open the engine again")
            self._check(feeds)
            return self._run(feeds)

    def device_times_ms(self, feeds: dict[str, Array], runs: int) -> list[float]:
        """Times the kernels of one batch alone, on the device's own clock, without the copies to it and from it.

        Args:
            feeds: as for :meth:`run`.
            runs: how often.

        Returns:
            Milliseconds of each run; none where the engine runs in host memory.

        Raises:
            InputError: a name, dtype or shape does not fit, or the session is closed.
        """
        return []

    def _check(self, feeds: dict[str, Array]) -> None:
        if set(feeds) != {spec.name for spec in self.inputs}:
            raise InputError(f"the engine takes inputs {[s.name for s in self.inputs]}, not {sorted(feeds)}")
        for spec in self.inputs:
            array = feeds[spec.name]
            if array.dtype != spec.dtype:
                raise InputError(f"input {spec.name!r} is {array.dtype}, not {spec.dtype}: convert it first")
            fits = len(array.shape) == len(spec.shape) and all(
                want in (-1, got) for want, got in zip(spec.shape, array.shape, strict=True)
            )
            if not fits:
                raise InputError(f"input {spec.name!r} has shape {array.shape}, the engine takes {spec.shape}")

    @abstractmethod
    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]: ...

    @abstractmethod
    def _release(self) -> None: ...

    def close(self) -> None:
        """Frees what the session holds, when a run that is under way is done."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
