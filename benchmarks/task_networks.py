"""Networks that are no classifiers, as people deploy them: what ``make bench-tasks`` compiles.

Each is a PyTorch module in evaluation mode or an ONNX file that somebody else wrote. Weights are random except those of
PaddleOCR; the normalisations' statistics are fitted on images by whoever runs them.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samples.text import overlap, write

Size = tuple[int, int, int]


@dataclass(frozen=True)
class TaskNetwork:
    """One network.

    Attributes:
        build: makes it: a module, or the ONNX file that it lies in; may write into the folder that it is given.
        size: channels, height and width of its image.
        blocks: the attention blocks that its authors wrote into it.
        task: what its outputs mean; random weights are held against their own answers in FP32.
        data: makes its images, whose labels it is then held against; photographs of solar cells where absent.
        pixels: their mean and standard deviation, for each channel or one for all; as the network says where absent.
        metric: of the original's main output and the engine's, beside the task's figure; labels are not given.
    """

    build: Callable[[Path], Any]
    size: Size
    blocks: int
    task: str = "tensors"
    data: Callable[[Path], Path] | None = None
    pixels: tuple[str, str] | None = None
    metric: Callable[[NDArray[np.float32], NDArray[np.float32], object], float] | None = None


class Levels(nn.Module):
    """A detector whose class and box maps come as two lists, as one tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) to the maps of each level."""
        classes, boxes = self.network(images)
        return (*classes, *boxes)


class RetinaNet(nn.Module):
    """Backbone, pyramid and heads, without anchors and post-processing."""

    def __init__(self, backbone: str) -> None:
        from torchvision.models.detection.retinanet import RetinaNetHead
        from torchvision.ops import FeaturePyramidNetwork
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7

        super().__init__()
        self.body = timm.create_model(backbone, pretrained=False, features_only=True, out_indices=(2, 3, 4))
        channels = self.body.feature_info.channels()  # type: ignore[union-attr, operator]
        self.fpn = FeaturePyramidNetwork(channels, 256, extra_blocks=LastLevelP6P7(256, 256))
        self.head = RetinaNetHead(256, 9, 4)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (N, 3, H, W) to ``cls_logits`` (N, anchors, 4) and ``bbox_regression`` (N, anchors, 4)."""
        levels = {str(index): level for index, level in enumerate(self.body(images))}
        found: dict[str, Tensor] = self.head(list(self.fpn(levels).values()))
        return found


