"""What is added to the times of an engine that runs on a device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from radixrt.engines.session import Session, TensorSpec
from radixrt.judge.measure import on_device
from radixrt.validate.schema import LatencyRow


class OnDevice(Session):
    """Its kernels take a millisecond an image."""

    inputs = (TensorSpec("image", np.dtype(np.float32), (-1, 3, 2, 2)),)

    def device_times_ms(self, feeds: dict[str, Any], runs: int) -> list[float]:
        self._check(feeds)
        return [float(len(feeds["image"]))] * runs

    def _run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _release(self) -> None:
        pass


class OnHost(OnDevice):
    device_times_ms = Session.device_times_ms  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("session", "name", "expected"),
    [(OnDevice(), "engine", 2.0), (OnDevice(), "PyTorch eager", None), (OnHost(), "engine", None)],
)
def test_only_the_engine_on_a_device_has_a_time_without_copies(
    session: Session, name: str, expected: float | None
) -> None:
    row = LatencyRow(name=name, batch=2, p50_ms=3, p90_ms=3, p95_ms=3, p99_ms=3, images_per_s=600)
    images = {"image": np.zeros((4, 3, 2, 2), np.float32)}
    assert on_device(row, session, images, 5).device_p50_ms == expected
