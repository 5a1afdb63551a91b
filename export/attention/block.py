"""The canonical attention block: SE, SK and split attention as one operation with radix R and cardinality K.

::

    s = pool(P)                    pooled: channels of one or more feature maps, averaged or maximised over space
    z = act(W1 s + b1)             absent where the block has a single FC
    a = W2 z + b2                  R * C rows, radix-major
    w = gate(a)                    softmax over the radix, or for R = 1 a sigmoid times a factor plus an offset
    V = sum_r w_r * U_r            U_r: C consecutive channels of a feature map

Everything linear is already folded into W1 and W2 here: normalisation, biases, grouped FCs (as blocks), the transpose
of rsoftmax (as an order of rows), and the sum over the radix (as repeated columns of W1). See Zhang et al., "ResNeSt:
Split-Attention Networks", section 3; Li et al., "Selective Kernel Networks", section 3.1; Hu et al.,
"Squeeze-and-Excitation Networks", section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from radixrt.export.attention.affine import Floats, PoolKind

Kind = Literal["se", "sk", "split"]


@dataclass(frozen=True, eq=False)
class PooledMap:
    """A feature map ``value`` (N, channels, H, W) that the block squeezes; its columns of W1 come in this order."""

    kind: PoolKind
    value: ir.Value
    channels: int


@dataclass(frozen=True, eq=False)
class Branch:
    """``U_r``: the C channels of ``value`` from ``start`` on; ``channels`` is how many ``value`` has."""

    value: ir.Value
    start: int
    channels: int


@dataclass(frozen=True, eq=False)
class Activation:
    """An elementwise function by its ONNX operator (``Swish`` is x * sigmoid(alpha x)) and that operator's numbers."""

    kind: str
    params: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Gate(Activation):
    """``scale * kind(a) + shift``; both (C,), and one and zero where they are absent. R > 1 has neither."""

    scale: Floats | None = None
    shift: Floats | None = None


@dataclass(frozen=True, eq=False)
class Layer:
    """A fully connected layer: ``weight`` (outputs, inputs) and ``bias`` (outputs,), float64."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True, eq=False)
class AttentionBlock:
    """One recognised block.

    Attributes:
        name: the module it came from, or the name of its last node.
        branches: the R feature maps U_r.
        channels: C, of each branch and of the output.
        hidden: W1, b1 and the activation between the FCs; None where the block has one FC.
        excite: W2 and b2, rows in radix-major order.
        gate: ``Softmax`` (over the radix), ``Sigmoid`` or ``HardSigmoid`` of each element.
        output: V (N, C, H, W).
        nodes: the nodes it replaces, in the graph's order.
    """

    name: str
    kind: Kind
    cardinality: int
    pooled: tuple[PooledMap, ...]
    branches: tuple[Branch, ...]
    channels: int
    hidden: tuple[Layer, Activation] | None
    excite: Layer
    gate: Gate
    output: ir.Value
    nodes: tuple[ir.Node, ...]

    @property
    def radix(self) -> int:
        return len(self.branches)

    @property
    def whole(self) -> ir.Value | None:
        """The feature map whose channels are U_0, U_1, ... one after another and nothing else, if there is one."""
        first = self.branches[0]
        together = all(b.value is first.value and b.start == r * self.channels for r, b in enumerate(self.branches))
        return first.value if together and first.channels == self.radix * self.channels else None
