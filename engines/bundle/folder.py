"""The product of a build: a folder with graph, engine, report, runner, and a manifest that vouches for each of them.

:class:`BundleWriter` makes one, whole or not at all; :meth:`Bundle.read` opens one and refuses what is not as it was.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from radixrt.engines import registry
from radixrt.engines.bundle.atomic import AtomicFolder, find_or_restore
from radixrt.engines.bundle.compatibility import check_fits, this_host
from radixrt.engines.bundle.manifest import MANIFEST_NAME, MAX_BYTES, SIGNATURE_NAME, FileEntry, Manifest
from radixrt.engines.bundle.runner import write_runner
from radixrt.engines.bundle.signing import sign, verify
from radixrt.engines.session import Session
from radixrt.errors import InputError, UnavailableError
from radixrt.files import replacing, sha256_of, translate_disk_errors

REPORT_NAME = "report.json"
CALIBRATION_NAME = "calibration.json"
# A reader that meets a swap starts again; ten builds finishing while one bundle is read means that something is wrong.
_ATTEMPTS = 10


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder as its relative POSIX name and its own status; links are not followed.

    Raises:
        InputError: something is neither a plain file nor a folder.
    """
    # No recursion: a foreign folder may be nested deeper than Python's stack is.
    pending = [folder]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(Path(entry.path))
                elif stat.S_ISREG(status.st_mode):
                    yield Path(entry.path).relative_to(folder).as_posix(), status
                else:
                    raise InputError(
                        f"{entry.path} is not a plain file: a bundle holds nothing else, so build it again"
                    )


def _refuse_to_replace(output: Path) -> None:
    """Raises InputError where ``output`` holds anything that no build put there: it would be lost."""
    if not os.path.lexists(output):
        return
    if not output.is_dir():
        raise InputError(f"{output} is a file, and a bundle is a folder: choose another output")
    try:
        manifest = Manifest.from_bytes(_manifest_bytes(output), str(output / MANIFEST_NAME))
    except (InputError, OSError) as error:
        if not any(output.iterdir()):
            return
        raise InputError(
            f"{output} is not a bundle of this RadixRT, so it is left alone: move it away or choose another output"
        ) from error
    listed = {MANIFEST_NAME, SIGNATURE_NAME, *(entry.name for entry in manifest.files)}
    foreign = sorted(name for name, _ in _walk(output) if name not in listed)
    if foreign:
        raise InputError(
            f"{output} holds {foreign[0]}, which no build put there: move it away or choose another output"
        )


class BundleWriter:
    """Writes a bundle beside ``output`` and puts it in place when it is finished. A context manager.

    Files are written into :attr:`folder`; :meth:`finish` adds the runner, hashes everything, writes the manifest last
    and swaps. Leaving the block in any other way leaves ``output`` as it was.

    Args:
        output: the bundle to make or to replace.

    Raises:
        InputError: the output is taken, not writable, or holds something that is not a bundle.
    """

    def __init__(self, output: Path) -> None:
        self._atomic = AtomicFolder(output)
        self.output = self._atomic.output

    @property
    def folder(self) -> Path:
        """The folder that takes the bundle's files until it is finished."""
        return self._atomic.folder

    @staticmethod
    def check_writable(output: Path) -> None:
        """Finds out, before anything long starts, whether a bundle could be written.

        Raises:
            InputError: the disk refuses, or the output holds something that is not a bundle.
        """
        output = output.absolute().resolve()
        parent = output.parent
        while not os.path.lexists(parent):
            parent = parent.parent
        if not parent.is_dir():
            raise InputError(f"{output} cannot be made because {parent} is a file: choose another output")
        with translate_disk_errors(output):
            # A file without a name: a process that is killed here leaves nothing behind.
            with tempfile.TemporaryFile(dir=parent):
                pass
            _refuse_to_replace(output)

    def __enter__(self) -> Self:
        self.check_writable(self.output)
        self._atomic.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._atomic.__exit__(kind, error, trace)

    def finish(self, manifest: Manifest, *, sign_key: Path | None = None) -> Bundle:
        """Completes the bundle and puts it in place.

        Args:
            manifest: everything but ``files``, which is filled in here.
            sign_key: an Ed25519 private key; the bundle is signed where one is given.

        Raises:
            InputError: the key is not one, the disk is full, or the manifest names files that were not written.
        """
        folder = self.folder
        write_runner(folder)
        registry.get(manifest.target).write_beside(folder / manifest.deploy)
        files = tuple(
            FileEntry(name=name, bytes=status.st_size, sha256=sha256_of(folder / name))
            for name, status in _walk(folder)
            if name not in (MANIFEST_NAME, SIGNATURE_NAME)
        )
        complete = manifest.model_copy(update={"files": files})
        data = complete.to_bytes()
        # Read back before anything is replaced: what could not be opened must not take the place of what can.
        complete = Manifest.from_bytes(data, str(self.output / MANIFEST_NAME))
        if sign_key is not None:
            (folder / SIGNATURE_NAME).write_bytes(sign(data, sign_key))
        (folder / MANIFEST_NAME).write_bytes(data)
        _refuse_to_replace(self.output)
        self._atomic.commit()
        return Bundle(self.output, complete, data)


