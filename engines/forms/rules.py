"""The written rule table: which form a grouped convolution gets where neither a clock nor a plan's cost can be had.

Each rule is a target, a precision, what the shape must be, and the form. The first that fits decides; where none
does, the form is ``keep``. The TensorRT rules come from its documented tensor layouts: an INT8 kernel reads
channels in vectors of 32 (CHW32) and an FP16 kernel in vectors of 8 (HWC8); a narrower group leaves the rest of the
vector idle, and a group width that is no multiple of 4 has no INT8 kernel at all. A convolution of two to four wide
groups (ResNeSt's radix convolution) is well fed already.
"""

from __future__ import annotations

from dataclasses import dataclass

from radixrt.export.passes.conv_shape import KEEP, ChooseForm, ConvShape, Form, merge_form
from radixrt.export.spec import Precision


@dataclass(frozen=True)
class Rule:
    """One line of the table: groups narrower than ``below`` (or of a width no multiple of ``multiple``) widen.

    Attributes:
        target: a target's name.
        precision: of the convolution.
        below: group widths that the rule is about, in channels.
        multiple: group widths that are no multiple of this are meant too, whatever they are.
        width: the group width that the merged form reaches, in channels.
        why: the reason, a clause for the report.
    """

    target: str
    precision: Precision
    below: int
    multiple: int
    width: int
    why: str

    def fits(self, shape: ConvShape) -> bool:
        """Whether the rule is about this shape."""
        return shape.group_width < self.below or shape.group_width % self.multiple != 0


RULES: tuple[Rule, ...] = (
    Rule("tensorrt", Precision.INT8, 32, 4, 32, "an INT8 kernel reads channels in vectors of 32"),
    Rule("tensorrt", Precision.FP16, 8, 8, 16, "an FP16 kernel reads channels in vectors of 8"),
    Rule("tensorrt-rtx", Precision.FP16, 8, 8, 16, "an FP16 kernel reads channels in vectors of 8"),
)


def chooser_by_rules(target: str, precision: Precision, cause: str) -> ChooseForm:
    """Returns a chooser that reads the table.

    Args:
        target: the target's name.
        precision: of the deploy graph's convolutions.
        cause: why nothing could be measured, a clause for the report.
    """

    def choose(shape: ConvShape) -> tuple[Form, str]:
        for rule in RULES:
            if rule.target == target and rule.precision == precision and rule.fits(shape):
                form = merge_form(shape, rule.width)
                return form, f"rule: {rule.why}, the group is {shape.group_width} wide ({cause})"
        return (
            KEEP,
            f"rule: no reason to change a group {shape.group_width} wide for {target} {precision.value} ({cause})",
        )

    return choose


def chooser_fixed(policy: str, width: int = 32) -> ChooseForm:
    """Returns a chooser that gives every convolution the form that the user named.

    Args:
        policy: ``keep``, ``split``, ``merge`` or ``dense``.
        width: the group width that ``merge`` reaches, in channels.
    """

    def choose(shape: ConvShape) -> tuple[Form, str]:
        if policy == "merge":
            form = merge_form(shape, width)
            if form == KEEP:
                return form, f"--grouped-conv merge: the group is {shape.group_width} wide already"
            return form, "--grouped-conv merge"
        return Form(policy), f"--grouped-conv {policy}"  # type: ignore[arg-type]

    return choose
