"""Protects whose images a network gets, whose labels, and that a guess of the preprocessing is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from radixrt.errors import InputError
from radixrt.options import DataOptions, ModelChoice
from radixrt.prepare.network import images_lent, prepare
from radixrt.progress import Stages
from radixrt.reuse import Reuse
from radixrt.validate.report.summary import headline
from tests.photographs import write_photographs
from tests.validate.reports import make_report


class FourClasses(nn.Module):
    """A head of as many classes as the solar cells have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 4)

    def forward(self, x: object) -> object:
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize(
    "choice",
    [
        ModelChoice(module=FourClasses(), name="mine"),
        ModelChoice(name="net.py:build"),
        ModelChoice(name="resnest50", checkpoint="best.pth"),
        ModelChoice(name="senet-nano-elpv", checkpoint="best.pth"),
    ],
    ids=["module", "factory", "checkpoint", "checkpoint of a sample"],
)
def test_a_network_of_ones_own_asks_for_images(choice: ModelChoice) -> None:
    with pytest.raises(InputError, match="--data") as caught:
        images_lent(choice, DataOptions())
    assert "\n" not in str(caught.value)
    assert not images_lent(choice, DataOptions(data="photographs"))


def test_known_architectures_are_lent_the_solar_cells_and_samples_have_them() -> None:
    assert images_lent(ModelChoice(name="resnest50"), DataOptions())
    assert not images_lent(ModelChoice(name="senet-nano-elpv"), DataOptions())


def test_lent_images_give_no_labels_and_are_said() -> None:
    choice = ModelChoice(name="timm:test_resnet", num_classes=4)
    with Reuse(fresh=True) as reuse:
        found = prepare(choice, DataOptions(calibration_images=4, input_size="3,32,32"), None, Stages(), reuse)
    assert found.labels == () and not found.labelled
    [said] = [finding for finding in found.findings if "solar cells" in finding.text]
    assert said.severity == "remark" and not any("prepared" in finding.text for finding in found.findings)


def test_pretrained_weights_calibrated_on_lent_images_are_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    from radixrt.export.source import pretrained

    trained = timm.create_model("test_resnet", num_classes=4)
    monkeypatch.setattr(pretrained, "load_pretrained", lambda name, timeout_s: trained)
    with Reuse(fresh=True) as reuse:
        options = DataOptions(calibration_images=4, input_size="3,32,32")
        found = prepare(ModelChoice(name="timm:test_resnet"), options, None, Stages(), reuse)
    assert found.model.weights == "pretrained"
    # Four classes of solar cells are as many as the head's, and still are not its classes.
    assert found.labels == () and not found.labelled
    [doubt] = [finding for finding in found.findings if finding.severity == "doubt"]
    assert doubt.title == "calibrated on images of another kind" and "give --data" in doubt.text
    assert headline(make_report().model_copy(update={"findings": [doubt]})).tone == "unproved"


def test_a_guess_of_the_preprocessing_is_a_doubt_until_every_field_is_given(tmp_path: Path) -> None:
    data = write_photographs(tmp_path)

    def findings(**more: object) -> list[str]:
        options = DataOptions(data=data, input_size="3,32,32", **more)  # type: ignore[arg-type]
        with Reuse(fresh=True) as reuse:
            found = prepare(ModelChoice(module=FourClasses(), name="mine"), options, None, Stages(), reuse)
        assert all(finding.severity == "doubt" for finding in found.findings)
        return [finding.text for finding in found.findings]

    [said] = findings(mean="0.5")
    assert "assumed std 0.229,0.224,0.225; crop_pct 0.875; interpolation bicubic" in said and "--std" in said
    assert findings(mean="0.5", std="0.2", crop_pct=1.0, interpolation="bilinear") == []
