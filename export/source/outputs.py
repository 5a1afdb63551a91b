"""The outputs of a network: what each is called, and which comes first.

A network may return one tensor, several (a tuple, a list, a named tuple), or a dictionary of them. Behind the capture
the main output is always the graph's first, whatever its place was: the logits where there are any. The others keep
their order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
    """What a module returned: tensors by name, in the order in which ``torch.export`` flattens them."""

    tensors: dict[str, torch.Tensor]
    main: str

    @property
    def ordered(self) -> dict[str, torch.Tensor]:
        """The same, the main one first."""
        return {self.main: self.tensors[self.main], **self.tensors}


def named_outputs(result: object, wanted: str | None = None, taken: Collection[str] = ()) -> NamedOutputs:
    """Names what a module returned.

    The tensors of a dictionary or a named tuple have their own names. Those of a tuple are called by their place
    (``output_1``), except a main output of two dimensions, which is ``logits`` there as it is where it is alone.

    Args:
        result: what the module returned.
        wanted: which output is the logits; see :func:`main_output` where absent.
        taken: the names of inputs: an output of such a name is called ``NAME_output``.

    Raises:
        InputError: it holds something else than tensors, or there is no such output.
    """
    import torch

    if isinstance(result, torch.Tensor):
        found = {OUTPUT_NAME if result.ndim == 2 else OTHER_NAME: result}
    elif isinstance(result, Mapping):
        found = {str(name): tensor for name, tensor in result.items()}
    elif isinstance(result, (tuple, list)):
        names = getattr(result, "_fields", None) or [f"output_{index}" for index in range(len(result))]
        found = dict(zip(names, result, strict=True))
    else:
        found = {}
    if not found or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise InputError(
            f"the model returns {type(result).__name__}, not tensors: wrap it in a module that returns a "
            "tensor, or a tuple or dictionary of tensors"
        )
    found = {f"{name}_output" if name in taken else name: tensor for name, tensor in found.items()}
    main = main_output({name: tuple(tensor.shape) for name, tensor in found.items()}, wanted, "the model")
    if isinstance(result, (tuple, list)) and not hasattr(result, "_fields") and found[main].ndim == 2:
        found = {OUTPUT_NAME if name == main else name: tensor for name, tensor in found.items()}
        main = OUTPUT_NAME
    return NamedOutputs(found, main)


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
