"""Protects the figures of several requests at once: all streams are counted, and one request's own time is told."""

from __future__ import annotations

import time

import pytest

from radixrt.validate.measure.throughput import throughput


def test_streams_run_side_by_side_and_all_are_counted() -> None:
    # Sleeping streams do not disturb each other, so three answer three times as often as one.
    row = throughput([lambda: time.sleep(0.02)] * 3, batch=4, threads=2, seconds=0.3)
    assert (row.streams, row.batch, row.threads) == (3, 4, 2)
    assert row.p50_ms >= 20
    assert row.p95_ms >= row.p50_ms
    assert row.images_per_s <= 3 * 4 / 0.02
    assert row.images_per_s > 1.5 * 4 * 1000 / row.p95_ms


def test_a_stream_that_fails_is_not_hidden() -> None:
    def broken() -> None:
        raise ValueError("no engine")

    with pytest.raises(ValueError, match="no engine"):
        throughput([broken], batch=1, threads=1, seconds=0.1)
