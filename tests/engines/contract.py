"""What every engine that runs here must keep; each engine's test inherits it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from radixrt.engines import registry
from radixrt.engines.base import BuildOptions, Target
from radixrt.engines.session import Array, Session
from radixrt.errors import InputError
from radixrt.export.spec import BatchSpec, Precision
from tests.networks import gated


def resident_bytes() -> int:
    """Returns the memory that this process holds, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class EngineContract:
    """Inherit it, and name the target."""

    name = ""
    # Absolute, on logits of order 1: an FP16 weight is off by 2^-11 of itself, an INT8 input by half a step of 3/127.
    tolerance: ClassVar = {"fp32": 1e-4, "fp16": 1e-2, "int8": 2e-2}

    @pytest.fixture(scope="class")
    def target(self) -> Target:
        target = registry.get(self.name)
        if not target.capability().runs:
            pytest.skip(target.capability().reason)
        return target

    @pytest.fixture(scope="class")
    def built(self, target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp(self.name)
        deploy = gated.save(folder, "fp32")
        return target.build(deploy, folder, BuildOptions(Precision.FP32)).files[0]

    @pytest.fixture
    def session(self, target: Target, built: Path) -> Iterator[Session]:
        with target.open(built, threads=1) as session:
            yield session

    def test_names_shapes_and_types_are_those_of_the_graph(self, session: Session) -> None:
        (spec,) = session.inputs
        (result,) = session.outputs
        assert (spec.name, spec.shape, spec.dtype) == ("input", (1, 3, 16, 16), np.float32)
        assert (result.name, result.shape, result.dtype) == ("logits", (1, gated.CLASSES), np.float32)

    @pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
    def test_results_are_those_of_the_reference(self, target: Target, tmp_path: Path, kind: str) -> None:
        deploy = gated.save(tmp_path, kind)
        engine = target.build(deploy, tmp_path, BuildOptions(Precision(kind))).files[0]
        array = gated.images(1)
        with target.open(engine, threads=1) as session:
            got = session.run({"input": array})["logits"]
        want = gated.reference(gated.tiny(kind), array)
        np.testing.assert_allclose(got, want, rtol=0, atol=self.tolerance[kind])

    def test_a_dynamic_batch_takes_every_size_and_mixes_no_images(self, target: Target, tmp_path: Path) -> None:
        deploy = gated.save(tmp_path, "fp32", "batch")
        engine = target.build(deploy, tmp_path, BuildOptions(Precision.FP32, BatchSpec(1, 4))).files[0]
        array = gated.images(4)
        with target.open(engine, threads=1) as session:
            assert session.inputs[0].shape == (-1, 3, 16, 16)
            whole = session.run({"input": array})["logits"]
            for count in (1, 3, 2):
                part = session.run({"input": array[:count]})["logits"]
                np.testing.assert_allclose(part, whole[:count], rtol=0, atol=1e-5)

    @pytest.mark.parametrize(
        ("feeds", "said"),
        [
            ({"image": gated.images(1)}, "takes inputs"),
            ({}, "takes inputs"),
            ({"input": gated.images(1).astype(np.float64)}, "float64"),
            ({"input": gated.images(2)}, "shape"),
            ({"input": gated.images(1)[0]}, "shape"),
        ],
    )
    def test_a_wrong_input_is_refused(self, session: Session, feeds: dict[str, Array], said: str) -> None:
        with pytest.raises(InputError, match=said):
            session.run(feeds)
        assert session.run({"input": gated.images(1)})["logits"].shape == (1, gated.CLASSES)

    def test_a_closed_session_says_so(self, target: Target, built: Path) -> None:
        session = target.open(built, threads=1)
        session.close()
        session.close()
        with pytest.raises(InputError, match="closed"):
            session.run({"input": gated.images(1)})

    def test_two_sessions_do_not_disturb_each_other(self, target: Target, built: Path) -> None:
        first, second = gated.images(1, seed=1), gated.images(1, seed=2)
        with target.open(built, threads=1) as one, target.open(built, threads=1) as two:
            kept = one.run({"input": first})["logits"]
            copy = kept.copy()
            other = two.run({"input": second})["logits"]
            one.run({"input": second})
            # What a run returned stays as it was: a later run must not write into it.
            np.testing.assert_array_equal(kept, copy)
            np.testing.assert_array_equal(one.run({"input": first})["logits"], copy)
            assert np.abs(other - copy).max() > 0

    def test_ten_thousand_runs_hold_no_more_memory(self, session: Session) -> None:
        array = gated.images(1)
        for _ in range(100):
            session.run({"input": array})
        gc.collect()
        before = resident_bytes()
        for _ in range(10_000):
            session.run({"input": array})
        gc.collect()
        # One leaked input a run would be 30 MB, a leaked hundred bytes a run 1 MB; the allocator's own noise is below.
        assert resident_bytes() - before < 1_000_000

    def test_a_file_that_is_no_engine_is_refused(self, target: Target, tmp_path: Path) -> None:
        broken = tmp_path / f"engine{target.suffix}"
        broken.write_bytes(b"not an engine")
        with pytest.raises(InputError, match="build it again"):
            target.open(broken)

    def test_a_graph_that_is_no_graph_is_refused(self, target: Target, tmp_path: Path) -> None:
        broken = tmp_path / "deploy.onnx"
        broken.write_bytes(b"not a graph")
        with pytest.raises(InputError, match=r"deploy\.onnx"):
            target.build(broken, tmp_path, BuildOptions(Precision.FP32))
