"""Folds BatchNormalization into the convolution or Gemm before it, with onnxscript's rules.

Before: ``BatchNormalization(Conv(x, W, b), gamma, beta, mean, var)``. After: ``Conv(x, W', b')`` with ``W' = W * gamma
/ sqrt(var + epsilon)`` and ``b' = (b - mean) * gamma / sqrt(var + epsilon) + beta``. onnxscript's rules refuse where
the convolution's result is read elsewhere, is an output of the graph, or has a weight that is no constant.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)

from radixrt.export.graph.origin import NAME_SCOPES, copy_origin
from radixrt.export.passes.base import Pass
from radixrt.export.passes.report import PassResult


class FoldBatchNorm(Pass):
    """Folds every normalisation that follows a layer."""

    def call(self, model: ir.Model) -> PassResult:
        before = {node.outputs[0].name: _producer(node) for node in model.graph if node.op_type == "BatchNormalization"}
        rules = RewriteRuleSet(
            [fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_conv_transpose_rule, fuse_batchnorm_into_gemm_rule]
        )
        count = rules.apply_to_model(model)
        for node in model.graph:
            origin = before.get(node.outputs[0].name) if node.outputs else None
            if origin is not None and node.op_type != "BatchNormalization" and NAME_SCOPES not in node.metadata_props:
                copy_origin(origin, node)
        return PassResult(model, modified=bool(count))


def _producer(node: ir.Node) -> ir.Node | None:
    value = node.inputs[0]
    return value.producer() if value is not None else None
