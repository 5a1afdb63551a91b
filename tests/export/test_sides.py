"""Protects how ranges of an image's sides are read, which sizes stand for them, and how a network is held to them."""

from __future__ import annotations

import pytest

from radixrt.errors import InputError
from radixrt.export.sides import SideRange, Sides, parse_size, refuse_sides, sized

WIDE = Sides(SideRange(320, 960, 32), SideRange(320, 960, 32))


@pytest.mark.parametrize(
    ("text", "found"),
    [("640", SideRange(640, 640)), (48, SideRange(48, 48)), ("320..960:32", SideRange(320, 960, 32))],
)
def test_a_range_is_read_as_it_is_written(text: str | int, found: SideRange) -> None:
    assert SideRange.parse(text, "--height") == found and str(found) == str(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("wide", "write one size"),
        ("320..960:32:1", "write one size"),
        ("-1..4", "write one size"),
        ("960..320", "must not exceed"),
        ("0..64", "sizes are 1 to"),
        ("64..128:0", "the step must be 1 or more"),
        ("320..960:48", r"come to 944 and then pass 960: write 320..944:48 or 320..992:48"),
        ("320..960:1000", r"write 320..1320:1000"),
    ],
)
def test_what_is_no_range_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        SideRange.parse(text, "--height")
    assert "--height" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("height", ["320..960:32", "48", "64..96:32", "64..65"])
@pytest.mark.parametrize("width", ["320..960:32", "64..128:32", "48..49"])
def test_all_sizes_that_stand_for_a_range_lie_in_it(height: str, width: str) -> None:
    sides = Sides(SideRange.parse(height, "--height"), SideRange.parse(width, "--width"))
    sizes = {*sides.tried, *sides.calibrated, *sides.probes}
    assert all(size in sides for size in sizes)
    assert {sides.lowest, sides.highest} <= set(sides.tried)


def test_the_size_between_is_not_square() -> None:
    assert WIDE.middle == (640, 640) and WIDE.between == (480, 800)


def tried(fails: object) -> str:
    """What is said of a network that fails where ``fails`` says so."""
    with pytest.raises(InputError) as caught:
        refuse_sides(lambda size: "node Add" if fails(*size) else "", WIDE_BY_ONE, "net.onnx")  # type: ignore[operator]
    return str(caught.value)


WIDE_BY_ONE = Sides(SideRange(320, 960), SideRange(320, 960))


def test_a_range_that_a_network_takes_passes() -> None:
    refuse_sides(lambda size: "node Add" if any(side % 32 for side in size) else "", WIDE, "net.onnx")


def test_the_step_that_would_do_is_named() -> None:
    said = tried(lambda height, width: height % 16 or width % 16)
    assert said.startswith("net.onnx does not take 321 x 320, 320 x 321, 321 x 321, 322 x 320 (node Add)")
    assert said.endswith("it takes --height 320..960:16 --width 320..960:16")


def test_a_size_that_is_baked_in_is_named_with_what_fixes_it() -> None:
    assert "it takes one size, 640 x 640 here" in tried(lambda height, width: (height, width) != (640, 640))
    assert "name that size with --input-size" in tried(lambda height, width: True)


def test_a_network_that_fails_at_the_largest_says_which() -> None:
    assert tried(lambda height, width: height > 900).startswith("net.onnx does not take 960 x 960")


def test_free_dimensions_take_their_places() -> None:
    sides = Sides(SideRange(48, 48), SideRange(160, 640, 32))
    assert sides.free_of((48, 320)) == (320,)
    assert sized((-1, 3, 48, -1), 4, (320,)) == (4, 3, 48, 320)
    assert sides.outside((-1, 3, 48, -1), (1, 3, 48, 170)) == "a side of 170 is not one of 160..640:32"


def test_a_size_for_pictures_is_read() -> None:
    assert parse_size("480x640") == (480, 640) and parse_size("fit") == "fit"
    with pytest.raises(InputError, match="480x640"):
        parse_size("480")
