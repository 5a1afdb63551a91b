"""Protects how a task is read off a network and its data, and what is refused."""

from __future__ import annotations

import pytest

from radixrt.calibration.data.targets import TargetKind
from radixrt.errors import InputError
from radixrt.validate.tasks.base import Interface
from radixrt.validate.tasks.choose import choose


@pytest.mark.parametrize(
    ("shape", "end", "labelled", "task"),
    [
        (("batch", 4), "Gemm", True, "classify"),
        (("batch", 4), "Gemm", False, "classify"),
        (("batch", 4), "Softmax", False, "classify"),
        (("batch", 4, 1, 1), "Conv", False, "classify"),
        (("batch", 4), "Sigmoid", True, "classify"),
        (("batch", 4), "Sigmoid", False, "tensors"),
        (("batch", 64), "Div", False, "tensors"),
        (("batch", 1), "Gemm", False, "tensors"),
        (("batch",), "Squeeze", False, "tensors"),
        (("batch", 4, 32, 32), "Conv", False, "tensors"),
        ((1, 40, 97), "Softmax", False, "tensors"),
    ],
)
def test_the_task_is_read_off(shape: tuple[object, ...], end: str, labelled: bool, task: str) -> None:
    chosen = choose(None, Interface({"y": shape}, end, ("y",), labelled=labelled))
    assert chosen.task.name == task
    assert chosen.sentence.startswith(f"The task is {task}, because the main output is y (N")


@pytest.mark.parametrize(
    ("shape", "end", "targets", "classes", "task"),
    [
        (("batch", 4, 32, 32), "Conv", TargetKind.MASKS, (), "segment"),
        (("batch", 6), "Sigmoid", TargetKind.LABELS, ("a", "b"), "multilabel"),
        (("batch", 1), "Gemm", TargetKind.NUMBERS, (), "regress"),
        (("batch",), "Squeeze", TargetKind.NUMBERS, (), "regress"),
        (("batch", 1), "Gemm", TargetKind.CLASSES, ("0", "1", "2"), "regress"),
        (("batch", 1), "Gemm", TargetKind.CLASSES, ("ash", "oak"), "tensors"),
        (("batch", 64), "Div", TargetKind.CLASSES, ("ash", "oak"), "embed"),
        (("batch", 64), "Gemm", TargetKind.CLASSES, ("ash", "oak"), "embed"),
        (("batch", 1000), "Gemm", TargetKind.CLASSES, ("ash", "oak"), "classify"),
        (("batch", 4), "Gemm", TargetKind.MASKS, (), "classify"),
    ],
)
def test_the_task_is_read_off_what_the_images_are_labelled_with(
    shape: tuple[object, ...], end: str, targets: TargetKind, classes: tuple[str, ...], task: str
) -> None:
    network = Interface({"y": shape}, end, ("y",), targets=targets, data_classes=classes)
    chosen = choose(None, network)
    assert chosen.task.name == task and "the main output is y (N" in chosen.why


def test_a_named_task_is_taken_where_it_fits() -> None:
    flat, image = Interface({"y": ("batch", 4)}), Interface({"y": ("batch", 4, 8, 8)})
    assert choose("tensors", flat).sentence == "The task is tensors, because it was asked for."
    with pytest.raises(InputError, match=r"cannot classify: its main output is y \(N x 4 x 8 x 8\)"):
        choose("classify", image)
    with pytest.raises(InputError, match="there is no task 'segments'"):
        choose("segments", flat)


def test_recovery_aims_at_what_the_task_is_judged_by() -> None:
    two = Interface({"y": ("batch", 4), "map": ("batch", 3, 8, 8), "ids": ("batch", 1)}, floats=("y", "map"))
    assert choose("classify", two).task.aims(two) == ("y",)
    assert choose("tensors", two).task.aims(two) == ("y", "map")
