"""A TensorRT module made from a recorded surface: it has what that version has, and refuses what it has not.

A member that was not recorded raises AttributeError; a call is held against the recorded signatures (how many
arguments, which keywords); a property that cannot be set there cannot be set here. What a call returns is of the
recorded type, or what the scenario says. Nothing is computed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

SURFACES = Path(__file__).parent / "surfaces"
VERSIONS = ("8.5", "8.6", "10.16", "11.4", "rtx-1.7")

Scenario = dict[str, Any]


class _EnumMember:
    def __init__(self, enum: str, name: str, value: int) -> None:
        self.enum, self.name, self.value = enum, name, value

    def __int__(self) -> int:
        return self.value

    def __str__(self) -> str:
        return f"{self.enum}.{self.name}"


def _arguments(signature: str) -> tuple[int, int, set[str]]:
    """Returns the least and the greatest number of arguments without self, and their names."""
    inside = signature[1 : signature.rindex(") -> ")]
    # Types hold commas of their own: drop what is in brackets.
    while re.search(r"\[[^\[\]]*\]|<[^<>]*>", inside):
        inside = re.sub(r"\[[^\[\]]*\]|<[^<>]*>", "", inside)
    parts = [part.strip() for part in inside.split(",") if part.strip()][1:]
    return sum("=" not in part for part in parts), len(parts), {part.split(":")[0] for part in parts}


def _check_call(name: str, signatures: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Returns the signature that fits a call.

    Raises:
        TypeError: none does.
    """
    for signature in signatures:
        least, most, names = _arguments(signature)
        if least <= len(args) + len(kwargs) <= most and set(kwargs) <= names:
            return signature
    raise TypeError(f"{name} takes {signatures}, not {args} {kwargs}")


def load(version: str, scenario: Scenario | None = None) -> Any:
    """Returns the module of a recorded version.

    Args:
        version: one of ``VERSIONS``.
        scenario: what ``"Class.member"`` gives, a value or a function of (object, arguments); the rest gives what its
            type suggests.
    """
    recorded = json.loads((SURFACES / f"{version}.json").read_text())
    answers = scenario or {}
    calls: list[str] = []
    module: Any = type("RecordedModule", (), {})()
    module.__name__ = "tensorrt_rtx" if version.startswith("rtx") else "tensorrt"
    module.__version__ = recorded["version"]
    module.calls = calls
    for enum, names in recorded["enums"].items():
        members = {name: _EnumMember(enum, name, index) for index, name in enumerate(names)}
        setattr(module, enum, type(enum, (), members))
    for name, members in recorded["classes"].items():
        setattr(module, name, _make_class(module, name, members, answers))
    return module


def _make_class(module: Any, name: str, members: dict[str, Any], answers: Scenario) -> type:
    def construct(self: Any, *args: Any, **kwargs: Any) -> None:
        signatures = members.get("__init__", {}).get("signatures", [])
        if signatures:
            _check_call(name, signatures, args, kwargs)
        # The recorded objects hold nothing, so an attribute that is not recorded must not appear by being set.
        object.__setattr__(self, "_set", {})

    def give(self: Any, member: str, type_name: str, args: tuple[Any, ...]) -> Any:
        module.calls.append(f"{name}.{member}")
        answer = answers.get(f"{name}.{member}", ...)
        if answer is not ...:
            return answer(self, *args) if callable(answer) else answer
        simple: dict[str, Any] = {"int": 0, "bool": True, "str": "", "None": None, "float": 0.0}
        if type_name in simple:
            return simple[type_name]
        short = type_name.rsplit("::", 1)[-1]
        if short in ("IParserError",):
            short = "ParserError"
        if hasattr(module, short):
            return object.__new__(getattr(module, short))._made()
        raise AssertionError(f"{name}.{member} returns a {type_name}: the scenario must say what")

    def made(self: Any) -> Any:
        object.__setattr__(self, "_set", {})
        return self

    def set_attribute(self: Any, member: str, value: Any) -> None:
        if member.startswith("_"):
            object.__setattr__(self, member, value)
            return
        if not members.get(member, {}).get("settable"):
            raise AttributeError(f"{name}.{member} cannot be set in {module.__version__}")
        module.calls.append(f"{name}.{member}=")
        self._set[member] = value

    def method(member: str, signatures: list[str]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            fit = _check_call(f"{name}.{member}", signatures, args, kwargs) if signatures else "() -> None"
            return give(self, member, fit.rsplit(") -> ", 1)[1], args)

        return call

    def reader(member: str, type_name: str) -> property:
        def read(self: Any) -> Any:
            return self._set[member] if member in self._set else give(self, member, type_name, ())

        return property(read)

    body: dict[str, Any] = {"__init__": construct, "__setattr__": set_attribute, "_made": made}
    for member, described in members.items():
        if member == "__init__":
            continue
        if "settable" in described:
            body[member] = reader(member, described["type"])
        else:
            body[member] = method(member, described["signatures"])
    return type(name, (), body)
