"""Behind a choice of the network's, error is measured on what was chosen from."""

from __future__ import annotations

import onnx_ir as ir

from radixrt.calibration.recovery.selection import Selection
from radixrt.export.graph.facts import infer
from tests.networks.post_processed import post_processed


def test_kept_boxes_give_way_to_all_boxes_and_their_scores() -> None:
    graph = infer(ir.from_proto(post_processed("boxes"))).graph
    selection = Selection(graph)
    assert [value.name for value in graph.outputs if value in selection] == ["selected"]
    assert sorted(selection.measurable(["selected", "scores"])) == ["boxes", "scores"]
    assert selection.measurable(["scores"]) == ["scores"]
