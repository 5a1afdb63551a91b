"""The outputs of a network: what each is called, and which is the logits.

A network may return one tensor, several (a tuple, a list, a named tuple), or a dictionary of them. Behind the capture
the logits are always the graph's first output, whatever their place was; the others keep their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from radixrt.errors import InputError

if TYPE_CHECKING:
    import torch

OUTPUT_NAME = "logits"


@dataclass(frozen=True)
class NamedOutputs:
    """What a module returned: tensors by name, in the order in which ``torch.export`` flattens them."""

    tensors: dict[str, torch.Tensor]
    logits: str

    @property
    def ordered(self) -> dict[str, torch.Tensor]:
        """The same, the logits first."""
        return {self.logits: self.tensors[self.logits], **self.tensors}


def named_outputs(result: object, wanted: str | None = None) -> NamedOutputs:
    """Names what a module returned.

    The tensors of a dictionary or a named tuple have their own names. Those of a tuple are called by their place
    (``output_1``), except the logits, which are ``logits`` there as they are where they are alone.

    Args:
        result: what the module returned.
        wanted: which output is the logits; the first of two dimensions where absent.

    Raises:
        InputError: it holds something else than tensors, there is no such output, or none has two dimensions.
    """
    import torch

    if isinstance(result, torch.Tensor):
        found = {OUTPUT_NAME: result}
    elif isinstance(result, Mapping):
        found = {str(name): tensor for name, tensor in result.items()}
    elif isinstance(result, (tuple, list)):
        names = getattr(result, "_fields", None) or [f"output_{index}" for index in range(len(result))]
        found = dict(zip(names, result, strict=True))
    else:
        found = {}
    if not found or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise InputError(
            f"the model returns {type(result).__name__}, not tensors: wrap it in a module that returns its logits "
            "(N, classes), or a tuple or dictionary of tensors of which one is"
        )
    logits = choose_logits({name: tuple(tensor.shape) for name, tensor in found.items()}, wanted, "the model")
    if isinstance(result, (tuple, list)) and not hasattr(result, "_fields"):
        found = {OUTPUT_NAME if name == logits else name: tensor for name, tensor in found.items()}
        logits = OUTPUT_NAME
    return NamedOutputs(found, logits)


def choose_logits(shapes: Mapping[str, Sequence[object]], wanted: str | None, what: str) -> str:
    """Says which output is the logits.

    Args:
        shapes: each output's shape, in the network's order.
        wanted: its name, where the user gave one; else it is the first of two dimensions.
        what: whose outputs they are, to begin a sentence with.

    Raises:
        InputError: there is no such output, or it is not (N, classes).
    """
    listed = ", ".join(f"{name} ({' x '.join(str(side) for side in shape)})" for name, shape in shapes.items())
    if wanted is not None and wanted not in shapes:
        raise InputError(f"{what} has no output {wanted!r}: name one of {listed} with --logits")
    for name, shape in shapes.items():
        if len(shape) == 2 and wanted in (None, name):
            return name
    raise InputError(
        f"{what} returns {listed}{f', so {wanted} is' if wanted else ','} not a tensor of logits (N, classes): give it "
        "an output that is"
    )
