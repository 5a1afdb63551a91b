"""Files that Polygraphy saved, as samples and as answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radixrt.calibration.arrays.saved import read_inputs, read_outputs
from radixrt.calibration.arrays.source import open_arrays
from radixrt.errors import InputError
from radixrt.export.spec import InputSpec

save_json = pytest.importorskip("polygraphy.json", reason="polygraphy is not installed").save_json


def iterations() -> list[dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(size=(n, 3)).astype(np.float32), "mask": np.ones((n, 1), np.int64)} for n in (2, 1)]


# The rows of all iterations are the samples, whatever the batch that Polygraphy ran with.
def test_each_row_of_each_iteration_is_a_sample(tmp_path: Path) -> None:
    save_json(iterations(), str(file := tmp_path / "inputs.json"))
    source = open_arrays(str(file))
    assert source is not None
    samples, test = source.split([InputSpec("x", (None, 3), "float32"), InputSpec("mask", (None, 1), "int64")], 100)
    found = next(samples.batches(8)).inputs
    np.testing.assert_array_equal(found["x"], np.concatenate([one["x"] for one in iterations()]))
    assert test is None and len(samples) == 3 and found["mask"].dtype == np.int64


@pytest.mark.parametrize(
    "content",
    [[], [1, 2], [{}], [{"x": {"y": 1}}], [[{"x": 3}]]],
    ids=["nothing", "numbers", "empty", "names", "lists"],
)
def test_what_holds_no_arrays_is_said(content: list[Any], tmp_path: Path) -> None:
    (file := tmp_path / "inputs.json").write_text(json.dumps(content))
    for read in (read_inputs, read_outputs, open_arrays):
        with pytest.raises(InputError, match=r"inputs\.json does not hold numbers by name.*--save-inputs"):
            read(file)


def test_rows_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    save_json([{"x": np.zeros((2, 3)), "mask": np.zeros((1, 1))}], str(file := tmp_path / "inputs.json"))
    with pytest.raises(InputError, match="the first axis the samples"):
        read_inputs(file)


# Annotations of images are JSON too.
def test_other_json_is_left_to_those_who_read_it(tmp_path: Path) -> None:
    (file := tmp_path / "instances.json").write_text('{"images": [], "annotations": []}')
    assert open_arrays(file) is None
