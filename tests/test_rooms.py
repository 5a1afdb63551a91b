"""The house: rooms of a dozen modules at most, modules that fit a screen or ten, one for each noun."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("export", "calibration", "engines", "validate", "radixrt")


def sources() -> list[Path]:
    """Every module of RadixRT, once: the links in radixrt/ are not followed."""
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    return [file.relative_to(ROOT) for file in files if not any(p.is_symlink() for p in file.parents)]


def test_a_room_holds_a_dozen_modules() -> None:
    # A folder that outgrows this holds two things: give the second a room of its own.
    rooms = Counter(file.parent for file in sources() if file.name != "__init__.py")
    assert {room: count for room, count in rooms.items() if count > 13} == {}
    assert len(rooms) >= 20


def test_a_file_holds_one_thing() -> None:
    lengths = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in sources()}
    assert {file: lines for file, lines in lengths.items() if lines > 400} == {}


def test_every_room_says_what_lives_in_it() -> None:
    for room in {file.parent for file in sources()}:
        text = (ROOT / room / "__init__.py").read_text(encoding="utf-8")
        assert text.startswith('"""'), f"{room}/__init__.py says nothing"


def test_tests_mirror_the_rooms() -> None:
    # A test is looked for where its module is: a folder of tests that has no room any more is a leftover.
    rooms = {str(file.parent).removeprefix("radixrt/") for file in sources()}
    folders = {str(p.parent.relative_to(ROOT / "tests")) for p in (ROOT / "tests").rglob("test_*.py")} - {"."}
    assert folders - rooms <= {"faults", "fuzz"}
