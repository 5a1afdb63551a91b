"""Weights of a file: their data lies in the file or its folder, and is as large as the file says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from radixrt.errors import InputError
from radixrt.export.reader.onnx_file import read_onnx
from radixrt.export.reader.tensors import load_tensors
from tests.export.reader.test_onnx_file import save, tiny


def external(model: onnx.ModelProto, **entries: str) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def test_external_data_beside_the_file_is_read(tmp_path: Path) -> None:
    model = tiny()
    (tmp_path / "w.bin").write_bytes(b"skip" + model.graph.initializer[0].raw_data)
    expected = numpy_helper.to_array(model.graph.initializer[0])
    external(model, location="w.bin", offset="4")
    found = read_onnx(save(model, tmp_path)).graph.initializers["w"].const_value
    assert found is not None
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret.bin"}, "outside"),
        ({"location": "/etc/hostname"}, "outside"),
        ({"location": "link.bin"}, "outside"),
        ({"location": ""}, "outside"),
        ({"location": "a\0b"}, "outside"),
        ({"location": "nothing.bin"}, "missing"),
        ({"location": "short.bin"}, "does not hold"),
        ({"location": "short.bin", "offset": "-4"}, "does not hold"),
        ({"location": "short.bin", "offset": "x"}, "bad place"),
        ({"location": "short.bin", "length": "1"}, "does not hold"),
    ],
)
def test_external_data_stays_in_its_folder(entries: dict[str, str], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1000))
    (folder / "short.bin").write_bytes(bytes(10))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    model = tiny()
    external(model, **entries)
    with pytest.raises(InputError, match=message):
        read_onnx(save(model, folder))


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("elements", [4, 5])
def test_numbers_of_four_bits_lie_in_pairs(raw: bool, elements: int) -> None:
    model = tiny()
    tensor = helper.make_tensor(
        "w", TensorProto.INT4, [elements], bytes(3 if elements == 5 else 2) if raw else [1] * elements, raw
    )
    model.graph.initializer[0].CopyFrom(tensor)
    load_tensors(model, Path("net.onnx"))
    model.graph.initializer[0].dims[0] += 2
    with pytest.raises(InputError, match="w claims"):
        load_tensors(model, Path("net.onnx"))
