from __future__ import annotations

import pytest

from radixrt.build.race import why_slower
from radixrt.validate.measure.rounds import Ratio


# An interval above 1 tells two entrants apart; that the machine was busy is another thing, and is said as one.
@pytest.mark.parametrize(
    ("times", "steady", "doubt"),
    [
        (Ratio(1.36, 1.29, 1.39), True, ""),
        (Ratio(1.36, 1.29, 1.39), False, ", with times that are not steady"),
        (Ratio(1.11, 0.96, 4.64), True, ": the two are not told apart"),
        (Ratio(1.11, 0.96, 4.64), False, ": the two are not told apart"),
    ],
)
def test_the_reason_says_how_sure_it_is(times: Ratio, steady: bool, doubt: str) -> None:
    said = why_slower(times, "openvino", steady=steady)
    assert said.startswith(f"takes {times.value:.2f} times as long as openvino (95 %: {times.low:.2f} to")
    assert said.endswith(f"){doubt}")
