"""Which output of an engine is which of the original's: by name, and by shape where another tool renamed them."""

from __future__ import annotations

from dataclasses import dataclass

from radixrt.engines.runners import Outputs
from radixrt.errors import InputError
from radixrt.validate.schema import Finding


@dataclass(frozen=True)
class MatchedOutputs:
    """``names``: the engine's name of each output that both networks have. ``findings``: what only one of them has."""

    main: str
    names: dict[str, str]
    findings: list[Finding]


def match_outputs(original: Outputs, engine: Outputs) -> MatchedOutputs:
    """Matches the outputs of one batch.

    Args:
        original: every output by name, the main one first.
        engine: every output by name, in any order.

    Raises:
        InputError: the engine has nothing like the main output.
    """
    main = next(iter(original))
    names = {name: name for name in original if name in engine and engine[name].shape == original[name].shape}
    for name, array in original.items():
        alike = [other for other, found in engine.items() if found.shape == array.shape and other not in names.values()]
        if name not in names and alike:
            names[name] = alike[0]
    if main not in names:
        have = ", ".join(f"{name} {array.shape[1:]}" for name, array in engine.items())
        raise InputError(
            f"the engine's outputs are {have} per image, and none is like the original's main "
            f"output {main} {original[main].shape[1:]}: judge it against the network it was made from"
        )
    lacking = [name for name in original if name not in names]
    more = [name for name in engine if name not in names.values()]
    texts = [f"The engine lacks the original's output {name}: it was not compared." for name in lacking]
    texts += [f"The original lacks the engine's output {name}: it was not compared." for name in more]
    findings = [Finding.doubt("an output was not compared", text) for text in texts]
    return MatchedOutputs(main, {name: names[name] for name in original if name in names}, findings)
