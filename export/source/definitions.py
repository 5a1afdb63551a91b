"""How each kind of model reference becomes a module: timm, the authors' package, a home-made factory."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from radixrt.errors import InputError, UnavailableError
from radixrt.export.source.user_code import cause, load_function

if TYPE_CHECKING:
    import torch

AUTHORS_MODELS = (
    "resnest50",
    "resnest101",
    "resnest200",
    "resnest269",
    "resnest50_fast_1s1x64d",
    "resnest50_fast_2s1x64d",
    "resnest50_fast_4s1x64d",
    "resnest50_fast_1s2x40d",
    "resnest50_fast_2s2x40d",
    "resnest50_fast_4s2x40d",
    "resnest50_fast_1s4x24d",
)

# The crop sizes of the authors' README; the other networks use 224.
_AUTHORS_SIZE = {"resnest101": 256, "resnest200": 320, "resnest269": 416}


@dataclass(frozen=True)
class Definition:
    """A network that can be built.

    Attributes:
        build: makes the module, with its default number of classes where ``None`` is given.
        data_config: preprocessing, as timm resolves it, that overrides what the module itself says.
        fixed_classes: the number of classes cannot be chosen.
    """

    build: Callable[[int | None], torch.nn.Module]
    data_config: Mapping[str, Any] = field(default_factory=dict)
    fixed_classes: bool = False


def timm_definition(name: str) -> Definition:
    """A model of timm, by its name there, perhaps with a tag (``resnest50d.in1k``)."""
    import timm

    def build(num_classes: int | None) -> torch.nn.Module:
        options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
        module: torch.nn.Module = timm.create_model(name, pretrained=False, **options)
        return module

    return Definition(build)


def authors_definition(name: str) -> Definition:
    """A model of the ResNeSt authors' package.

    Raises:
        UnavailableError: the package is not installed.
    """
    try:
        package = importlib.import_module("resnest.torch")
    except ImportError as error:
        raise UnavailableError(
            f"resnest:{name}", "the resnest package cannot be imported", "pip install resnest"
        ) from error
    factory = getattr(package, name)

    def build(num_classes: int | None) -> torch.nn.Module:
        options = {} if num_classes is None else {"num_classes": num_classes}
        module: torch.nn.Module = factory(pretrained=False, **options)
        return module

    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    size = _AUTHORS_SIZE.get(name, 224)
    config = {"input_size": (3, size, size), "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center"}
    return Definition(build, {**config, "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD})


def factory_definition(reference: str) -> Definition:
    """A home-made model: ``pkg.module:factory`` or ``path/to/file.py:factory``.

    It is called with ``num_classes`` where it takes that.

    Importing runs the user's code, because the user named it.

    Raises:
        InputError: there is no such module or factory, or it fails.
    """
    factory = load_function(reference, "that makes a model")
    takes_classes = _takes(factory, "num_classes")

    def build(num_classes: int | None) -> torch.nn.Module:
        import torch

        options = {} if num_classes is None or not takes_classes else {"num_classes": num_classes}
        try:
            module = factory(**options)
        except Exception as error:  # the factory is the user's
            raise InputError(f"{reference} does not make a model: {cause(error)}") from error
        if not isinstance(module, torch.nn.Module):
            raise InputError(f"{reference} returns {type(module).__name__}, not a torch.nn.Module")
        return module

    return Definition(build, fixed_classes=not takes_classes)


def _takes(factory: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
