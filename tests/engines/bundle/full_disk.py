"""Run by the full-disk test on a small file system of its own: ``python -m tests.engines.bundle.full_disk FOLDER``.

Builds again and again with a little more room each time, from none to plenty, and prints how the builds ended.
"""

from __future__ import annotations

import sys
from pathlib import Path

from radixrt.engines.cache.results import StageCache
from radixrt.errors import InputError
from tests.engines.bundle.fault_children import read_generation, write_generation

PAGE = 4096


def fill(folder: Path, leave: int) -> Path:
    """Fills the disk to the last page, but for some bytes."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while stream.write(b"x" * PAGE) == PAGE:
                pass
        except OSError:
            pass
        stream.truncate(max(0, stream.tell() - leave))
    return filler


def main(folder: Path) -> None:
    output = folder / "bundle"
    write_generation(output, 0)
    refused, written = 0, 0
    for pages in range(0, 60, 2):
        filler = fill(folder, pages * PAGE)
        before = read_generation(output)
        try:
            write_generation(output, before + 1)
            written += 1
            assert read_generation(output) == before + 1
        except InputError as error:
            assert "no space left on device" in str(error), error
            refused += 1
            assert read_generation(output) == before
        filler.unlink()
        assert [path.name for path in folder.iterdir()] == ["bundle"]

        filler = fill(folder, pages * PAGE)
        with StageCache(folder / "cache") as cache:
            try:
                cache.put("0" * 64, "a stage", lambda made: write_pages(made / "result"))
                assert cache.get("0" * 64) is not None
            except InputError as error:
                assert "no space left on device" in str(error), error
                assert cache.get("0" * 64) is None
            cache.prune(max_bytes=0)
        filler.unlink()
        remove(folder / "cache")
    print(refused, written)


def write_pages(path: Path) -> None:
    path.write_bytes(b"y" * 10 * PAGE)


def remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if folder.exists():
        folder.rmdir()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
