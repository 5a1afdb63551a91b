"""Which definition a name means. Nothing is built here, and no code of the user's runs.

A name is one of people's names (:func:`known_models`), any name of timm's (``timm:`` may be left out), ``resnest:``
and a name of the authors' package, ``pkg.module:factory``, ``path/to/file.py:factory``, or a path to an ``.onnx`` file.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from radixrt.errors import InputError
from radixrt.export.source import definitions

Kind = Literal["timm", "resnest", "sample", "factory", "memory", "onnx"]


@dataclass(frozen=True)
class KnownModel:
    """A name people use, and the definition it stands for (``timm:resnest50d``)."""

    name: str
    definition: str
    family: str


@dataclass(frozen=True)
class ModelRef:
    """A name that was understood.

    Attributes:
        name: short and fit for a folder's name.
        kind: where the definition comes from; ``memory`` is a module that somebody gave.
        target: the definition's name there: a timm name, ``module:factory``, a path.
    """

    name: str
    kind: Kind
    target: str

    @property
    def source(self) -> str:
        """The definition, as reports name it."""
        return self.target if self.kind in ("onnx", "factory") else f"{self.kind}:{self.target}"


_KNOWN = (
    ("resnest14", "timm:resnest14d", "resnest"),
    ("resnest26", "timm:resnest26d", "resnest"),
    ("resnest50", "timm:resnest50d", "resnest"),
    ("resnest101", "timm:resnest101e", "resnest"),
    ("resnest200", "timm:resnest200e", "resnest"),
    ("resnest269", "timm:resnest269e", "resnest"),
    ("resnest50-fast-1s1x64d", "resnest:resnest50_fast_1s1x64d", "resnest"),
    ("resnest50-fast-2s1x64d", "resnest:resnest50_fast_2s1x64d", "resnest"),
    ("resnest50-fast-4s1x64d", "resnest:resnest50_fast_4s1x64d", "resnest"),
    ("resnest50-fast-1s2x40d", "resnest:resnest50_fast_1s2x40d", "resnest"),
    ("resnest50-fast-2s2x40d", "resnest:resnest50_fast_2s2x40d", "resnest"),
    ("resnest50-fast-4s2x40d", "timm:resnest50d_4s2x40d", "resnest"),
    ("resnest50-fast-1s4x24d", "timm:resnest50d_1s4x24d", "resnest"),
    # timm's docstring: "should be equivalent to the SKNet-50 model in the Select Kernel paper".
    ("sknet50", "timm:skresnext50_32x4d", "sknet"),
    ("skresnet18", "timm:skresnet18", "sknet"),
    ("skresnet34", "timm:skresnet34", "sknet"),
    ("skresnet50", "timm:skresnet50", "sknet"),
    ("skresnet50d", "timm:skresnet50d", "sknet"),
    ("skresnext50", "timm:skresnext50_32x4d", "sknet"),
    ("senet154", "timm:senet154", "senet"),
    ("seresnet18", "timm:seresnet18", "senet"),
    ("seresnet34", "timm:seresnet34", "senet"),
    ("seresnet50", "timm:seresnet50", "senet"),
    ("seresnet101", "timm:seresnet101", "senet"),
    ("seresnet152", "timm:seresnet152", "senet"),
    ("seresnet152d", "timm:seresnet152d", "senet"),
    ("seresnext26", "timm:seresnext26d_32x4d", "senet"),
    ("seresnext50", "timm:seresnext50_32x4d", "senet"),
    ("seresnext101", "timm:seresnext101_32x4d", "senet"),
    ("seresnext101-64x4d", "timm:seresnext101_64x4d", "senet"),
)


def known_models() -> tuple[KnownModel, ...]:
    """The names people use, the sample networks first."""
    from radixrt.export.samples.sample import SAMPLES

    samples = (KnownModel(sample.name, f"sample:{sample.name}", sample.family) for sample in SAMPLES)
    return (*samples, *(KnownModel(*row) for row in _KNOWN))


def resolve(name: str) -> ModelRef:
    """Understands a model's name. Nothing is built and no code of the user's runs.

    Raises:
        InputError: the name means nothing; the nearest names are offered.
    """
    name = name.strip()
    if name.lower().endswith(".onnx"):
        if not Path(name).is_file():
            raise InputError(f"no ONNX file at {name}")
        return ModelRef(_folder_name(Path(name).stem), "onnx", name)
    if name.endswith(".py"):
        raise InputError(f"{name} is a Python file: name what in it makes the model, as in {name}:build")
    known = {model.name: model.definition for model in known_models()}
    definition = known.get(name) or known.get(name.lower().replace("_", "-")) or name
    kind, colon, target = definition.partition(":")
    if kind == "sample" and colon and definition in known.values():
        return ModelRef(name, "sample", target)
    if kind == "resnest" and colon:
        target = target.replace("-", "_")
        if target not in definitions.AUTHORS_MODELS:
            raise _unknown(name, [f"resnest:{model}" for model in definitions.AUTHORS_MODELS])
        return ModelRef(_folder_name(name if name in known else f"resnest-{target}"), "resnest", target)
    if kind == "timm" and colon:
        _check_timm(name, target, prefix="timm:")
        return ModelRef(_folder_name(name if name in known else target), "timm", target)
    if colon:
        path, _, factory = name.rpartition(":")
        return ModelRef(_folder_name(f"{Path(path).stem if path.endswith('.py') else path}-{factory}"), "factory", name)
    _check_timm(name, name)
    return ModelRef(_folder_name(name), "timm", name)


def _check_timm(name: str, target: str, prefix: str = "") -> None:
    import timm

    base, _, tag = target.partition(".")
    if not timm.is_model(base):
        known = [model.name for model in known_models()]
        raise _unknown(name, known, [f"{prefix}{model}" for model in timm.list_models()])
    if tag and target not in timm.list_pretrained(f"{base}.*"):
        raise _unknown(name, [f"{prefix}{model}" for model in timm.list_pretrained(f"{base}.*")])


def _unknown(name: str, *candidates: list[str]) -> InputError:
    """Offers the nearest names, those of the first list first."""
    near = [match for names in candidates for match in difflib.get_close_matches(name.lower(), names, n=2, cutoff=0.6)]
    offer = f"did you mean {', '.join(dict.fromkeys(near))}?" if near else "`radixrt models` lists the names"
    return InputError(f"unknown model {name!r}: {offer}")


def _folder_name(text: str) -> str:
    return re.sub(r"[^0-9A-Za-z._-]+", "-", text).strip("-.") or "model"
