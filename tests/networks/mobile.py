"""A small network as phones run them: depthwise convolutions, hard swish, an SE gate, a convolution before the head."""

from __future__ import annotations

import onnx_ir as ir

from tests.networks.residual import Net, gate, images

__all__ = ["images", "mobile"]


def mobile(expanded: int = 24, swish: str = "HardSwish") -> ir.Model:
    """Stem, one inverted residual with an SE gate, pooling, head.

    Args:
        expanded: channels of the depthwise convolution.
        swish: ``HardSwish``, or ``SiLU``, which is a product with a sigmoid.
    """
    net = Net()

    def active(value: str, name: str) -> str:
        if swish == "HardSwish":
            return net.op("HardSwish", [value], name)
        return net.op("Mul", [value, net.op("Sigmoid", [value], f"{name}_sigmoid")], name)

    x = active(net.conv("input", "stem", 16), "stem_act")
    x = net.conv(x, "entry", 16, kernel=1)
    wide = active(net.conv(x, "expand", expanded, kernel=1), "expand_act")
    deep = active(net.conv(wide, "deep", expanded, groups=expanded), "deep_act")
    gated = net.op("Mul", [deep, gate(net, deep, expanded, "gate", act="HardSigmoid")], "gated")
    y = net.op("Add", [net.conv(gated, "project", 16, kernel=1), x], "sum")
    last = active(net.conv(y, "last", 32, kernel=1), "last_act")
    pooled = net.op("GlobalAveragePool", [last], "pooled_map")
    hidden = active(net.conv(pooled, "conv_head", 32, kernel=1), "hidden")
    net.const("fc.weight", net.rng.normal(size=(4, 32)).astype("float32"))
    net.const("fc.bias", net.rng.normal(size=4).astype("float32"))
    net.op("Gemm", [net.op("Flatten", [hidden], "flat", axis=1), "fc.weight", "fc.bias"], "logits", transB=1)
    return net.build(shape=[4])
