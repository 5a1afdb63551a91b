"""Limits that nothing will ever be held against are refused before anything is built."""

from __future__ import annotations

import pytest

from radixrt.errors import InputError
from radixrt.validate.gates import read_gates
from radixrt.validate.quality import MetricSpec
from radixrt.validate.vain_limits import refuse_vain_limits

MIOU = [MetricSpec("miou", "mIoU")]


def test_a_figure_that_the_task_does_not_have_is_refused() -> None:
    refuse_vain_limits(read_gates(gate=["miou>=0.7", "miou_drop<=2"], max_drop=5), "segment", MIOU)
    with pytest.raises(InputError, match="the task segment does not have: its figures are miou, miou_drop, cosine_min"):
        refuse_vain_limits(read_gates(gate="map>=0.5"), "segment", MIOU)


@pytest.mark.parametrize("asked", [{"min_cosine": 0.9}, {"gate": "cosine_min>=0.9"}])
def test_a_cosine_of_one_number_is_refused_and_what_judges_it_is_named(asked: dict[str, object]) -> None:
    limits = read_gates(**asked)
    for single in ([["batch"]], [["batch", 1]], [[8, 1, 1, 1], [8]]):
        with pytest.raises(InputError, match=r"only its sign: use --gate 'sqnr_db>=30' or --gate 'max_abs<=0\.1'"):
            refuse_vain_limits(limits, "tensors", [], single)
    for several in ([], [["batch", 2]], [["batch"], ["batch", 4]], [["batch", "found"]]):
        refuse_vain_limits(limits, "tensors", [], several)
    with pytest.raises(InputError, match="use --gate 'sqnr_db>=30'"):
        refuse_vain_limits(read_gates(max_drop=1), "tensors", [], [["batch", 1]])
