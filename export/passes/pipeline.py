"""Rewrites a graph for a target: the one entry to the compiler's passes, and the list of them in order.

``rewrite`` works on any ONNX graph and imports no PyTorch. Every pass has the same shape: it takes a model and the
options, changes the model in place, and returns whether it changed and what it has to report (:class:`PassResult`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_ir as ir
import onnx_ir.passes.common as common

from radixrt.export.attention.lower import AttentionForm
from radixrt.export.attention.rewrite import lower_attention
from radixrt.export.passes.conv_shape import KEEP, ChooseForm
from radixrt.export.passes.fold_batchnorm import fold_batchnorm
from radixrt.export.passes.fold_shapes import fold_shapes
from radixrt.export.passes.grouped_conv import apply_forms
from radixrt.export.passes.pass_result import PassResult
from radixrt.export.passes.pool_conv import ChoosePoolForm, apply_pool_forms
from radixrt.export.passes.report import RewriteReport
from radixrt.export.passes.squeeze_early import squeeze_early

Pass = Callable[[ir.Model], PassResult]
"""Changes a model in place, and says what it did."""


@dataclass(frozen=True)
class RewriteOptions:
    """What to rewrite. Whoever knows the target gives its choices: see ``engines/forms/choose.py``.

    Attributes:
        attention: the form that attention blocks are lowered to; None leaves them.
        choose_form: chooses the form of each grouped convolution; None keeps all.
        choose_pool: chooses between average pooling with a 1x1 convolution and one strided convolution; None keeps.
        target_passes: the target's own, which run after all others.
        batch: images per run that forms are chosen for, where the graph's batch is dynamic.
    """

    attention: AttentionForm | None = field(default_factory=AttentionForm)
    choose_form: ChooseForm | None = None
    choose_pool: ChoosePoolForm | None = None
    target_passes: tuple[Pass, ...] = ()
    batch: int = 1


_Step = Callable[[ir.Model, RewriteOptions], PassResult]


def pipeline(options: RewriteOptions) -> tuple[_Step, ...]:
    """The passes in order."""
    return (
        _fold_shapes,
        # Exporters without shapes (TorchScript) get them here: some forms want to know H and W.
        _infer_shapes,
        # Before recognition, so that a convolution and its normalisation are one feature map.
        _fold_batchnorm,
        _attention,
        # After attention: it reads the pooling and the FC that the lowering wrote.
        _squeeze_early,
        # After the squeeze has found its place, which needs the shapes of the nodes written above.
        _infer_shapes,
        # The forms read shapes, and a pool that becomes a convolution may be a grouped one's neighbour.
        _pool_conv,
        _grouped_conv,
        # After every pass that looks for a GlobalAveragePool, and after the choice about pooling before a 1x1
        # convolution: a target's passes may write such patterns otherwise.
        *(_of_target(run) for run in options.target_passes),
        # Last: the nodes that the passes above left without a reader go here, whoever made them.
        _tidy,
    )


def rewrite(model: ir.Model, options: RewriteOptions) -> tuple[ir.Model, RewriteReport]:
    """Rewrites ``model`` in place.

    Args:
        model: any ONNX graph, opset 13 or later.
        options: what to rewrite.

    Returns:
        The same model, and what was done to it: nothing is skipped silently.
    """
    report = RewriteReport(nodes_before=len(model.graph))
    common.TopologicalSortPass()(model)
    for run in pipeline(options):
        result = run(model, options)
        report = RewriteReport(
            attention_blocks=[*report.attention_blocks, *result.attention_blocks],
            refused=[*report.refused, *result.refused],
            grouped_convs=[*report.grouped_convs, *result.grouped_convs],
            nodes_before=report.nodes_before,
            max_abs_err=max(report.max_abs_err, result.max_abs_err),
        )
    return model, report.model_copy(update={"nodes_after": len(model.graph)})


def _fold_shapes(model: ir.Model, options: RewriteOptions) -> PassResult:
    return fold_shapes(model)


def _infer_shapes(model: ir.Model, options: RewriteOptions) -> PassResult:
    result = common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    return PassResult(changed=bool(result.modified))


def _fold_batchnorm(model: ir.Model, options: RewriteOptions) -> PassResult:
    return fold_batchnorm(model)


def _attention(model: ir.Model, options: RewriteOptions) -> PassResult:
    return PassResult() if options.attention is None else lower_attention(model, options.attention)


def _pool_conv(model: ir.Model, options: RewriteOptions) -> PassResult:
    if options.choose_pool is None:
        return PassResult()
    _, _, refused, changed = apply_pool_forms(model, options.choose_pool, batch=options.batch)
    return PassResult(changed=changed, refused=tuple(refused))


def _grouped_conv(model: ir.Model, options: RewriteOptions) -> PassResult:
    choose = options.choose_form or (lambda shape: (KEEP, "nobody chose another form"))
    _, records, changed = apply_forms(model, choose, batch=options.batch)
    return PassResult(changed=changed, grouped_convs=tuple(records))


def _squeeze_early(model: ir.Model, options: RewriteOptions) -> PassResult:
    return squeeze_early(model)


def _of_target(run: Pass) -> _Step:
    return lambda model, options: run(model)


def _tidy(model: ir.Model, options: RewriteOptions) -> PassResult:
    """Removes what nothing reads, and writes down the shape of every tensor for the stages that follow."""
    changed = bool(common.RemoveUnusedNodesPass()(model).modified)
    common.ShapeInferencePass(check_type=False, strict_mode=False)(model)
    return PassResult(changed=changed)
