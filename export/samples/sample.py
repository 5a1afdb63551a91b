"""The sample networks, trained on photographs of solar cells: three classifiers, a segmenter and a detector.

Each trains in minutes on two cores, and its weights fit a repository. The definitions are
:mod:`radixrt.export.samples.networks`; weights and training stand in ``samples/`` at the root of the source
tree; a wheel has none.
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
#: What a pixel is, by the value of the mask; and what kinds of spots there are.
CRACK_LABELS, SPOT_LABELS = ("background", "crack"), ("dark", "bright")

_FOLDER = Path(__file__).resolve().parents[2] / "samples"


@dataclass(frozen=True)
class Sample:
    """One sample network.

    ``build(num_classes)`` gives the module with untrained weights; ``weights`` is its safetensors file;
    ``data_config`` is what timm would resolve for it; ``data`` names the images that it is calibrated and judged on.
    """

    name: str
    family: str
    build: Callable[[int], nn.Module]
    weights: Path
    data_config: Mapping[str, Any]
    labels: tuple[str, ...]
    data: str

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


def _network(definition: str) -> Callable[[int], nn.Module]:
    def build(num_classes: int) -> nn.Module:
        from radixrt.export.samples import networks

        module: nn.Module = getattr(networks, definition)(num_classes)
        return module

    return build


_CONFIG: Mapping[str, Any] = {
    "input_size": (3, 128, 128),
    "mean": (0.6, 0.6, 0.6),
    "std": (0.16, 0.16, 0.16),
    "crop_pct": 1.0,
    "crop_mode": "center",
    "interpolation": "bilinear",
}


def _sample(name: str, definition: str, data: str = "elpv", labels: tuple[str, ...] = LABELS) -> Sample:
    family = name.partition("-")[0]
    return Sample(name, family, _network(definition), _FOLDER / f"{name}.safetensors", _CONFIG, labels, data)


SAMPLES = (
    _sample("resnest-nano-elpv", "resnest"),
    _sample("sknet-nano-elpv", "sknet"),
    _sample("senet-nano-elpv", "senet"),
    _sample("resnest-nano-cracks", "UNet", "elpv-cracks", CRACK_LABELS),
    _sample("sknet-nano-spots", "Detector", "elpv-spots", SPOT_LABELS),
)


def find(name: str) -> Sample | None:
    """The sample network of that name."""
    return next((sample for sample in SAMPLES if sample.name == name), None)
