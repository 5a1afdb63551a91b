"""The sample networks are what they claim: timm's blocks, one attention family each, small, trained, well-spoken."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.layers import SelectiveKernel, SEModule, SplitAttn
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import Bottleneck
from timm.models.sknet import SelectiveKernelBottleneck

from radixrt.calibration.data.images import Entry, ImageList
from radixrt.calibration.data.preprocess import Preprocess
from radixrt.calibration.data.source import load_data, load_training_data
from radixrt.errors import InputError
from radixrt.export.samples import networks
from radixrt.export.samples.sample import SAMPLES, Sample, find
from samples.accuracy import evaluate
from samples.lessons import Classes, Cracks, Lesson, Spots, augment
from samples.train import Recipe, save, train

ATTENTION = {"resnest": SplitAttn, "sknet": SelectiveKernel, "senet": SEModule}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # Two test processes with two threads each wait for one another most of the time.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


each_classifier = pytest.mark.parametrize("sample", SAMPLES[:3], ids=lambda sample: sample.name)
each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)


@each_sample
def test_has_one_attention_module_in_every_block(sample: Sample) -> None:
    modules = list(sample.build(4).modules())
    blocks = sum(isinstance(m, ResNestBottleneck | SelectiveKernelBottleneck | Bottleneck) for m in modules)
    assert blocks == 6
    assert {family: sum(isinstance(m, kind) for m in modules) for family, kind in ATTENTION.items()} == {
        family: blocks if family == sample.family else 0 for family in ATTENTION
    }


def test_resnest_has_radix_two_and_sknet_two_groups() -> None:
    resnest, sknet = (find(name) for name in ("resnest-nano-elpv", "sknet-nano-elpv"))
    assert resnest is not None and sknet is not None
    assert {m.radix for m in resnest.build(4).modules() if isinstance(m, SplitAttn)} == {2}
    paths = [m.paths for m in sknet.build(4).modules() if isinstance(m, SelectiveKernel)]
    assert {path.conv.groups for pair in paths for path in pair} == {2}


@each_sample
def test_weights_fit_a_repository_and_the_record_describes_them(sample: Sample) -> None:
    assert sample.require_weights().stat().st_size <= 6_000_000
    assert all(tensor.dtype != torch.float16 for tensor in load_file(sample.weights).values())
    record = sample.record()
    assert tuple(record["labels"]) == sample.labels
    assert Preprocess.from_config(record["data_config"]) == Preprocess.from_config(sample.data_config)
    # A user may copy both files elsewhere and give the weights as a checkpoint: the JSON beside them must do.
    other = Preprocess(input_size=(3, 224, 224), mean=(0.1,), std=(0.2,))
    assert other.with_file(sample.weights.with_suffix(".json")) == Preprocess.from_config(sample.data_config)
    assert record["training"]["seed"] == Recipe.seed
    assert record["training"]["images"] == len(load_training_data(other))


@each_classifier
def test_trained_network_is_far_above_the_largest_class(sample: Sample) -> None:
    # Guards weights, preprocessing and the order of the labels at once: any of them wrong costs half the points.
    data = load_data("elpv", Preprocess.from_config(sample.data_config))
    found = evaluate(sample, data, limit=160)
    assert found.samples == 160
    assert found.majority < 0.5
    assert found.top1 > 0.75
    assert found.balanced > 0.65


def test_absent_weights_say_where_they_come_from(tmp_path: Path) -> None:
    absent = dataclasses.replace(SAMPLES[0], weights=tmp_path / "absent.safetensors")
    for call in (absent.load, absent.record, absent.require_weights):
        with pytest.raises(InputError, match="source tree"):
            call()


@pytest.mark.parametrize("damage", ["truncated", "text", "another network"])
def test_wrong_weights_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "weights.safetensors"
    if damage == "another network":
        save_file(SAMPLES[1].build(4).state_dict(), path)
    else:
        whole = SAMPLES[0].weights.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"not weights")
    with pytest.raises(InputError, match="does not hold the weights of resnest-nano-elpv") as caught:
        dataclasses.replace(SAMPLES[0], weights=path).load()
    assert "\n" not in str(caught.value)


def test_unknown_name_finds_nothing() -> None:
    assert find("resnest50") is None


def test_definitions_load_without_torch() -> None:
    # The list of models is printed by a command line that starts quickly.
    import subprocess
    import sys

    code = "import sys, radixrt.export.samples.sample; print('torch' in sys.modules or 'timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def a_few_photographs(folder: Path) -> ImageList:
    random = np.random.default_rng(0)
    entries = []
    for number in range(64):
        pixels = random.integers(0, 200, (32, 32), dtype=np.uint8) + number % 4
        Image.fromarray(pixels).save(folder / f"{number}.png")
        entries.append(Entry(f"{number}.png", folder / f"{number}.png", number % 4))
    return ImageList(entries, Preprocess(input_size=(3, 32, 32), mean=(0.6,), std=(0.16,), crop_pct=1.0))


def test_training_repeats_to_the_bit_and_what_is_saved_loads(tmp_path: Path) -> None:
    from rich.progress import Progress

    recipe = Recipe(epochs=1)
    images = a_few_photographs(tmp_path)
    first, second = (train(SAMPLES[2], Classes(images), recipe, Progress(disable=True)) for _ in range(2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    copy = dataclasses.replace(SAMPLES[2], weights=tmp_path / "copy.safetensors")
    save(copy, first, 64, recipe)
    inputs = torch.zeros(1, 3, 32, 32)
    assert torch.equal(copy.load()(inputs), first(inputs))
    assert copy.record()["training"]["epochs"] == 1


def test_augmentation_keeps_shape_and_scale_and_changes_every_image() -> None:
    pixels = torch.randint(0, 200, (64, 1, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    images = augment(pixels, torch.Generator().manual_seed(0))
    assert images.shape == pixels.shape
    assert images.min() >= 0 and images.max() <= 1
    same = (images - pixels.float() / 255).abs().amax(dim=(1, 2, 3)) < 1e-3
    assert not same.any()


@pytest.mark.parametrize(("kind", "name"), [(Cracks, "resnest-nano-cracks"), (Spots, "sknet-nano-spots")])
def test_a_step_on_painted_photographs_lowers_the_loss(tmp_path: Path, kind: type[Lesson], name: str) -> None:
    sample, lesson = find(name), kind(a_few_photographs(tmp_path))
    assert sample is not None
    torch.manual_seed(0)
    module = sample.build(2).train()
    inputs, target = lesson.examples(torch.arange(4), 0, torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        losses.append(loss := lesson.loss(module, inputs.repeat(1, 3, 1, 1), target))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[2] < losses[1] < losses[0]


def test_the_detector_gives_the_best_boxes_first_and_any_class_its_place() -> None:
    module = networks.Detector(2).eval()
    logits, sides = torch.full((1, 2, 8, 8), -9.0), torch.full((1, 4, 8, 8), 6.0)
    logits[0, 1, 2, 3], logits[0, 0, 5, 7], logits[0, 1, 2, 4] = 3.0, 1.0, 2.0  # the third has a larger neighbour
    module.maps = lambda images: (logits, sides)
    found = module(torch.zeros(1, 3, 32, 32))
    assert found.scores.shape == (1, 16) and found.labels[0, :2].tolist() == [1, 0]
    assert found.boxes[0, :2].tolist() == [[8, 4, 20, 16], [24, 16, 36, 28]]
    assert found.scores[0, 2] < 0.01
