"""The rewriter with the target's clock behind it, which chooses between forms by measuring."""

from __future__ import annotations

import onnx_ir as ir

from radixrt.export.rewrite import RewriteOptions, rewrite
from radixrt.export.rewrite_report import RewriteReport
from radixrt.export.spec import Precision


def rewrite_for(
    model: ir.Model, target: str, precision: Precision, grouped_conv: str
) -> tuple[ir.Model, RewriteReport]:
    """Rewrites a graph for a target.

    Args:
        model: a simplified float32 graph; it is not changed.
        target: whose clock, or plan cost, chooses between forms that are equal in value.
        precision: the types those forms are measured in.
        grouped_conv: ``keep``, ``split``, ``merge``, ``dense`` or ``auto``.

    Raises:
        InputError: an unknown policy.
    """
    return rewrite(model.clone(), RewriteOptions(target=target, grouped_conv=grouped_conv))
