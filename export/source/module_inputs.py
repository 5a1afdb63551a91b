"""What a module is called with: tensors by name, in the arguments, lists and dictionaries that it takes them in."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from radixrt.errors import InputError
from radixrt.export.feed import IMAGE_INPUT, Feed
from radixrt.export.sides import Sides
from radixrt.export.spec import InputSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ModuleInputs:
    """A module's inputs.

    Attributes:
        specs: each tensor, in the order in which ``torch.export`` flattens the arguments.
        args: the positional arguments, with the tensors' names in the place of tensors.
        kwargs: the others, likewise.
    """

    specs: tuple[InputSpec, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def image(cls, size: tuple[int, int, int]) -> ModuleInputs:
        """One image of so many channels, rows and columns."""
        return cls((InputSpec(IMAGE_INPUT, (None, *size)),), (IMAGE_INPUT,))

    @classmethod
    def of_specs(cls, module: torch.nn.Module, specs: Sequence[InputSpec]) -> ModuleInputs:
        """Finds where tensors of these names go.

        A name is a parameter of ``forward``; or, with a dot, a part of one (``features.0`` of a list,
        ``features.coarse`` of a dictionary); or, where ``forward`` takes one argument, a key of that.

        Raises:
            InputError: they cannot be what the module takes.
        """
        tree: dict[str, Any] = {}
        for spec in specs:
            *path, last = spec.name.split(".")
            place = tree
            for part in path:
                place = place.setdefault(part, {})
            place[last] = spec.name
        return cls._placed(module, specs, {name: _listed(part) for name, part in tree.items()})

    @classmethod
    def of_example(cls, module: torch.nn.Module, inputs: Any) -> ModuleInputs:
        """Takes the names, shapes and types of a sample's inputs.

        Args:
            module: the network.
            inputs: arrays of one sample, without a batch axis: a mapping, a tuple, or the one array.

        Raises:
            InputError: they cannot be what the module takes.
        """
        if isinstance(inputs, Mapping):
            parts = {str(name): value for name, value in inputs.items()}
        elif isinstance(inputs, (tuple, list)):
            own = parameters(module)
            several = len(own.needed) <= len(inputs) <= len(own.positional)
            if several and not hasattr(inputs, "_fields"):
                parts = dict(zip(own.positional, inputs, strict=False))
            else:
                parts = {next(iter(own.names), IMAGE_INPUT): inputs}
        else:
            parts = {IMAGE_INPUT: inputs}
        specs: list[InputSpec] = []
        named = {name: _named(name, value, specs) for name, value in parts.items()}
        return cls._placed(module, specs, named)

    @classmethod
    def _placed(cls, module: torch.nn.Module, specs: Sequence[InputSpec], parts: dict[str, Any]) -> ModuleInputs:
        own = parameters(module)
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if set(parts) <= set(own.names):
            first = tuple(name for name in own.positional if name in parts)
            if len(first) == len(parts) and first == own.positional[: len(first)]:
                args = tuple(parts[name] for name in first)
            else:
                kwargs = {name: parts[name] for name in own.names if name in parts}
        elif len(parts) == 1:
            args = tuple(parts.values())
        elif len(own.needed) <= 1:
            args = (parts,)
        else:
            raise InputError(
                f"the model takes {', '.join(own.names)}, not {', '.join(parts)}: name its inputs so, or wrap it in a "
                "module that takes these"
            )
        given = kwargs or own.positional[: len(args)]
        if lacking := [name for name in own.needed if name not in given]:
            raise InputError(
                f"the model takes {len(own.needed)} inputs, of which {', '.join(lacking)} is missing: name each with "
                f"--input {lacking[0]}=1x64:float32, or give data that has it"
            )
        by_name = {spec.name: spec for spec in specs}
        return cls(tuple(by_name[name] for name in _leaves((args, kwargs))), args, kwargs)

    def freed(self, sides: Sides) -> ModuleInputs:
        """The same with the sides of its images left free, where ``sides`` has them free."""

        def free(spec: InputSpec) -> InputSpec:
            if not spec.is_image:
                return spec
            pairs = zip(spec.shape[2:], (sides.height, sides.width), strict=True)
            own = tuple(None if side.free else size for size, side in pairs)
            return replace(spec, shape=(*spec.shape[:2], *own), sides=sides)

        return replace(self, specs=tuple(map(free, self.specs)))

    def filled(self, tensors: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with a value in the place of each name."""
        from torch.utils._pytree import tree_map

        args, kwargs = tree_map(lambda name: tensors[name], (self.args, dict(self.kwargs)))
        return args, kwargs

    def call(self, module: Any, feed: Feed) -> Any:
        """Runs a module on arrays (N, ...) by name."""
        import torch

        args, kwargs = self.filled({name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in feed.items()})
        return module(*args, **kwargs)


@dataclass(frozen=True)
class Parameters:
    """The arguments that ``forward`` takes: all in order, those that go by position, and those that it needs."""

    names: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()


def parameters(module: torch.nn.Module) -> Parameters:
    """What ``forward`` takes; nothing where that does not show."""
    try:
        found = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # compiled code may have no signature; whether it runs will show
        return Parameters()
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    own = [one for one in found if one.kind in (*by_place, inspect.Parameter.KEYWORD_ONLY)]
    return Parameters(
        names=tuple(one.name for one in own),
        positional=tuple(one.name for one in own if one.kind in by_place),
        needed=tuple(one.name for one in own if one.default is one.empty),
    )


def _listed(part: Any) -> Any:
    """A dictionary whose keys count from 0 as the list that they stand for."""
    if not isinstance(part, dict):
        return part
    inner = {key: _listed(value) for key, value in part.items()}
    order = sorted(inner, key=lambda key: (len(key), key))
    return [inner[key] for key in order] if order == [str(i) for i in range(len(inner))] else inner


def _named(name: str, value: Any, specs: list[InputSpec]) -> Any:
    """The same structure with names at its leaves, whose specs are added to ``specs``."""
    if isinstance(value, Mapping):
        return {key: _named(f"{name}.{key}", part, specs) for key, part in value.items()}
    if hasattr(value, "_fields"):
        return type(value)(*(_named(f"{name}.{key}", getattr(value, key), specs) for key in value._fields))
    if isinstance(value, (tuple, list)):
        return [_named(f"{name}.{index}", part, specs) for index, part in enumerate(value)]
    array = np.asarray(value)
    dtype = "float32" if array.dtype == np.float64 else array.dtype.name
    specs.append(InputSpec(name, (None, *array.shape), dtype))
    return name


def _leaves(tree: Any) -> list[str]:
    from torch.utils._pytree import tree_leaves

    return list(tree_leaves(tree))
