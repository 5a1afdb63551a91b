"""The sample networks: three small ones, one per family, trained on photographs of solar cells.

Their blocks are timm's; only the sizes are chosen here, so that each trains in minutes on two cores and its weights
fit a repository. Weights and training stand in ``samples/`` at the root of the source tree; a wheel has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radixrt.errors import InputError, first_line

if TYPE_CHECKING:
    from torch import nn

#: The four classes, in the order of the heads' outputs: type of the cell x its state.
LABELS = ("mono-functional", "mono-defective", "poly-functional", "poly-defective")

_FOLDER = Path(__file__).resolve().parents[2] / "samples"


@dataclass(frozen=True)
class Sample:
    """One sample network.

    ``build(num_classes)`` gives the module with untrained weights; ``weights`` is its safetensors file;
    ``data_config`` is what timm would resolve for it.
    """

    name: str
    family: str
    build: Callable[[int], nn.Module]
    weights: Path
    data_config: Mapping[str, Any]
    labels: tuple[str, ...] = LABELS

    def load(self) -> nn.Module:
        """The trained network in eval mode.

        Raises:
            InputError: the weights are not there, or are not this network's.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        module = self.build(len(self.labels))
        try:
            module.load_state_dict(load_file(self.require_weights()))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise InputError(
                f"{self.weights} does not hold the weights of {self.name} ({first_line(error)}): fetch it again, or "
                f"train it with `python -m samples.train {self.name}`"
            ) from error
        return module.eval()

    def require_weights(self) -> Path:
        """The weights' file.

        Raises:
            InputError: it is not there, as in an installed wheel.
        """
        if not self.weights.is_file():
            raise InputError(
                f"the weights of {self.name} are not at {self.weights}: sample networks come with RadixRT's source tree"
                f" (run from a clone of it), where `python -m samples.train {self.name}` also makes them"
            )
        return self.weights

    def record(self) -> Mapping[str, Any]:
        """What training wrote beside the weights: seed, epochs, versions, labels.

        Raises:
            InputError: the weights are not there.
        """
        content: dict[str, Any] = json.loads(self.require_weights().with_suffix(".json").read_text(encoding="utf-8"))
        return content


def _resnest(num_classes: int) -> nn.Module:
    from timm.models.resnest import ResNestBottleneck

    return _resnet(ResNestBottleneck, num_classes, avg_down=True, block_args={"radix": 2, "avd": True})


def _sknet(num_classes: int) -> nn.Module:
    from timm.models.sknet import SelectiveKernelBottleneck

    # The paper's form: both branches see the whole input, and their convolutions are grouped.
    sk_kwargs = {"rd_ratio": 1 / 4, "rd_divisor": 8, "split_input": False}
    return _resnet(
        SelectiveKernelBottleneck, num_classes, cardinality=2, base_width=32, block_args={"sk_kwargs": sk_kwargs}
    )


def _senet(num_classes: int) -> nn.Module:
    from timm.models.resnet import Bottleneck

    return _resnet(Bottleneck, num_classes, block_args={"attn_layer": "se"})


def _resnet(block: Any, num_classes: int, **kwargs: Any) -> nn.Module:
    from timm.models.resnet import ResNet

    return ResNet(block, (1, 2, 2, 1), num_classes, stem_type="deep", stem_width=8, channels=(16, 32, 48, 64), **kwargs)


def _sample(family: str, build: Callable[[int], nn.Module]) -> Sample:
    name = f"{family}-nano-elpv"
    config = {
        "input_size": (3, 128, 128),
        "mean": (0.6, 0.6, 0.6),
        "std": (0.16, 0.16, 0.16),
        "crop_pct": 1.0,
        "crop_mode": "center",
        "interpolation": "bilinear",
    }
    return Sample(name, family, build, _FOLDER / f"{name}.safetensors", config)


SAMPLES = (_sample("resnest", _resnest), _sample("sknet", _sknet), _sample("senet", _senet))


def find(name: str) -> Sample | None:
    """The sample network of that name."""
    return next((sample for sample in SAMPLES if sample.name == name), None)
