"""What the classes of a reader that was trained with CTC stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from radixrt.errors import InputError


def alphabet(characters: Sequence[str], classes: int) -> tuple[str, ...] | str:
    """What each class stands for, the empty text for CTC's blank; or why a list of characters does not say.

    An empty line stands for the blank. A list without one leaves out the blank, which is then the first class, and
    perhaps the space, which PaddleOCR puts after all others; or its first line stands for the blank, where it has as
    many as there are classes.
    """
    listed = tuple(characters)
    if len(listed) == classes:
        return listed if listed.count("") == 1 else ("", *listed[1:])
    if len(listed) == classes - 1 and "" not in listed:
        return ("", *listed)
    if len(listed) == classes - 2 and not {"", " "} & set(listed):
        return ("", *listed, " ")
    return f"the list has {len(listed)} characters, and the output {classes} classes: it must have one less"


def steps_first(scores: NDArray[Any], images: int) -> NDArray[Any]:
    """Scores as (N, T, C), also where a network gives (T, N, C), as PyTorch's CTC loss takes them."""
    return scores.swapaxes(0, 1) if scores.shape[0] != images and scores.shape[1] == images else scores


def read_characters(path: Path) -> str:
    """A list of characters: a text file in UTF-8, one a line; a line may hold a space.

    Raises:
        InputError: the file cannot be read, or has no line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the characters in {path} ({error}): one a line, in UTF-8") from error
    if not text.strip("\r\n"):
        raise InputError(f"{path} lists no characters: write one a line")
    return text


def parse_characters(text: str) -> tuple[str, ...]:
    """A list of characters, one on each line, as PaddleOCR's ONNX files carry it in their metadata too."""
    # Not splitlines(): the list may hold other characters that end a line.
    lines = text.replace("\r\n", "\n").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return tuple(lines)
