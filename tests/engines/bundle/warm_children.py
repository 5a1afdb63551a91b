"""Imported by the process that fault tests fork their children from: what a first build loads is loaded there, once."""

import tempfile
from pathlib import Path

from tests.engines.bundle.fault_children import write_generation

with tempfile.TemporaryDirectory() as scratch:
    write_generation(Path(scratch, "bundle"), 0)
