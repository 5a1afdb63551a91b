"""``make fuzz``: feeds each loader mutated files, guided by the branches that they reach.

    python -m tests.fuzz.harness                     every loader, a million runs in total
    python -m tests.fuzz.harness manifest --runs 500
    python -m tests.fuzz.harness onnx-fields         files that parse, with other fields: see onnx_fields.py

Needs the ``atheris`` package. A file that breaks a loader is kept under ``build/fuzz/<loader>/``; once it is
understood, it goes to ``tests/fuzz/regressions/<loader>/``, which the test suite replays.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

REGRESSIONS = Path(__file__).with_name("regressions")
WORK = Path("build") / "fuzz"
FIELDS = "onnx-fields"
FIELD_RUNS = 3_000


def fuzz(name: str, runs: int) -> None:
    """Fuzzes one loader in this process, which ends with it."""
    atheris = importlib.import_module("atheris")
    # What is followed must be instrumented as it is imported, so the loaders come after.
    with atheris.instrument_imports(include=list(MODULES[name])):
        loaders = importlib.import_module("tests.fuzz.loaders")
    loader = next(loader for loader in loaders.LOADERS if loader.name == name)
    work = WORK / name
    (work / "corpus").mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(loader.seeds()):
        (work / "corpus" / f"seed-{index}").write_bytes(seed)
    known = REGRESSIONS / name
    corpora = [str(work / "corpus"), *([str(known)] if known.is_dir() else [])]
    limits = [f"-runs={runs}", "-max_len=8192", "-timeout=20", "-rss_limit_mb=4096", f"-artifact_prefix={work}/"]
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", *corpora], lambda data: loaders.attempt(loader, data))
    atheris.Fuzz()


# Repeated here because it is needed before anything of the project is imported; the suite holds the two together.
MODULES = {
    "manifest": ("radixrt.engines.bundle.manifest", "radixrt.calibration.data.preprocess"),
    "table": ("radixrt.calibration.ranges.table",),
    "trt-cache": ("radixrt.calibration.ranges.trt_cache",),
    "gates": ("radixrt.validate.gates", "tomllib"),
    "onnx": ("radixrt.export.reader.onnx_file",),
}


def fuzz_all(runs: int | None) -> int:
    """Fuzzes each loader in a process of its own; returns an exit code."""
    from tests.fuzz.loaders import LOADERS

    total, broken = 0, []
    for loader in LOADERS:
        count = runs or loader.runs
        command = [sys.executable, "-m", "tests.fuzz.harness", loader.name, "--runs", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        executed = [line for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        number = int(executed[-1].rsplit(maxsplit=1)[-1]) if executed else 0
        total += number
        print(f"{loader.name:11s} {number:9,d} runs  {'passed' if done.returncode == 0 else 'BROKEN'}", flush=True)
        if done.returncode:
            broken.append(loader.name)
            print("\n".join(done.stderr.splitlines()[-40:]))
    count = runs or FIELD_RUNS
    total += count
    if fuzz_fields(count):
        broken.append(FIELDS)
    print(f"{'total':11s} {total:9,d} runs  {'no loader broke' if not broken else ', '.join(broken) + ' broke'}")
    return 1 if broken else 0


def fuzz_fields(runs: int, first: int = 0) -> int:
    """Reads ONNX files with changed fields, from a seed on; returns an exit code."""
    import onnxruntime  # noqa: F401  # before the first fork: a file then costs its reading and not the imports
    import onnxsim  # noqa: F401

    from tests.fuzz import onnx_fields

    def tell(done: int) -> None:
        print(f"\r{done:,d} of {runs:,d}", end="", file=sys.stderr, flush=True)

    counts = onnx_fields.fuzz_fields(runs, WORK / FIELDS, first, tell)
    print(file=sys.stderr)
    words = ", ".join(f"{count:,d} {what}" for what, count in sorted(counts.items()))
    print(f"{FIELDS:11s} {runs:9,d} runs  {'BROKEN' if counts['broken'] else 'passed'}: {words}", flush=True)
    return 1 if counts["broken"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzzes the loaders of files that somebody else may have written.")
    parser.add_argument("loader", nargs="?", choices=[*sorted(MODULES), FIELDS], help="default: each in turn")
    parser.add_argument("--runs", type=int, help="how many times each is called")
    parser.add_argument(
        "--first", type=int, default=0, help=f"{FIELDS}: the first seed, to go on where another run was"
    )
    options = parser.parse_args()
    if options.loader == FIELDS:
        return fuzz_fields(options.runs or FIELD_RUNS, options.first)
    if importlib.util.find_spec("atheris") is None:
        print("error: the fuzzer is not installed: pip install atheris", file=sys.stderr)
        return 4
    if options.loader is None:
        return fuzz_all(options.runs)
    fuzz(options.loader, options.runs or 10_000)
    return 0


if __name__ == "__main__":
    sys.exit(main())
