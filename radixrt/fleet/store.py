"""A sweep's folder: each row's bundle and record, written whole or not at all, and the files that tell of all rows.

::

    <output>/<row>/              the row's bundle
    <output>/rows/<row>.json     what sweep.json says of it; written after the bundle
    <output>/logs/<row>.txt      the traceback of a row that met a bug
    <output>/sweep.json  sweep.csv  junit.xml  index.html

A row is finished when its record is there with the key of what is asked for now, and its bundle is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from radixrt.engines.bundle.atomic import AtomicFolder, exclusive
from radixrt.engines.bundle.folder import Bundle, BundleWriter
from radixrt.engines.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME
from radixrt.engines.bundle.signing import sign
from radixrt.errors import InputError
from radixrt.files import replace_file, translate_disk_errors
from radixrt.fleet.rows import Row
from radixrt.fleet.schema import SWEEP_NAME, Cost, Sweep, SweepRow
from radixrt.fleet.worker import Outcome
from radixrt.validate.schema import Report

TOLD = (SWEEP_NAME, "sweep.csv", "junit.xml", "index.html")
"""The files that tell of all rows."""


@dataclass(frozen=True)
class Store:
    """The folder of a sweep, held by one process at a time."""

    folder: Path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps a second sweep out of the folder.

        Raises:
            InputError: another process has it, or it cannot be written.
        """
        folder = self.folder.absolute()
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{self.folder} is a file, and a sweep is a folder: choose another output")
        if (folder / MANIFEST_NAME).exists():
            raise InputError(f"{self.folder} is a bundle: choose another output for the sweep")
        with ExitStack() as stack:
            with translate_disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                stack.callback(_remove_if_empty, folder)
                stack.enter_context(exclusive(folder / "rows"))
                (folder / "rows").mkdir(exist_ok=True)
                stack.callback(_remove_if_empty, folder / "rows")
                self._tidy()
            yield

    def check_room(self, rows: Iterable[Row]) -> None:
        """Finds out, before anything long starts, whether the bundles could be written.

        Raises:
            InputError: the disk refuses, or a row's folder holds something that is not a bundle.
        """
        for row in rows:
            BundleWriter.check_writable(self.folder / row.name)

    def _tidy(self) -> None:
        """Removes what a killed sweep was writing, as :func:`radixrt.files.replacing` names it."""
        left = [path for name in TOLD for path in self.folder.glob(f".{name}.*")]
        for path in (*left, *(self.folder / "rows").glob(".*.json.*")):
            path.unlink(missing_ok=True)

    def finished(self, row: Row) -> SweepRow | None:
        """The record of a row that an earlier run finished, for what is asked for now."""
        try:
            found = SweepRow.model_validate_json(self._record(row.name).read_bytes())
        except (OSError, ValidationError):
            return None
        whole = (self.folder / row.name / MANIFEST_NAME).exists()
        return found if found.finished and found.key == row.key and whole else None

    def put(self, row: Row, outcome: Outcome) -> SweepRow:
        """Writes what came of a row: its bundle first, then the record that vouches for it.

        Raises:
            InputError: the disk is full or refuses; rows that were written stay.
        """
        record = SweepRow(name=row.name, key=row.key, state="failed", reason=outcome.error, **row.facts)
        if not outcome.error:
            with AtomicFolder(self.folder / row.name) as new:
                for name, data in outcome.bundle.items():
                    path = new.folder / name
                    if not path.resolve().is_relative_to(new.folder):
                        raise InputError(f"the worker {outcome.host} sent {name}, which leaves its bundle")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                bundle = Bundle.read(new.folder)
                if row.options.sign_key is not None:
                    signature = sign(bundle.manifest_bytes, Path(row.options.sign_key))
                    (new.folder / SIGNATURE_NAME).write_bytes(signature)
                new.commit()
            report = Report.model_validate_json(outcome.report)
            cost = Cost(
                seconds=outcome.seconds,
                waited_s=outcome.waited_s,
                timed_s=outcome.timed_s,
                cpu_s=outcome.cpu_s,
                reused=report.reused,
            )
            record = record.judged(report, host=outcome.host, cost=cost)
        if outcome.trace:
            (self.folder / "logs").mkdir(exist_ok=True)
            (self.folder / "logs" / f"{row.name}.txt").write_text(outcome.trace, encoding="utf-8")
        replace_file(self._record(row.name), record.model_dump_json(indent=1).encode())
        return record

    def told(self) -> Sweep | None:
        """What an earlier run told of all rows."""
        try:
            return Sweep.read(self.folder)
        except InputError:
            return None

    def write(self, name: str, text: str) -> None:
        """Writes one of the files that tell of all rows."""
        replace_file(self.folder / name, text.encode())

    def _record(self, name: str) -> Path:
        return self.folder / "rows" / f"{name}.json"


def _remove_if_empty(folder: Path) -> None:
    """A sweep that was refused leaves nothing."""
    with suppress(OSError):
        folder.rmdir()
