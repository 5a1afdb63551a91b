"""A Python call derived from an options object: its keywords, their types and help, and the object it is given."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import TypeVar, get_type_hints

from typing_extensions import ParamSpec

from radixrt.fields import fill, help_of, subjects_of
from radixrt.options import AnswerOptions

O = TypeVar("O")  # noqa: E741  # an options object
P = ParamSpec("P")
R = TypeVar("R")


def takes(cls: Callable[P, O], read: Callable[..., O] = fill) -> Callable[[Callable[[O], R]], Callable[P, R]]:
    """Gives a function that takes an options object the keywords of that object instead.

    Editors and type checkers see the class's own parameters, and so does ``inspect.signature``. ``read`` makes the
    object of the class and what was given.
    """
    assert isinstance(cls, type)
    bare, own = get_type_hints(cls), inspect.signature(cls).parameters
    typed = {field.name for field in fields(AnswerOptions)}
    names = [name for subject in subjects_of(cls).values() for name in subject if name not in typed]
    # What may be given by position comes first, whichever class declares it.
    shown = sorted([own[name].replace(annotation=bare[name]) for name in names], key=lambda one: one.kind)

    def derive(body: Callable[[O], R]) -> Callable[P, R]:
        returned = inspect.signature(body).return_annotation
        signature = inspect.Signature(shown, return_annotation=returned)

        @functools.wraps(body)
        def call(*args: P.args, **given: P.kwargs) -> R:
            return body(read(cls, signature.bind_partial(*args).arguments | given))

        helps = "".join(f"\n        {name}: {help_of(cls, name)}" for name in names)
        call.__doc__ = (body.__doc__ or "").replace("\n    Returns:", f"\n    Args:{helps}\n\n    Returns:", 1)
        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return derive
