"""What the rewriter did to a graph: the ``rewrite`` part of ``report.json``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AttentionRecord(_Frozen):
    """One recognised attention block. ``name`` is its torch module path where the graph keeps one."""

    name: str
    kind: Literal["se", "sk", "split"]
    radix: int
    cardinality: int
    lowering: str


class Refusal(_Frozen):
    """A place that looks like an attention block (or another rewritable form) and was left alone."""

    node: str
    reason: str


class GroupedConvRecord(_Frozen):
    """The form one grouped convolution got: ``keep``, ``split``, ``merge`` or ``dense``."""

    name: str
    groups: int
    form: str
    why: str


class RewriteReport(_Frozen):
    """``max_abs_err`` is the largest absolute difference that the proofs of this build saw."""

    attention_blocks: list[AttentionRecord] = []
    refused: list[Refusal] = []
    grouped_convs: list[GroupedConvRecord] = []
    nodes_before: int = 0
    nodes_after: int = 0
    max_abs_err: float = 0.0