def _manifest_bytes(folder: Path) -> bytes:
    with (folder / MANIFEST_NAME).open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every file was found as its manifest says.

    ``manifest_bytes`` is the manifest as it stands on disk, which an earlier version may have written with fewer keys.
    """

    path: Path
    manifest: Manifest
    manifest_bytes: bytes = field(repr=False)

    @classmethod
    def read(cls, path: Path, *, require_signature: Path | None = None) -> Bundle:
        """Opens a bundle. A build that replaces it meanwhile is noticed, and the reading starts again.

        Args:
            path: the bundle's folder.
            require_signature: an Ed25519 public key; the manifest must be signed by its owner.

        Raises:
            InputError: it is no bundle, or a file is missing, foreign or changed, or the signature does not hold.
        """
        path = Path(path)
        for attempt in range(_ATTEMPTS):
            before = _try_manifest(path)
            try:
                if before is None:
                    raise InputError(f"{path} has no {MANIFEST_NAME}: name a folder that radixrt made")
                return cls(path, _verified(path, before, require_signature), before)
            except FileNotFoundError:
                pass
            except InputError:
                # A swap in the middle of reading looks like damage; only damage that stays is damage.
                if _try_manifest(path) == before and not (before is None and _may_be_swapped(path)):
                    raise
            time.sleep(0.01 * attempt)
        if before is None:
            raise InputError(f"{path} is not there yet: open it again when the build that writes it is done")
        raise InputError(f"{path} keeps changing while it is read: open it again when the builds are done")

    @property
    def engine(self) -> Path:
        """The file that the target opens.

        Raises:
            UnavailableError: the bundle has none: the device builds it.
        """
        if self.manifest.engine is None:
            raise UnavailableError(
                str(self.path),
                "its engine is left to the device",
                "Build it: `python3 run.py --build` in the bundle.",
            )
        return self.path / self.manifest.engine

    @property
    def deploy(self) -> Path:
        """The strongly typed graph that the engine was built from."""
        return self.path / self.manifest.deploy

    @property
    def signed(self) -> bool:
        """A signature lies in the bundle; whose it is, only ``require_signature`` tells."""
        return (self.path / SIGNATURE_NAME).exists()

    @property
    def image_size(self) -> tuple[int, int, int] | None:
        """Channels, height and width of its images; None where its inputs are arrays."""
        recorded = self.manifest.preprocessing
        return None if recorded is None else recorded.input_size

    def open(self, *, threads: int = 0, cache_dir: Path | None = None) -> Session:
        """Opens the engine with the bundle's own target.

        Args:
            threads: CPU threads of one inference; 0 lets the runtime choose.
            cache_dir: where runtimes that compile at opening keep what they made for the next one; None keeps nothing.

        Raises:
            UnavailableError: the target cannot run here.
            InputError: the plan was built for something else than what is here, or the bundle was replaced meanwhile.
        """
        target = registry.get(self.manifest.target, cache_dir)
        check_fits(self.manifest.built_for, this_host(target), str(self.path))
        session = target.open(self.engine, threads=threads)
        try:
            self.check_unchanged()
        except InputError:
            session.close()
            raise
        return session

    def sign(self, private_key: Path) -> None:
        """Signs the bundle as it stands, in the place of an earlier signature.

        Raises:
            InputError: the key is not one, the disk refuses, or another build took the bundle's place meanwhile.
            UnavailableError: the ``cryptography`` package is missing.
        """
        signature = sign(self.manifest_bytes, private_key)
        # A reader refuses a bundle that holds anything more, however short.
        with replacing(self.path / SIGNATURE_NAME, self.path.absolute().parent) as temporary:
            temporary.write_bytes(signature)
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Call after reading a file of the bundle: what was read is what was verified.

        Raises:
            InputError: another build took the bundle's place in between.
        """
        if _try_manifest(self.path) != self.manifest_bytes:
            raise InputError(f"{self.path} was replaced while it was being opened: open it again")


def _try_manifest(path: Path) -> bytes | None:
    try:
        return _manifest_bytes(path)
    except OSError:
        return None


def _may_be_swapped(path: Path) -> bool:
    """Says whether a folder without a manifest may be one that is just being replaced, rather than none at all."""
    output = path.absolute().resolve()
    try:
        descriptor = os.open(output, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return output.parent.is_dir() and find_or_restore(output) is not False
    except OSError:
        return False
    try:
        # The folder that is open cannot be swapped for another in between: it has a manifest, or never had one, or was
        # replaced and is being deleted.
        with contextlib.suppress(FileNotFoundError):
            os.stat(MANIFEST_NAME, dir_fd=descriptor)
            return True
        with contextlib.suppress(FileNotFoundError):
            return not os.path.samestat(os.fstat(descriptor), output.stat())
        return True
    finally:
        os.close(descriptor)


def _verified(path: Path, data: bytes, require_signature: Path | None) -> Manifest:
    """Holds a folder against its manifest.

    Raises:
        InputError: they differ; the message names the first file that does.
    """
    if require_signature is not None:
        signature = path / SIGNATURE_NAME
        if not signature.is_file():
            raise InputError(f"{path} is not signed, and a signature is required: ask its maker for a signed one")
        with signature.open("rb") as stream:
            verify(data, stream.read(4096), require_signature, str(path))
    manifest = Manifest.from_bytes(data, str(path / MANIFEST_NAME))
    present = dict(_walk(path))
    listed = {entry.name for entry in manifest.files}
    for name in sorted(listed - present.keys()):
        raise InputError(f"{path} lacks {name}, which its manifest lists: copy or build the bundle again")
    for name in sorted(present.keys() - listed - {MANIFEST_NAME, SIGNATURE_NAME}):
        raise InputError(f"{path} holds {name}, which its manifest does not list: remove it or build the bundle again")
    for entry in manifest.files:
        same = present[entry.name].st_size == entry.bytes and sha256_of(path / entry.name) == entry.sha256
        if not same:
            raise InputError(
                f"{path / entry.name} is not what the build wrote (its SHA-256 differs): copy or build the bundle again"
            )
    return manifest
