"""The definitions of the sample networks: timm's own blocks in small networks, whose sizes alone are chosen here.

Three classify; one is a U-Net on the first of them, which gives every pixel a class; one is a detector without
anchors on the second, which gives boxes, scores and labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import Bottleneck, ResNet
from timm.models.sknet import SelectiveKernelBottleneck
from torch import Tensor, nn
from torch.nn import functional as F

#: Channels of an encoder's feature maps, at strides 2, 4, 8, 16 and 32.
WIDTHS = (16, 64, 128, 192, 256)
#: How many boxes the detector gives for each image; what is no object has a score near 0.
DETECTIONS = 16
#: Pixels between two places where the detector looks for an object's centre.
STRIDE = 4


def resnest(num_classes: int) -> ResNet:
    """Split attention, radix 2."""
    return _resnet(ResNestBottleneck, num_classes, avg_down=True, block_args={"radix": 2, "avd": True})


def sknet(num_classes: int) -> ResNet:
    """Selective kernels of two branches, in the paper's form: both see the whole input, and are grouped."""
    sk_kwargs = {"rd_ratio": 1 / 4, "rd_divisor": 8, "split_input": False}
    return _resnet(
        SelectiveKernelBottleneck, num_classes, cardinality=2, base_width=32, block_args={"sk_kwargs": sk_kwargs}
    )


def senet(num_classes: int) -> ResNet:
    """Squeeze and excitation."""
    return _resnet(Bottleneck, num_classes, block_args={"attn_layer": "se"})


def _resnet(block: Any, num_classes: int, **kwargs: Any) -> ResNet:
    return ResNet(block, (1, 2, 2, 1), num_classes, stem_type="deep", stem_width=8, channels=(16, 32, 48, 64), **kwargs)


class Encoder(nn.Module):
    """A classifier without its head: feature maps at strides 2, 4, 8, 16 and 32, as wide as :data:`WIDTHS` says."""

    def __init__(self, network: ResNet) -> None:
        super().__init__()
        self.stem = nn.Sequential(network.conv1, network.bn1, network.act1)
        self.pool = network.maxpool
        self.stages = nn.ModuleList(network.get_submodule(f"layer{number}") for number in (1, 2, 3, 4))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.stem(images)]
        x = self.pool(maps[0])
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class UNet(nn.Module):
    """Ronneberger et al. 2015, with a ResNeSt encoder: (N, 3, H, W) to logits (N, classes, H, W), H and W in 32s.

    Feature maps go up by nearest neighbours, as the decoders of segmentation-models-pytorch do, and the last step by
    a transposed convolution, as in the paper.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(resnest(0))
        above, self.steps = WIDTHS[-1], nn.ModuleList()
        for skip, width in zip(reversed(WIDTHS[:-1]), (96, 64, 32, 24), strict=True):
            self.steps.append(nn.Sequential(_conv(above + skip, width), _conv(width, width)))
            above = width
        self.up = nn.ConvTranspose2d(above, 16, 2, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.head = nn.Conv2d(16, num_classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        *skips, x = self.encoder(images)
        for step, skip in zip(self.steps, reversed(skips), strict=True):
            x = step(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], dim=1))
        logits: Tensor = self.head(F.relu(self.norm(self.up(x))))
        return logits


class Detections(NamedTuple):
    """``boxes`` (N, K, 4): left, top, right, bottom in pixels; ``scores`` (N, K), best first; ``labels`` (N, K)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class Detector(nn.Module):
    """Finds objects by their centres (Zhou et al. 2019, "Objects as Points"), on a pyramid over an SK encoder.

    At every fourth pixel it gives, for each class, how likely an object's centre is there, and the distances to the
    object's four sides. A centre is a place that no neighbour exceeds, so nothing else has to be suppressed.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(sknet(0))
        self.laterals = nn.ModuleList(_conv(width, 48, 1) for width in WIDTHS[1:])
        self.smooth = _conv(48, 48)
        likely = nn.Conv2d(48, num_classes, 1)
        nn.init.constant_(likely.bias, -4.0)  # type: ignore[arg-type]  # at first no centre is held for likely
        self.centres = nn.Sequential(_conv(48, 48), likely)
        self.sides = nn.Sequential(_conv(48, 48), nn.Conv2d(48, 4, 1))

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of centres (N, classes, H/4, W/4), and distances to left, top, right and bottom (N, 4, H/4, W/4)."""
        maps = [lateral(x) for lateral, x in zip(self.laterals, self.encoder(images)[1:], strict=True)]
        x = maps[-1]
        for below in reversed(maps[:-1]):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") + below
        x = self.smooth(x)
        return self.centres(x), F.relu(self.sides(x)) * STRIDE

    def forward(self, images: Tensor) -> Detections:
        logits, sides = self.maps(images)
        height, width = logits.shape[2:]
        likely = torch.sigmoid(logits)
        peaks = torch.where(F.max_pool2d(likely, 3, stride=1, padding=1) == likely, likely, torch.zeros_like(likely))
        scores, index = peaks.flatten(1).topk(DETECTIONS, dim=1)
        place, labels = index % (height * width), index // (height * width)
        found = sides.flatten(2).gather(2, place.unsqueeze(1).expand(-1, 4, -1)).transpose(1, 2)
        x = (place % width).to(found.dtype) * STRIDE + STRIDE / 2
        y = (place // width).to(found.dtype) * STRIDE + STRIDE / 2
        centre = torch.stack([x, y], dim=2)
        boxes = torch.cat([centre - found[:, :, :2], centre + found[:, :, 2:]], dim=2)
        return Detections(boxes, scores, labels)


def _conv(inputs: int, outputs: int, size: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
