"""What every pass of the rewriter returns."""

from __future__ import annotations

from dataclasses import dataclass

from radixrt.export.passes.report import AttentionRecord, GroupedConvRecord, Refusal


@dataclass(frozen=True)
class PassResult:
    """Whether a pass changed its model, and what it has to report."""

    changed: bool = False
    attention_blocks: tuple[AttentionRecord, ...] = ()
    refused: tuple[Refusal, ...] = ()
    grouped_convs: tuple[GroupedConvRecord, ...] = ()
    max_abs_err: float = 0.0
