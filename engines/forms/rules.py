"""Written rules: which form a grouped convolution gets where neither a clock nor a plan's cost can be had.

A target states one rule for each precision that has one (:attr:`radixrt.engines.base.Target.group_rules`); without a
rule, or where it does not fit a shape, the form is ``keep``.
"""

from __future__ import annotations

from dataclasses import dataclass

from radixrt.export.passes.conv_shape import KEEP, ChooseForm, ConvShape, Form, merge_form
from radixrt.export.spec import Precision

MERGED_WIDTH = 32
"""The group width, in channels, that ``--grouped-conv merge`` reaches."""


@dataclass(frozen=True)
class Rule:
    """Groups narrower than ``below`` (or of a width no multiple of ``multiple``) widen.

    Attributes:
        below: group widths that the rule is about, in channels.
        multiple: group widths that are no multiple of this are meant too, whatever they are.
        width: the group width that the merged form reaches, in channels.
        why: the reason, a clause for the report.
    """

    below: int
    multiple: int
    width: int
    why: str

    def fits(self, shape: ConvShape) -> bool:
        """Whether the rule is about this shape."""
        return shape.group_width < self.below or shape.group_width % self.multiple != 0


def chooser_by_rule(rule: Rule | None, target: str, precision: Precision, cause: str) -> ChooseForm:
    """Returns a chooser that goes by a target's rule.

    Args:
        rule: the target's for this precision; None where it has none.
        target: its name, for the report.
        precision: of the deploy graph's convolutions.
        cause: why nothing could be measured, a clause for the report.
    """

    def choose(shape: ConvShape) -> tuple[Form, str]:
        if rule is not None and rule.fits(shape):
            form = merge_form(shape, rule.width)
            return form, f"rule: {rule.why}, the group is {shape.group_width} wide ({cause})"
        return (
            KEEP,
            f"rule: no reason to change a group {shape.group_width} wide for {target} {precision.value} ({cause})",
        )

    return choose


def chooser_fixed(policy: str) -> ChooseForm:
    """Returns a chooser that gives every convolution the form that the user named.

    Args:
        policy: ``keep``, ``split``, ``merge`` (to :data:`MERGED_WIDTH`) or ``dense``.
    """

    def choose(shape: ConvShape) -> tuple[Form, str]:
        if policy == "merge":
            form = merge_form(shape, MERGED_WIDTH)
            if form == KEEP:
                return form, f"--grouped-conv merge: the group is {shape.group_width} wide already"
            return form, "--grouped-conv merge"
        return Form(policy), f"--grouped-conv {policy}"  # type: ignore[arg-type]

    return choose
