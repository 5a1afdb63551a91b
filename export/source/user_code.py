"""Code of the user's own, named as ``pkg.module:name`` or ``path/to/file.py:name``. Importing it runs it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from radixrt.errors import InputError


def load_function(reference: str, what: str) -> Callable[..., Any]:
    """A function or class that the user named.

    Args:
        reference: where it is.
        what: what it does, for a message: ``that makes a model``.

    Raises:
        InputError: there is no such module or function, or importing it fails.
    """
    where, _, name = reference.rpartition(":")
    try:
        scope = _load_file(Path(where), what) if where.endswith(".py") else _load_module(where)
    except InputError:
        raise
    except Exception as error:  # importing runs whatever is in the file
        raise InputError(f"{where or reference} cannot be imported: {cause(error)}") from error
    found = getattr(scope, name, None)
    if not callable(found):
        raise InputError(f"{where} has no function or class {name!r} {what}")
    return found  # type: ignore[no-any-return]


def code_sha256(reference: str) -> str:
    """A hash of the file that the code lies in: it may compute something else tomorrow."""
    where = reference.rpartition(":")[0]
    spec = None if where.endswith(".py") else sys.modules.get(where)
    file = Path(where if spec is None else getattr(spec, "__file__", None) or where)
    return hashlib.sha256(file.read_bytes() if file.is_file() else reference.encode()).hexdigest()


def cause(error: BaseException) -> str:
    """An error of the user's code in one line."""
    text = (str(error).splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _load_file(path: Path, what: str) -> Any:
    if not path.is_file():
        raise InputError(f"no file {path} that could hold a function {what}")
    # A name of its own, so that a file called, say, statistics.py hides nothing.
    name = f"_radixrt_user_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look the module up
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _load_module(name: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)  # as ``python -m`` does
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)
