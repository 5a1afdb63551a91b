"""Protects the order of a build: what a target cannot read is said before any image is read for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from radixrt.build.deploy import DeployOptions, deploy_graph
from radixrt.calibration.data.images import ImageList
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.calibration.spec import CalibrationOptions
from radixrt.engines.registry import get
from radixrt.errors import InputError
from radixrt.export.spec import Precision
from radixrt.progress import Stages
from radixrt.reuse import Reuse
from tests.networks.residual import se_block


def test_what_a_target_cannot_read_is_said_before_calibration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = get("tensorrt-rtx")
    monkeypatch.setattr(type(target), "refusal", lambda *_: "it does not take Det")
    # Reading any image of it would be another failure.
    unread = ImageList([], Preprocess(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3))
    options = DeployOptions(Precision.INT8, target.name, "keep", 1, CalibrationOptions())
    with Reuse(root=tmp_path) as reuse, pytest.raises(InputError, match="it does not take Det"):
        deploy_graph(se_block(), unread, options, Stages(), reuse)