class InstanceAndBatch(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the others (IBN-a)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sizes = [channels // 2, channels - channels // 2]
        self.instance = nn.InstanceNorm2d(self.sizes[0], affine=True)
        self.batch = nn.BatchNorm2d(self.sizes[1])

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        first, second = torch.split(x, self.sizes, 1)
        return torch.cat([self.instance(first.contiguous()), self.batch(second.contiguous())], 1)


class Reidentification(nn.Module):
    """A timm network with :class:`InstanceAndBatch` in its first three stages."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.body = timm.create_model(backbone, pretrained=False, num_classes=0)
        for name in ("layer1", "layer2", "layer3"):
            for block in getattr(self.body, name):
                block.bn1 = InstanceAndBatch(block.conv1.out_channels)
        self.neck = nn.BatchNorm1d(int(self.body.num_features))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to vectors (N, D) of length one."""
        return nn.functional.normalize(self.neck(self.body(x)))


def smp(decoder: str, encoder: str, classes: int = 4) -> Callable[[Path], Any]:
    """A decoder of segmentation-models-pytorch on an encoder."""

    def build(folder: Path) -> Any:
        import segmentation_models_pytorch as models

        return getattr(models, decoder)(encoder, encoder_weights=None, classes=classes).eval()

    return build


def timm_features(name: str) -> Callable[[Path], Any]:
    """The feature pyramid of a timm network."""

    def build(folder: Path) -> Any:
        return timm.create_model(name, pretrained=False, features_only=True).eval()

    return build


def efficientdet(name: str = "tf_efficientdet_d0") -> Callable[[Path], Any]:
    """``effdet``'s detector without its post-processing: class and box maps of five levels."""

    def build(folder: Path) -> Any:
        from effdet import EfficientDet, get_efficientdet_config

        config = get_efficientdet_config(name)
        config.image_size = (256, 256)
        return Levels(EfficientDet(config, pretrained_backbone=False)).eval()

    return build


def retinanet(backbone: str) -> Callable[[Path], Any]:
    """RetinaNet of torchvision, pyramid and heads, on a timm backbone: scores and boxes of each anchor."""
    return lambda folder: RetinaNet(backbone).eval()


def reidentification(backbone: str) -> Callable[[Path], Any]:
    """A network that finds persons again: instance and batch normalisation side by side, an embedding of length one."""
    return lambda folder: Reidentification(backbone).eval()


_KERAS = """
import sys
import keras
import numpy
network = keras.applications.EfficientNetB0(weights=None, classes=4, input_shape=({0}, {0}, 3))
for layer in network.layers:
    if hasattr(layer, "momentum"):
        layer.momentum = 0.0
network(numpy.random.default_rng(0).standard_normal((16, {0}, {0}, 3)).astype("float32") * 60 + 128, training=True)
network.export(sys.argv[1], format="onnx")
"""


def keras_efficientnet(side: int) -> Callable[[Path], Any]:
    """Keras' EfficientNet-B0 as Keras itself exports it: images channels-last, written by a process of its own."""

    def build(folder: Path) -> Any:
        path = folder / f"keras-efficientnet-b0-{side}.onnx"
        if not path.exists():
            command = [sys.executable, "-c", _KERAS.format(side), str(path)]
            subprocess.run(command, check=True, capture_output=True, env={**os.environ, "KERAS_BACKEND": "torch"})
        return path

    return build


def rendered(part: str) -> Callable[[Path], Path]:
    """A set of texts rendered with Pillow's own font, of which labels are exact (``samples/text.py``)."""

    def build(folder: Path) -> Path:
        sets = {name: folder / "text" / name for name in ("lines", "pages", "angles")}
        if not (folder / "text" / ".ready").exists():
            write(folder / "text", lines=400, pages=160, angles=200)
            (folder / "text" / ".ready").touch()
        return sets[part] / "lines.csv" if part == "lines" else sets[part]

    return build


def paddleocr(name: str) -> Callable[[Path], Any]:
    """A file that the package ``rapidocr`` carries, trained by PaddleOCR."""

    def build(folder: Path) -> Any:
        found = importlib.util.find_spec("rapidocr")
        assert found is not None and found.origin is not None, "pip install rapidocr"
        return next((Path(found.origin).parent / "models").glob(f"*{name}*.onnx"))

    return build


_HALVES, IMAGENET = ("0.5", "0.5"), ("0.485,0.456,0.406", "0.229,0.224,0.225")
_NARROW, _PLAIN, _WIDE = (3, 128, 128), (3, 224, 224), (3, 256, 256)

NETWORKS: Mapping[str, TaskNetwork] = {
    "paddleocr-detector": TaskNetwork(
        paddleocr("_det_"), (3, 320, 320), 13, "segment", rendered("pages"), IMAGENET, metric=overlap
    ),
    "paddleocr-recogniser": TaskNetwork(paddleocr("_rec_"), (3, 48, 320), 5, "text", rendered("lines"), _HALVES),
    "paddleocr-angles": TaskNetwork(paddleocr("_cls_"), (3, 48, 192), 9, "classify", rendered("angles"), _HALVES),
    "unet-resnest50d": TaskNetwork(smp("Unet", "tu-resnest50d"), _PLAIN, 16, "segment"),
    "unet-skresnet34": TaskNetwork(smp("Unet", "tu-skresnet34"), _NARROW, 16, "segment"),
    "unet-seresnext50": TaskNetwork(smp("Unet", "se_resnext50_32x4d"), _PLAIN, 16, "segment"),
    "deeplabv3plus-resnest50d": TaskNetwork(smp("DeepLabV3Plus", "tu-resnest50d"), _NARROW, 16, "segment"),
    "deeplabv3plus-skresnet34": TaskNetwork(smp("DeepLabV3Plus", "tu-skresnet34"), _NARROW, 16, "segment"),
    "deeplabv3plus-seresnext50": TaskNetwork(smp("DeepLabV3Plus", "se_resnext50_32x4d"), _NARROW, 16, "segment"),
    "fpn-seresnext50": TaskNetwork(smp("FPN", "se_resnext50_32x4d"), _NARROW, 16, "segment"),
    "features-seresnet18": TaskNetwork(timm_features("seresnet18"), _NARROW, 8),
    "features-skresnet18": TaskNetwork(timm_features("skresnet18"), _NARROW, 8),
    "effdet-d0": TaskNetwork(efficientdet(), _WIDE, 16),
    "keras-efficientnet-b0": TaskNetwork(keras_efficientnet(224), _PLAIN, 16, "classify"),
    "retinanet-seresnet18": TaskNetwork(retinanet("seresnet18"), _PLAIN, 8),
    "retinanet-resnest14d": TaskNetwork(retinanet("resnest14d"), _PLAIN, 4),
    "reid-seresnet18": TaskNetwork(reidentification("seresnet18"), (3, 256, 128), 8, "embed"),
}
