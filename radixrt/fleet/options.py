"""What a sweep is asked for: the options of a build, of which some may be lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from typing_extensions import Doc

from radixrt.options import DEFAULT_MODEL, CompileOptions

SWEPT = ("model", "precision", "target", "method", "batch")
"""Options whose lists are every combination."""


@dataclass(frozen=True, kw_only=True)
class FleetOptions:
    """The sweep."""

    exclude: Annotated[
        str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        Doc("Combinations to leave out: precision=int8,target=openvino, or such tables in a recipe."),
    ] = ()
    address: Annotated[
        str | None, Doc("A Ray cluster that runs already, such as 10.0.0.7:6379. Default: this machine alone.")
    ] = None
    jobs: Annotated[int | None, Field(ge=1), Doc("Builds at once on this machine. Default: one for each core.")] = None
    cores: Annotated[int, Field(ge=1), Doc("Cores that one build asks for.")] = 1
    since: Annotated[
        Path | str | None,
        Doc("An earlier sweep's folder: say what became slower or lost accuracy since."),
    ] = None
    max_failed: Annotated[int, Field(ge=0), Doc("Rows that may fail or miss a gate before the sweep does.")] = 0


@dataclass(frozen=True, kw_only=True)
class SweepOptions(CompileOptions, FleetOptions):
    """What is compiled, in every combination, and where it goes."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: Annotated[
        str | Path | Sequence[str | Mapping[str, Any]],
        Doc("Networks, as `radixrt engine` takes them, or one recipe, .toml or .json, whose lists are combined."),
    ] = field(default=DEFAULT_MODEL, kw_only=False)  # type: ignore[assignment]
    precision: Annotated[str | Sequence[str], Doc("fp32, fp16, int8, or several with commas.")] = "int8"  # type: ignore[assignment]
    target: Annotated[str | Sequence[str], Doc("auto, or several with commas: onnxruntime,openvino.")] = "auto"
    method: Annotated[
        str | Sequence[str], Doc("How ranges are chosen: minmax, percentile, entropy, mse, or several with commas.")
    ] = "minmax"  # type: ignore[assignment]
    batch: Annotated[str | int | Sequence[str | int], Doc("Batch sizes: 8, 1..8, or several with commas.")] = "1"  # type: ignore[assignment]
    output: Annotated[Path | str | None, Doc("The sweep's folder; the same command resumes there.")] = "build/sweep"
