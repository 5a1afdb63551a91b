"""Rewrites a graph: the one entry to the compiler's passes, and the list of them in order.

``rewrite`` works on any ONNX graph and imports no PyTorch. It knows no target: what targets differ in, the caller gives
in :class:`RewriteOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir
import onnx_ir.passes.common as common

from radixrt.errors import RadixRTError
from radixrt.export.attention.forms import AttentionForm
from radixrt.export.attention.rewrite import LowerAttention
from radixrt.export.graph.dimensions import name_dimensions
from radixrt.export.passes.base import Pass
from radixrt.export.passes.conv_shape import ChooseForm
from radixrt.export.passes.fold_affine import FoldAffine
from radixrt.export.passes.fold_batchnorm import FoldBatchNorm
from radixrt.export.passes.fold_shapes import FoldShapes
from radixrt.export.passes.grouped_conv import GroupedConv
from radixrt.export.passes.light_layers import ChooseLight, LightLayers
from radixrt.export.passes.pool_conv import ChoosePoolForm, PoolConv
from radixrt.export.passes.report import PassResult, RewriteReport
from radixrt.export.passes.squeeze_early import SqueezeEarly
from radixrt.export.sides import Sides


@dataclass(frozen=True)
class RewriteOptions:
    """What to rewrite, in which of the forms that are equal in value.

    Attributes:
        attention: how attention blocks are written.
        attention_why: the reason for that form, a clause for the report.
        choose_form: chooses the form of each grouped convolution; None keeps them.
        choose_pool: chooses between average pooling with a 1x1 convolution and one strided convolution; None keeps.
        choose_light: chooses whether layers that hardly multiply run in INT8; None asks nothing.
        target_passes: what one target wants done to the graph that the passes above leave.
        batch: images per run that forms are chosen for, where the graph's batch is dynamic.
        sides: the sizes of the image, where the graph leaves them free.
    """

    attention: AttentionForm = field(default_factory=AttentionForm)
    attention_why: str = ""
    choose_form: ChooseForm | None = None
    choose_pool: ChoosePoolForm | None = None
    choose_light: ChooseLight | None = None
    target_passes: tuple[Pass, ...] = ()
    batch: int = 1
    sides: Sides | None = None


def pipeline(options: RewriteOptions) -> tuple[ir.passes.PassBase, ...]:
    """The passes in order."""
    infer_shapes = common.ShapeInferencePass(check_type=False, strict_mode=False)
    return (
        FoldShapes(options.sides),
        # Exporters without shapes (TorchScript) get them here: some forms want to know H and W.
        infer_shapes,
        # Before recognition, so that a convolution and its normalisation are one feature map.
        FoldBatchNorm(),
        FoldAffine(),
        LowerAttention(options.attention, why=options.attention_why, sides=options.sides),
        # After attention: it reads the pooling and the FC that the lowering wrote.
        SqueezeEarly(),
        # After the squeeze has found its place, which needs the shapes of the nodes written above.
        infer_shapes,
        # The forms read shapes, and a pool that becomes a convolution may be a grouped one's neighbour.
        *([] if options.choose_pool is None else [PoolConv(options.choose_pool, options.batch)]),
        *([] if options.choose_form is None else [GroupedConv(options.choose_form, options.batch)]),
        # After it: a grouped convolution that became dense is no light layer.
        *([] if options.choose_light is None else [LightLayers(options.choose_light, options.batch)]),
        # After every pass that looks for the operators as they were, a GlobalAveragePool say.
        *options.target_passes,
        # Last: what the passes above left without a reader goes, and every tensor gets its shape for what follows.
        common.RemoveUnusedNodesPass(),
        infer_shapes,
    )


def rewrite(model: ir.Model, options: RewriteOptions) -> tuple[ir.Model, RewriteReport]:
    """Rewrites ``model`` in place.

    Args:
        model: any ONNX graph, opset 13 or later.
        options: what to rewrite.

    Returns:
        The same model, and what was done to it: nothing is skipped silently.

    Raises:
        RadixRTError: the graph cannot be rewritten, and why.
        PassError: a pass is broken; the message names it.
    """
    report = RewriteReport(nodes_before=len(model.graph))
    common.TopologicalSortPass()(model)
    for pass_ in pipeline(options):
        try:
            result = pass_(model)
        except RadixRTError:
            raise
        except Exception as error:
            raise ir.passes.PassError(f"the pass {pass_} failed: {error}") from error
        if isinstance(result, PassResult):
            report = _add(report, result)
    if options.sides is not None:
        name_dimensions(model, options.sides)
    return model, report.model_copy(update={"nodes_after": len(model.graph)})


def _add(report: RewriteReport, result: PassResult) -> RewriteReport:
    return RewriteReport(
        attention_blocks=[*report.attention_blocks, *result.attention_blocks],
        refused=[*report.refused, *result.refused],
        grouped_convs=[*report.grouped_convs, *result.grouped_convs],
        pool_convs=[*report.pool_convs, *result.pool_convs],
        light_layers=[*report.light_layers, *result.light_layers],
        nodes_before=report.nodes_before,
        max_abs_err=max(report.max_abs_err, result.max_abs_err),
    )
