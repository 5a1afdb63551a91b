"""What a pass did to a graph, and what the rewriter did in all: the ``rewrite`` part of ``report.json``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir
from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AttentionRecord(_Frozen):
    """One recognised attention block. ``name`` is its torch module path where the graph keeps one.

    ``why`` is the reason for the form of its lowering, where there was a choice.
    """

    name: str
    kind: Literal["se", "sk", "split"]
    radix: int
    cardinality: int
    lowering: str
    why: str = ""


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


class PoolConvRecord(_Frozen):
    """The form one average pooling before a 1x1 convolution got.

    ``pool``, as it was; ``depthwise``, a convolution before that one; ``conv``, one convolution with it.
    """

    name: str
    form: Literal["pool", "depthwise", "conv"]
    why: str


class LightLayer(_Frozen):
    """A layer that hardly multiplies, and whether it runs in INT8: ``form`` is ``int8``, ``padded`` or ``float``."""

    node: str
    name: str
    form: Literal["int8", "padded", "float"]
    why: str


class Float32Node(_Frozen):
    """A node that stayed in float32 in an FP16 graph, and why. ``module`` is the torch module that it comes from."""

    node: str
    module: str
    reason: str


class RewriteReport(_Frozen):
    """``max_abs_err`` is the largest absolute difference that the proofs of this build saw."""

    attention_blocks: list[AttentionRecord] = []
    refused: list[Refusal] = []
    grouped_convs: list[GroupedConvRecord] = []
    pool_convs: list[PoolConvRecord] = []
    light_layers: list[LightLayer] = []
    nodes_before: int = 0
    nodes_after: int = 0
    max_abs_err: float = 0.0


@dataclass
class PassResult(ir.passes.PassResult):
    """What a pass returns: the model, whether it is ``modified``, and what there is to report."""

    attention_blocks: tuple[AttentionRecord, ...] = ()
    refused: tuple[Refusal, ...] = ()
    grouped_convs: tuple[GroupedConvRecord, ...] = ()
    pool_convs: tuple[PoolConvRecord, ...] = ()
    light_layers: tuple[LightLayer, ...] = ()
    float32_nodes: tuple[Float32Node, ...] = ()
    max_abs_err: float = 0.0
