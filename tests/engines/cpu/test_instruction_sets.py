"""The same numbers on every processor, as far as the libraries let one processor stand for another.

OpenVINO's kernels are oneDNN's, which heeds ONEDNN_MAX_CPU_ISA in released builds too; OpenVINO's own conversions know
no such limit. ONNX Runtime has none. A limit above what the processor has changes nothing.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import radixrt as rt
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.engines.base import BuildOptions
from radixrt.engines.bundle.folder import Bundle, BundleWriter
from radixrt.engines.bundle.manifest import Manifest, ModelIdentity, TensorInfo
from radixrt.engines.cpu.openvino import OpenVinoTarget
from radixrt.export.spec import Precision
from tests.networks import gated

pytest.importorskip("openvino")
pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="limits are of x86")

ROOT = Path(__file__).resolve().parents[3]
# AVX2 and AVX512_CORE have no VNNI: they add pairs of products in 16 bits.
SETS = ("AVX2", "AVX512_CORE", "ALL")
IN_16_BITS = ("AVX2", "AVX512_CORE")


def under(instruction_set: str, *command: object) -> subprocess.CompletedProcess[str]:
    """Runs this Python in a process that is told to use no more than an instruction set."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instruction_set, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )


# 8-bit weights are wrong by up to a quarter where sums saturate; what an engine gets must not be, in any layout.
@pytest.mark.parametrize("instruction_set", SETS)
def test_no_sum_saturates(instruction_set: str, tmp_path: Path) -> None:
    done = under(instruction_set, "-m", "tests.engines.cpu.saturating", tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told) == 18
    wrong = {name: ours for name, (_, ours, _) in told.items() if ours > 1e-5}
    assert not wrong
    if instruction_set in IN_16_BITS:
        saturated = [name for name, (plain, _, _) in told.items() if plain > 1e-2]
        assert len(saturated) >= 12, "the limit has no effect any more: this test would prove nothing"
        assert "avx2" in told["3x3, u8"][2] or instruction_set != "AVX2"


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that this processor built."""
    kind, spec = str(request.param), {"dtype": "float32"}
    with BundleWriter(tmp_path_factory.mktemp("built") / kind) as writer:
        graph = gated.save(writer.folder, kind).rename(writer.folder / "deploy.onnx")
        built = OpenVinoTarget().build(graph, writer.folder, BuildOptions(Precision(kind)))
        return writer.finish(
            Manifest(
                created="2026-01-01T00:00:00+00:00",
                radixrt=rt.__version__,
                model=ModelIdentity(name="tiny", source="a test", weights="random", parameters=1),
                precision=kind,  # type: ignore[arg-type]
                target="openvino",
                executed=True,
                inference_precision=built.facts["inference_precision"],
                inputs=(TensorInfo(name="input", shape=(1, 3, 16, 16), **spec),),
                outputs=(TensorInfo(name="logits", shape=(1, gated.CLASSES), **spec),),
                preprocessing=Preprocess(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3),
                engine=built.files[0].name,
            )
        )


_BOTH_LOADERS = """
import sys
from pathlib import Path
import numpy as np
import openvino as ov

# What somebody set for the whole of OpenVINO must not decide what an engine computes in.
made = ov.Core.__init__
def asked_otherwise(core, *arguments):
    made(core, *arguments)
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": sys.argv[3]})
if sys.argv[3]:
    ov.Core.__init__ = asked_otherwise
from radixrt.engines.bundle.folder import Bundle
bundle, image = Path(sys.argv[1]), np.load(sys.argv[2])
with Bundle.read(bundle).open(threads=1) as session:
    ours = session.run({"input": image})["logits"]
sys.path.insert(0, str(bundle))
import run
np.save(sys.argv[4], np.stack([ours, run.open_openvino(bundle / "engine.xml", ["logits"])(image)["logits"]]))
"""


# The processor's instructions and the precision that it would prefer are handed in, not read.
@pytest.mark.parametrize("hint", ["", "f32", "bf16"])
@pytest.mark.parametrize("instruction_set", ["AVX2", "ALL"])
def test_a_bundle_gives_the_numbers_of_its_maker_elsewhere(
    bundle: Bundle, instruction_set: str, hint: str, tmp_path: Path
) -> None:
    image = gated.images(1)
    np.save(tmp_path / "image.npy", image)
    with bundle.open(threads=1) as session:
        expected = session.run({"input": image})["logits"]
    result = tmp_path / "found.npy"
    done = under(instruction_set, "-c", _BOTH_LOADERS, bundle.path, tmp_path / "image.npy", hint, result)
    assert done.returncode == 0, done.stderr
    # Sums of some hundred float32 products in another order; an INT8 step would be a thousand times as much.
    for found in np.load(result):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_precision_that_no_loader_knows_is_refused(tmp_path: Path) -> None:
    from tests.engines.bundle.bundles import write_bundle

    made = write_bundle(tmp_path / "bundle").path
    content = json.loads((made / "manifest.json").read_text()) | {"inference_precision": "f8"}
    (made / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(rt.InputError, match="damaged at inference_precision"):
        Bundle.read(made)
    done = subprocess.run([sys.executable, made / "run.py", made], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "asks for a precision that this runner does not know" in done.stderr


# The whole contract, as a processor without VNNI and BF16 would keep it.
@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", ["AVX2", "AVX512_CORE_VNNI"])
def test_the_engine_s_contract_holds(instruction_set: str) -> None:
    done = under(instruction_set, "-m", "pytest", "-p", "no:cacheprovider", "tests/engines/cpu/test_openvino.py")
    assert done.returncode == 0, done.stdout + done.stderr


_SAMPLE = """
import sys
from pathlib import Path
import numpy as np
import onnxruntime
import openvino as ov

made = ov.Core.__init__
def asked_otherwise(core, *arguments):
    made(core, *arguments)
    core.set_property("CPU", {"INFERENCE_PRECISION_HINT": sys.argv[2]})
ov.Core.__init__ = asked_otherwise
from radixrt.calibration.int8 import sqnr_db
from radixrt.engines.base import BuildOptions
from radixrt.engines.cpu.openvino import OpenVinoTarget
from radixrt.export.spec import Precision

folder = Path(sys.argv[1])
original = onnxruntime.InferenceSession(folder / "float.onnx")
engine = OpenVinoTarget().build(folder / "float.onnx", folder, BuildOptions(Precision.FP32)).files[0]
name, shape = original.get_inputs()[0].name, original.get_inputs()[0].shape
images = np.random.default_rng(0).normal(size=(8, *shape[1:])).astype(np.float32)
expected = np.concatenate([original.run(None, {name: image[None]})[0] for image in images])
with OpenVinoTarget().open(engine, threads=1) as session:
    found = np.concatenate([next(iter(session.run({name: image[None]}).values())) for image in images])
print(sqnr_db(expected, found))
"""


# 45 dB where OpenVINO takes BF16 by itself; float32 in another order of sums leaves 120 and more.
@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnest-nano-elpv", "sknet-nano-elpv", "senet-nano-elpv"])
def test_fp32_is_fp32_whatever_the_hint(model: str, tmp_path: Path) -> None:
    from tests.cli_runner import radixrt

    assert radixrt("export", model, "-o", tmp_path / "float.onnx").code == 0
    for hint in ("f32", "bf16"):
        done = under("ALL", "-c", _SAMPLE, tmp_path, hint)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) > 100
