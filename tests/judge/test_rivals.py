"""What an engine is timed against: ``torch.compile`` within a limit, earlier bundles, and the sizes it takes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from radixrt.errors import InputError
from radixrt.export.source.module_inputs import ModuleInputs
from radixrt.export.spec import BatchSpec
from radixrt.judge import rivals as against
from radixrt.judge.rivals import opponents
from radixrt.options import TimingOptions
from radixrt.validate.rivals import Rivals
from tests.engines.bundle.bundles import SIZE, write_bundle

torch = pytest.importorskip("torch")
IMAGES = np.random.default_rng(0).normal(size=(4, 3, SIZE, SIZE)).astype(np.float32)
FEED = {"input": IMAGES}
IMAGE = ModuleInputs.image((3, SIZE, SIZE))


class Mean(torch.nn.Module):  # type: ignore[name-defined, misc]
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


class Slow(torch.nn.Module):  # type: ignore[name-defined, misc]
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        time.sleep(30)
        return images.mean((2, 3))


def test_only_sizes_that_the_engine_takes_are_timed_and_the_others_are_said() -> None:
    sizes, notes = TimingOptions(batch_sweep="8,1,2").rivals().sizes(BatchSpec(1, 4))
    assert sizes == (1, 2) and notes == ["Not timed at batch 8: the engine takes 1 to 4."]
    assert Rivals().sizes(BatchSpec(1, 4)) == ((1, 4), [])


@pytest.mark.parametrize("text", ["0,1", "many", "1,,2"])
def test_a_sweep_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"batch.sweep"):
        TimingOptions(batch_sweep=text).rivals()


def test_a_bundle_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing"):
        TimingOptions(against=f"compile,{tmp_path / 'missing'}").rivals()


def test_an_earlier_bundle_answers_beside_the_engine(tmp_path: Path) -> None:
    write_bundle(tmp_path / "earlier")
    with opponents((str(tmp_path / "earlier"),), None, None, FEED, (1, 4), 1) as found:
        assert found.runners["bundle earlier"](FEED).shape == (4, 4)
    with (
        pytest.raises(InputError, match="compare like with like"),
        opponents((str(tmp_path / "earlier"),), None, None, {"input": IMAGES[..., 1:]}, (1,), 1),
    ):
        pass


# Builds of one network for two branches of a project have one name and lie in two folders.
def test_two_bundles_of_one_name_are_both_timed(tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        write_bundle(tmp_path / folder / "net")
    names = (str(tmp_path / "old" / "net"), str(tmp_path / "new" / "net"))
    with opponents(names, None, None, FEED, (1,), 1) as found:
        assert set(found.runners) == {f"bundle {name}" for name in names}


def test_compiling_is_bounded_and_its_failure_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler is left out: what is protected is that a slow one is stopped and a failing one does not stop a build.
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    monkeypatch.setattr(against, "COMPILE_SECONDS", 0.2)
    with opponents(("compile",), Mean(), IMAGE, FEED, (1, 4), 1) as found:
        np.testing.assert_allclose(found.runners["torch.compile"](FEED), IMAGES.mean((2, 3)), atol=1e-6)
    began = time.monotonic()
    with opponents(("compile",), Slow(), IMAGE, FEED, (1,), 1) as found:
        assert found.runners == {} and "it took more than 1 s" in found.notes[0]
    assert time.monotonic() - began < 10
    with opponents(("compile",), None, None, FEED, (1,), 1) as found:
        assert "ONNX file" in found.notes[0]
