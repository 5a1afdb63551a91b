"""How images are prepared for a network: what timm resolves for it, and what a user puts in its place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from radixrt.errors import InputError

Numbers = str | Sequence[float]
_OF_THE_FILE = ("layout", "dtype")  # which the network's file decides


class Preprocess(BaseModel):
    """The steps from a decoded image to a network's input; the manifest records it.

    ``input_size`` is (C, H, W) with one or three channels, also where the network takes its images as (N, H, W, C):
    that is their ``layout``, which the network's file decides. ``mean`` and ``std`` have C values on the scale 0..1
    (one value stands for all channels). A network whose file takes bytes (``dtype`` uint8) gets the pixels as they are,
    0 to 255: what it does to them is part of it, and a mean of 0 and a std of 1 stand for that. What the steps do with
    them is :func:`radixrt.calibration.data.pixels.preprocess_image`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_size: tuple[Literal[1, 3], int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = Field(default=0.875, gt=0, le=4)
    crop_mode: Literal["center", "squash", "border"] = "center"
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] = "bicubic"
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float32", "uint8"] = "float32"

    @model_validator(mode="before")
    @classmethod
    def _one_value_for_all_channels(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping):
            return fields
        fields = dict(fields)
        size = fields.get("input_size")
        channels = size[0] if isinstance(size, Sequence) and size else 1
        for name in ("mean", "std"):
            value = fields.get(name)
            if isinstance(value, Sequence) and len(value) == 1 and isinstance(channels, int):
                fields[name] = tuple(value) * channels
        return fields

    @model_validator(mode="after")
    def _consistent(self) -> Preprocess:
        channels, height, width = self.input_size
        if not (1 <= height <= 8192 and 1 <= width <= 8192):
            raise ValueError(f"input_size: {height} x {width} is outside 1..8192")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels:
                raise ValueError(f"{name} has {len(values)} values for {channels} channels")
            if not all(abs(value) < 1e6 for value in values):
                raise ValueError(f"{name} must be finite")
        if max(self.mean) > 1:
            raise ValueError(
                "mean is on the scale 0 to 1: divide by 255 what is on the scale 0 to 255, and std as well"
            )
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        for name, values, neutral in (("mean", self.mean, 0), ("std", self.std, 1)):
            if self.dtype == "uint8" and set(values) != {neutral}:
                raise ValueError(f"the network takes pixels as bytes, 0 to 255, and normalises them itself: no {name}")
        return self

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Preprocess:
        """Takes what ``timm.data.resolve_model_data_config`` gives; keys that are no preprocessing are left aside.

        timm keeps ImageNet's three means for a network with one channel, which then takes their average.

        Raises:
            InputError: a value is not one that preprocessing can use.
        """
        fields = {name: config[name] for name in cls.model_fields if config.get(name) is not None}
        return _checked(_averaged_for_one_channel(fields, ("mean", "std")))

    def with_overrides(
        self,
        *,
        input_size: str | Sequence[int] | None = None,
        mean: Numbers | None = None,
        std: Numbers | None = None,
        crop_pct: float | None = None,
        crop_mode: str | None = None,
        interpolation: str | None = None,
    ) -> Preprocess:
        """Puts a user's choices in place of timm's; numbers may be text such as ``3,128,128``.

        When only the number of channels changes to one, mean and std become the average over the three, as a grayscale
        photograph has the average of its colours; when it changes to three, the one value serves each.

        Raises:
            InputError: a value is not one that preprocessing can use.
        """
        given: dict[str, Any] = {
            "input_size": _numbers("input size", input_size, int),
            "mean": _numbers("mean", mean, float),
            "std": _numbers("std", std, float),
            "crop_pct": crop_pct,
            "crop_mode": crop_mode,
            "interpolation": interpolation,
        }
        fields = self.model_dump() | {name: value for name, value in given.items() if value is not None}
        return _checked(_averaged_for_one_channel(fields, [name for name in ("mean", "std") if given[name] is None]))

    def with_file(self, path: Path) -> Preprocess:
        """Puts the choices of a JSON file in place of timm's.

        The file holds the fields at its top, or under ``data_config`` (as the sample networks do) or ``pretrained_cfg``
        (as timm's hub does), which count where both are there. Other keys are left aside.

        Raises:
            InputError: the file is unreadable, no JSON object, or has a value that preprocessing cannot use.
        """
        fields = read_fields(path)
        try:
            return self.with_overrides(**fields)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


def read_fields(path: Path) -> dict[str, Any]:
    """The fields that a JSON file gives, as :meth:`Preprocess.with_file` takes it.

    Raises:
        InputError: the file is unreadable or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read the preprocessing in {path}: {error}; it must be a JSON object") from error
    if not isinstance(content, dict):
        raise InputError(f"cannot read the preprocessing in {path}: it must be a JSON object")
    for nested in ("data_config", "pretrained_cfg"):
        if isinstance(content.get(nested), dict):
            content = {**content, **content[nested]}
            break
    fields = {name: content[name] for name in Preprocess.model_fields if content.get(name) is not None}
    return {name: value for name, value in fields.items() if name not in _OF_THE_FILE}


def _averaged_for_one_channel(fields: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    size = fields.get("input_size")
    if not isinstance(size, Sequence) or not size or size[0] != 1:
        return fields
    average = {name: (sum(fields[name]) / len(fields[name]),) for name in names if fields.get(name)}
    return {**fields, **average}


def _checked(fields: dict[str, Any]) -> Preprocess:
    try:
        return Preprocess(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0]) if first["loc"] else "values"
        if where == "input_size" and len(first["loc"]) > 1:
            size = ",".join(str(number) for number in fields[where])
            if first["loc"][1] == 0 and len(fields[where]) == 3 and isinstance(first["input"], int):
                raise InputError(
                    f"the input of {size} has {first['input']} channels, and images have 1 or 3: give arrays instead, "
                    "--data FILE.npz"
                ) from error
            raise InputError(f"bad input_size {size}: give channels (1 or 3), height, width: 3,224,224") from error
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"preprocessing cannot use this {where}: {reason}; got {first['input']!r}") from error


def _numbers(what: str, value: Any, kind: type[int] | type[float]) -> tuple[float, ...] | None:
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else value
    try:
        return tuple(kind(part) for part in parts)
    except (TypeError, ValueError) as error:
        raise InputError(f"bad {what} {value!r}: write numbers with commas between them, such as 3,224,224") from error
