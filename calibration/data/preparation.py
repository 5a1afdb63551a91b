"""How a network's images are prepared, and who says so, field by field."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from radixrt.calibration.data.preprocess import Preprocess, read_fields

# The crop's mode has no option: whoever says how much is cropped says that it is cropped.
FIELDS = ("input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation")
_GOES_WITH = {"crop_mode": "crop_pct"}


class Origin(str, Enum):
    """Who says how images are prepared; ``ASSUMED`` is nobody."""

    NETWORK = "network"
    JSON = "json"
    OPTION = "option"
    BUNDLE = "bundle"
    ASSUMED = "assumed"


class PreparedField(BaseModel):
    """One value of the preprocessing; ``where`` names what ``origin`` is: a definition, a file, a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: tuple[int | float, ...] | float | str
    origin: Origin
    where: str = ""

    @property
    def spelt(self) -> str:
        """The value as its option takes it."""
        return ",".join(f"{number:g}" for number in self.value) if isinstance(self.value, tuple) else f"{self.value}"


@dataclass(frozen=True)
class _Said:
    origin: Origin
    where: str


@dataclass(frozen=True)
class Preparation:
    """The values, and who said each; a field that ``said`` lacks was assumed, as timm does where it knows nothing."""

    values: Preprocess
    said: Mapping[str, _Said]

    @classmethod
    def of_network(cls, config: Mapping[str, Any], said: Collection[str], where: str) -> Preparation:
        """What a network says of itself.

        Args:
            config: every value, as timm resolves it.
            said: the names of those that the network itself gives.
            where: its definition.

        Raises:
            InputError: a value is not one that preprocessing can use.
        """
        known = {name: _Said(Origin.NETWORK, where) for name in FIELDS if name in said}
        return cls(Preprocess.from_config(config), known)

    def beside(self, checkpoint: Path) -> Preparation:
        """Takes the JSON file beside a checkpoint, where there is one (``best.json`` for ``best.pth``)."""
        sidecar = checkpoint.with_suffix(".json")
        return self.with_file(sidecar) if sidecar.is_file() else self

    def with_file(self, path: Path) -> Preparation:
        """Takes what a JSON file says, as :meth:`Preprocess.with_file` does."""
        return self._now(self.values.with_file(path), read_fields(path), Origin.JSON, path.name)

    def with_options(self, **given: Any) -> Preparation:
        """Takes what the user's options say, as :meth:`Preprocess.with_overrides` does."""
        named = {name: value for name, value in given.items() if value is not None}
        return self._now(self.values.with_overrides(**named), named, Origin.OPTION, "")

    def with_bundle(self, recorded: Preprocess, assumed: Collection[str], where: str) -> Preparation:
        """Takes from a bundle what nobody else says.

        Args:
            recorded: how the bundle's engine reads its images.
            assumed: what of that was assumed when it was built.
            where: the bundle.
        """
        given = {name: getattr(recorded, name) for name in self.assumed if name not in assumed}
        given |= {"crop_mode": recorded.crop_mode} if "crop_pct" in given else {}
        return self._now(self.values.with_overrides(**given), given, Origin.BUNDLE, where)

    @property
    def fields(self) -> list[PreparedField]:
        """Every value with who said it."""
        return [self._field(name) for name in FIELDS]

    @property
    def assumed(self) -> tuple[str, ...]:
        """The names of what nobody said."""
        return tuple(f.name for f in self.fields if f.origin is Origin.ASSUMED and f.name not in _GOES_WITH)

    def _field(self, name: str) -> PreparedField:
        said = self.said.get(name) or self.said.get(_GOES_WITH.get(name, name)) or _Said(Origin.ASSUMED, "")
        return PreparedField(name=name, value=getattr(self.values, name), origin=said.origin, where=said.where)

    def _now(self, values: Preprocess, names: Collection[str], origin: Origin, where: str) -> Preparation:
        return Preparation(values, {**self.said, **dict.fromkeys(names, _Said(origin, where))})
