"""All that a GPU check on a bare machine needs, in files of at most 58 MiB each. ``make device-kit``; no GPU is needed.

For each network: four bundles for TensorRT (the original and the rewritten graph, FP16 and INT8, for batches of 1 to
64), images as arrays, what PyTorch and the CPU twin of each bundle answer to them, the labels where the network was
trained for them, and the network as an exported program for PyTorch. ``gpu_check.py`` and ``gpu_baseline.py`` lie
in its first folder, which unpack and run it all (``make gpu-check KIT=FOLDER``).

Large networks get random weights that pack small: every layer repeats one pool of numbers. They take as long as any
others; the sample networks, which are trained, say what INT8 costs. A network whose files are there is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import lzma
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks import tensorrt_kit
from radixrt.build.deploy import calibrated, typed_graph
from radixrt.build.target import Job, build, manifest_of
from radixrt.calibration.data.source import load_data
from radixrt.engines.base import GRAPH_NAME, BuildOptions
from radixrt.engines.bundle.folder import Bundle, BundleWriter
from radixrt.engines.registry import get, stand_in
from radixrt.engines.runners import in_batches, session_outputs
from radixrt.export.feed import Feed, joined
from radixrt.export.graph.save import write_onnx
from radixrt.export.source.load import load
from radixrt.export.source.module_inputs import ModuleInputs
from radixrt.export.source.names import resolve
from radixrt.export.source.randomise import enliven, fit_statistics
from radixrt.export.spec import BatchSpec, Precision
from radixrt.files import sha256_of
from radixrt.judge.engine import Bench
from radixrt.judge.measure import Trial
from radixrt.options import CompileOptions, ModelChoice
from radixrt.prepare.inputs import resolve_preprocess
from radixrt.prepare.network import Prepared, prepare
from radixrt.progress import Stages, shown
from radixrt.request import EngineRequest
from radixrt.reuse import Reuse

LARGE = ("resnest50", "seresnext50_32x4d", "skresnext50_32x4d")
SAMPLES = ("resnest-nano-elpv", "sknet-nano-elpv", "senet-nano-elpv")
PART = 58 << 20
LIST = 64 << 10  # left for lists and scripts beside a part
BATCH = BatchSpec(1, 64)
# A trained network gets as many as tell 0.1 point of accuracy, in whole batches.
IMAGES, IMAGES_OF_A_SAMPLE = 64, 960
TARGET = "tensorrt"
POOL = 16381
CHECK = ("gpu_check.py", "gpu_baseline.py")


def pooled(module: Any, shape: tuple[int, int, int], batches: Iterator[Feed]) -> None:
    """Gives a network random weights that repeat one pool, whose largest number every output channel has."""
    import torch

    pool = np.clip(np.random.RandomState(0).randn(POOL), -2.4, 2.4).astype(np.float16).astype(np.float32)
    pool[::8] = np.where(pool[::8] < 0, -2.5, 2.5)
    enliven(module)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim > 1:
                numbers = pool[(np.arange(weight.numel()) + zlib.crc32(name.encode())) % POOL]
                scale = np.float32((2 / weight[0].numel()) ** 0.5)
                weight.copy_(torch.from_numpy((numbers * scale).reshape(tuple(weight.shape))))
        fit_statistics(module, ModuleInputs.image(shape), batches)
        for layer in module.modules():
            if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
                for statistic in (layer.running_mean, layer.running_var):
                    assert statistic is not None
                    statistic.fill_(float(statistic.mean()))


def make(name: str, folder: Path, calibration: int, stages: Stages) -> None:
    """Writes everything of one network into a folder."""
    images = IMAGES if name in LARGE else IMAGES_OF_A_SAMPLE
    options = CompileOptions(
        model=name, target=TARGET, batch=str(BATCH), calibration_images=calibration, test_images=images, data="elpv"
    )
    request = EngineRequest.of(options, "make device-kit")
    with Reuse() as reuse:
        choice = request.model
        if name in LARGE:
            with stages.stage("Drawing weights that pack small"):
                model = load(resolve(name), seed=0)
                seen = resolve_preprocess(model, choice, request.data).values
                photographs = load_data("elpv", seen, calibration_limit=32).calibration
                pooled(model.module, seen.input_size, (batch.inputs for batch in photographs.batches(16, 32)))
            choice = ModelChoice(name=name, module=model.module)
        prepared = prepare(choice, request.data, BATCH, stages, reuse)
        batches = list(prepared.test.batches(8, images))
        samples = joined(batch.inputs for batch in batches)
        np.savez(folder / "images.npz", **samples)  # type: ignore[arg-type]  # of allow_pickle
        answers = {"pytorch": _first(in_batches(prepared.reference.run, BatchSpec(1, 8))(samples))}
        if name not in LARGE:
            answers["labels"] = np.asarray([label for batch in batches for label in batch.targets or ()])
        for precision in (Precision.FP16, Precision.INT8):
            asked = replace(request, model=choice, build=replace(request.build, precision=precision))
            trial = Trial(BATCH, request.data, request.gates, rounds=1)
            job = Job(asked, Bench(prepared, trial, stages, reuse))
            for key, bundle in _bundles(job, folder).items():
                with stages.stage(f"Answering with the CPU twin of {key}"):
                    answers[key] = _twin(bundle, precision, samples)
        np.savez(folder / "answers.npz", **answers)  # type: ignore[arg-type]  # as above
        _export(prepared, samples, folder / "network.pt2")


def _bundles(job: Job, folder: Path) -> dict[str, Bundle]:
    """The rewritten graph, and what a plain export gives: the graph as captured, in the precision's types alone."""
    bench, precision = job.bench, job.request.precision
    plain = bench.prepared.graph
    table = None
    if precision is Precision.INT8:
        images = bench.prepared.data.calibration
        table = calibrated(plain, images, job.request.calibration, bench.stages, bench.reuse).table
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        built = build(job, get(TARGET), Path(scratch))
        manifest = manifest_of(job, built).model_copy(update={"engine": None, "built_for": None, "executed": False})
        graphs = {"rewritten": built.deploy.model, "original": typed_graph(plain, precision, TARGET, table).model}
    for kind, graph in graphs.items():
        key = f"{kind}-{precision.value}"
        with BundleWriter(folder / key) as writer:
            write_onnx(graph, writer.folder / GRAPH_NAME)
            found[key] = writer.finish(manifest)
    return found


