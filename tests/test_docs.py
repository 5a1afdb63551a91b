"""The manual against the program: no dead link, no option, command or argument that does not exist."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

from samples.text import main as text_sample

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "samples" / "README.md"])
# Options of other programs that the manual names.
OTHERS = {"--head", "--durations", "--no-deps"}
OTHERS |= {"--onnxrt", "--trt", "--load-inputs", "--load-outputs", "--save-inputs", "--calibration-cache"}  # Polygraphy
OTHERS |= {"--save-outputs", "--input-shapes", "--iterations"}
OTHERS |= {"--generate", "--port", "--resources", "--num-gpus", "--num-cpus", "--temp-dir"}  # Ray
# Of the program, or of every command.
SHARED = {"--help", "-h", "--version", "--install-completion"}


def commands() -> dict[str, set[str]]:
    """The options of each ``radixrt`` command."""
    from radixrt.cli import app

    names = [name for name in app if not name.startswith("-")]
    return {
        name: {option for found in app[name].assemble_argument_collection() for option in found.names} | SHARED
        for name in names
    }


def script_options() -> set[str]:
    """The options of what is no ``radixrt`` command: run.py, the benchmarks, the harnesses, the samples' training."""
    files = [ROOT / "engines" / "bundle" / "run_bundle.py", *ROOT.glob("benchmarks/*.py"), *ROOT.glob("tests/**/*.py")]
    text = "".join(file.read_text(encoding="utf-8") for file in [*files, ROOT / "samples" / "train.py"])
    typed = {f"--{name.replace('_', '-')}" for name in re.findall(r"(\w+): Annotated\[[^\]]*\bParameter", text)}
    rendering = {f"--{name}" for name in inspect.signature(text_sample).parameters}
    return typed | rendering | set(re.findall(r"add_argument\(\s*\"(--[a-z0-9-]+)", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = commands()
    assert set(re.findall(r"(?:`|bin/)radixrt ([a-z]+)", text)) <= set(known)
    options = set(re.findall(r"(?<![\w-])(--[a-z][a-z0-9-]+)", text))
    assert options <= set.union(*known.values()) | script_options() | OTHERS


def test_python_in_the_manual_calls_what_exists() -> None:
    import radixrt
    from radixrt.validate.gates import GateLimits

    signatures = {
        "compile": inspect.signature(radixrt.compile).parameters,
        "load": inspect.signature(radixrt.load).parameters,
        "validate": inspect.signature(radixrt.validate).parameters,
        "GateLimits": {field.name for field in fields(GateLimits)},
    }
    calls = []
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            calls += [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    for call in calls:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in signatures:
            assert {k.arg for k in call.keywords} <= set(signatures[name]), ast.unparse(call)
    assert len([c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "compile"]) > 1
