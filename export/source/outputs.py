"""The outputs of a network: what each is called, and which comes first.

A network may return one tensor, or several in tuples, lists, named tuples, dictionaries and dataclasses, one within
another. Behind the capture the main output is always the graph's first, whatever its place was: the logits where there
are any. The others keep their order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from radixrt.errors import InputError

if TYPE_CHECKING:
    import torch

OUTPUT_NAME = "logits"
OTHER_NAME = "output"
"""What an output is called that is alone, has no name, and is not N x classes."""


@dataclass(frozen=True)
class NamedOutputs:
    """What a module returned: tensors by name, in the order in which it has them."""

    tensors: dict[str, torch.Tensor]
    main: str

    @property
    def ordered(self) -> dict[str, torch.Tensor]:
        """The same, the main one first."""
        return {self.main: self.tensors[self.main], **self.tensors}


def named_outputs(result: object, wanted: str | None = None, taken: Collection[str] = ()) -> NamedOutputs:
    """Names what a module returned.

    The tensors of a dictionary, a named tuple or a dataclass have their own names. Those of a tuple are called by their
    place (``output_1``), except a main output N x classes, which is ``logits`` there as it is where it is alone.
    What lies deeper has the names on its way, with a dot between (``maps.p3``, ``output_1.0``). None is no output.

    Args:
        result: what the module returned.
        wanted: which output is the logits; see :func:`main_output` where absent.
        taken: the names of inputs: an output of such a name is called ``NAME_output``.

    Raises:
        InputError: it holds something else than tensors, or there is no such output.
    """
    import torch

    found: dict[str, torch.Tensor] = {}
    by_place = set[str]()
    for path, value in _leaves(result):
        first, *rest = path or (OUTPUT_NAME if _of_classes(value) else OTHER_NAME,)
        name = ".".join([f"output_{first}" if isinstance(first, int) else str(first), *map(str, rest)])
        if not isinstance(value, torch.Tensor):
            what = f"{type(value).__name__} ({name})" if path else type(value).__name__
            raise InputError(
                f"the model returns {what}, not a tensor: wrap it in a module that returns tensors, alone or in "
                "tuples, lists, dictionaries and dataclasses"
            )
        name = f"{name}_output" if name in taken else name
        found[name] = value
        if isinstance(first, int) and not rest:
            by_place.add(name)
    if not found:
        raise InputError(f"the model returns {type(result).__name__} without a tensor in it: return what it computes")
    main = main_output({name: tuple(tensor.shape) for name, tensor in found.items()}, wanted, "the model")
    if main in by_place and _of_classes(found[main]):
        found = {OUTPUT_NAME if name == main else name: tensor for name, tensor in found.items()}
        main = OUTPUT_NAME
    return NamedOutputs(found, main)


def _of_classes(value: object) -> bool:
    """Whether it is N x C: one number a sample is no choice between classes."""
    return getattr(value, "ndim", 0) == 2 and getattr(value, "shape", (0, 0))[1] != 1


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in the type of a graph's output: float32, uint8, int32, int64 or bool."""
    import torch

    if tensor.dtype in (torch.uint8, torch.int32, torch.int64, torch.bool):
        return tensor
    return tensor.float() if tensor.is_floating_point() else tensor.int()


def _leaves(result: object) -> Iterator[tuple[tuple[str | int, ...], object]]:
    """What a structure holds but for None, each with the keys and places that lead to it."""
    if result is None:
        return
    parts: Iterator[tuple[str | int, object]]
    if isinstance(result, Mapping):
        parts = ((str(key), value) for key, value in result.items())
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        parts = ((field.name, getattr(result, field.name)) for field in dataclasses.fields(result))
    elif isinstance(result, (tuple, list)):
        parts = iter(zip(getattr(result, "_fields", None) or range(len(result)), result, strict=True))
    else:
        yield (), result
        return
    for key, value in parts:
        yield from (((key, *path), leaf) for path, leaf in _leaves(value))


def is_flat(shape: Sequence[object]) -> bool:
    """Whether an output is N x C, or N x C x 1 x 1: so many values per image, which may be the logits of classes."""
    return len(shape) == 2 or (len(shape) == 4 and list(shape[2:]) == [1, 1])


def main_output(shapes: Mapping[str, Sequence[object]], wanted: str | None, what: str) -> str:
    """Says which output comes first.

    Args:
        shapes: each output's shape, in the network's order.
        wanted: the logits, where the user named them; else it is the first of N x C, else the first of N x C x 1 x 1,
            else the network's first.
        what: whose outputs they are, to begin a sentence with.

    Raises:
        InputError: there is no such output, or it is not (N, classes).
    """
    listed = ", ".join(f"{name} ({' x '.join(str(side) for side in shape)})" for name, shape in shapes.items())
    if wanted is not None and wanted not in shapes:
        raise InputError(f"{what} has no output {wanted!r}: name one of {listed} with --logits")
    if wanted is not None and not is_flat(shapes[wanted]):
        raise InputError(
            f"{what} returns {listed}, so {wanted} is not a tensor of logits (N, classes): name one that is with "
            "--logits, or leave that out"
        )
    flat = sorted((name for name, shape in shapes.items() if is_flat(shape)), key=lambda name: len(shapes[name]))
    return wanted or next(iter(flat), next(iter(shapes)))