def _twin(bundle: Bundle, precision: Precision, samples: Feed) -> np.ndarray[Any, Any]:
    target = stand_in()
    with tempfile.TemporaryDirectory() as scratch:
        options = BuildOptions(precision, BATCH)
        built = target.build(bundle.deploy, Path(scratch), options)
        with target.open(built.files[0]) as session:
            return _first(session_outputs(session, BatchSpec(1, 8))(samples))


def _first(outputs: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(next(iter(outputs.values())))


def _export(prepared: Prepared, samples: Feed, path: Path) -> None:
    """The network for PyTorch on the device, which needs no definition of it there."""
    import torch

    module = prepared.model.module
    assert module is not None
    size = torch.export.Dim("batch", min=1, max=BATCH.max)
    given = tuple(torch.from_numpy(array[:2]) for array in samples.values())
    dims = tuple({0: size} for _ in given)
    torch.export.save(torch.export.export(module.eval(), given, dynamic_shapes=dims), path)


def pack(folder: Path, kit: Path) -> None:
    """Packs a folder into parts of at most ``PART`` bytes, under its name; graphs side by side share their weights.

    Each part lies in a numbered folder of the kit that holds no more than ``PART`` bytes either, so that one folder
    can be carried at a time. The list of the parts with their hashes is written last: what is listed is whole.
    """
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 256 << 20}]
    whole, files = folder.with_suffix(".tar.xz"), dict[str, str]()
    with lzma.open(whole, "wb", filters=filters) as stream, tarfile.open(fileobj=stream, mode="w|") as archive:
        archive.add(folder, folder.name)
    with whole.open("rb") as packed:
        while piece := packed.read(PART - LIST):
            part = place_for(len(piece) + LIST, kit) / f"{whole.name}.{len(files):02d}"
            part.write_bytes(piece)
            files[part.name] = sha256_of(part)
    # Beside the last part: whoever carries the folders in their order has a list when all that it names is there.
    part.with_name(f"{folder.name}.json").write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")


def place_for(size: int, kit: Path) -> Path:
    """The first numbered folder that has room."""
    for number in itertools.count():
        folder = kit / f"{number:02d}"
        held = sum(file.stat().st_size for file in folder.glob("*"))
        if not held or held + size <= PART:
            folder.mkdir(parents=True, exist_ok=True)
            return folder
    raise AssertionError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"by default {', '.join((*LARGE, *SAMPLES))}")
    parser.add_argument("--output", type=Path, default=Path("build/device-kit"))
    parser.add_argument("--calibration-images", type=int, default=64)
    parser.add_argument("--tensorrt", action="store_true", help=f"also TensorRT {tensorrt_kit.VERSION}, with a Python")
    parser.add_argument("--python", type=Path, help="--tensorrt: the Python that travels (3.8 to 3.10)")
    args = parser.parse_args()
    console = Console(stderr=True)
    first = args.output / "00"
    first.mkdir(parents=True, exist_ok=True)
    for file in CHECK:
        shutil.copyfile(Path(__file__).with_name(file), first / file)
    with shown(console):
        # The large ones first: they fill the first folder, with which a check begins.
        for name in (*(args.models or (*LARGE, *SAMPLES)), *([tensorrt_kit.NAME] if args.tensorrt else [])):
            if list(args.output.glob(f"[0-9][0-9]/{name}.json")):
                continue
            for left in args.output.glob(f"[0-9][0-9]/{name}.tar.xz.*"):
                left.unlink()  # of a run that was interrupted
            with tempfile.TemporaryDirectory(dir=args.output, prefix=".making-") as scratch:
                folder = Path(scratch) / name
                folder.mkdir()
                if name == tensorrt_kit.NAME:
                    tensorrt_kit.make(folder, args.python or tensorrt_kit.find_python())
                else:
                    make(name, folder, args.calibration_images, Stages(console))
                pack(folder, args.output)
    for file in sorted(args.output.glob("[0-9][0-9]/*.tar.xz.*")):
        print(f"{file.stat().st_size / (1 << 20):6.1f} MiB  {file.relative_to(args.output)}")


if __name__ == "__main__":
    main()
