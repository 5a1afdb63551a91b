"""Whatever stands in manifest.json, the loader gives a manifest or one sentence; it never fails in another way."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixrt.engines.bundle.manifest import MAX_BYTES, FileEntry, Manifest
from radixrt.errors import InputError
from tests.engines.bundle.bundles import manifest

GOOD = manifest().model_copy(
    update={
        "files": tuple(
            FileEntry(name=name, bytes=3, sha256="ab" * 32) for name in ("deploy.onnx", "engine.onnx", "sub/table.json")
        )
    }
)
# No subnormals: ONNX Runtime, which other tests open, flushes them to zero for its whole thread.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


def load(data: bytes) -> Manifest | None:
    """None where it is refused in one line; anything else that is raised fails the test."""
    try:
        return Manifest.from_bytes(data, "manifest.json")
    except InputError as error:
        assert str(error).startswith("manifest.json")
        assert "\n" not in str(error)
        return None


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in a JSON document."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, child in children for path in paths(child, (*at, key)))]


CONTENT = json.loads(GOOD.to_bytes())
PATHS = [path for path in paths(CONTENT) if path]


def test_a_good_manifest_survives_the_round_trip() -> None:
    assert load(GOOD.to_bytes()) == GOOD


def test_an_engine_that_is_left_to_the_device_is_absent() -> None:
    left = GOOD.model_copy(update={"engine": None})
    assert load(left.to_bytes()) == left
    content = json.loads(left.to_bytes())
    del content["engine"]
    assert load(json.dumps(content).encode()) == left


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_bytes(data: bytes) -> None:
    assert load(data) is None


@given(st.sampled_from(PATHS), JSON)
@settings(max_examples=200, deadline=None)
def test_any_value_in_any_place(path: tuple[Any, ...], value: Any) -> None:
    content = json.loads(GOOD.to_bytes())
    at = content
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    loaded = load(json.dumps(content).encode("utf-8", "surrogatepass"))
    if loaded is not None:
        # What is taken can be written and read again, and no name in it leaves the bundle.
        assert load(loaded.to_bytes()) == loaded
        for name in (*(entry.name for entry in loaded.files), loaded.engine or loaded.deploy, loaded.deploy):
            assert ".." not in name.split("/")
            assert not name.startswith("/")


@given(st.integers(0, len(GOOD.to_bytes()) - 1), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_any_changed_byte(position: int, change: int) -> None:
    data = bytearray(GOOD.to_bytes())
    data[position] ^= change
    load(bytes(data))


@given(st.text(alphabet="./\\:" + string.ascii_lowercase + "\0\n", max_size=12))
@settings(max_examples=200, deadline=None)
def test_file_names(name: str) -> None:
    content = json.loads(GOOD.to_bytes())
    content["files"][2]["name"] = name
    loaded = load(json.dumps(content).encode())
    if loaded is not None:
        parts = name.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert not set("\\:\0\n") & set(name)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("preprocessing", "mean"), [float("nan")] * 3, "preprocessing"),
        (("preprocessing", "input_size"), [3, 10**9, 10**9], "preprocessing"),
        (("batch",), [0, 4], "batch"),
        (("batch",), [8, 4], "batch"),
        (("precision",), "int4", "precision"),
        (("files", 0, "sha256"), "AB" * 32, r"files\.0\.sha256"),
        (("files", 0, "bytes"), -1, r"files\.0\.bytes"),
        (("surprise",), 1, "surprise"),
    ],
)
def test_values_that_would_do_harm_later_are_named(path: tuple[Any, ...], value: Any, said: str) -> None:
    content = json.loads(GOOD.to_bytes())
    at = content
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(InputError, match=f"is damaged at {said}"):
        Manifest.from_bytes(json.dumps(content).encode(), "manifest.json")


def test_a_file_listed_twice_is_refused() -> None:
    content = json.loads(GOOD.to_bytes())
    content["files"].append(content["files"][0] | {"sha256": "cd" * 32})
    with pytest.raises(InputError, match="listed twice"):
        Manifest.from_bytes(json.dumps(content).encode(), "manifest.json")


def test_an_endless_manifest_is_refused_unread() -> None:
    with pytest.raises(InputError, match="larger than 16 MiB"):
        Manifest.from_bytes(b" " * (MAX_BYTES + 1), "manifest.json")
