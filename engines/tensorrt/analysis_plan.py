"""A plan built beside the shipped one, of the same deploy graph and with the same options, whose runs show its inside.

Not executed where it was written: there is no GPU there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from radixrt.engines.base import Array, BuildOptions, Capability
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.build import build_plan
from radixrt.engines.tensorrt.gpu import find_gpu
from radixrt.engines.tensorrt.legacy_graph import for_version
from radixrt.errors import InputError

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True)
class AnalysisPlan:
    """What is needed to make one.

    Attributes:
        capability: of the target on this machine.
        deploy: the deploy graph's file.
        options: those of the shipped plan.
    """

    capability: Capability
    deploy: Path
    options: BuildOptions

    @contextmanager
    def showing(self, names: Sequence[str]) -> Iterator[Callable[[Array], dict[str, Array]]]:
        """Builds the plan and opens it.

        Args:
            names: tensors of the deploy graph.

        Yields:
            What takes images (N, C, H, W) and returns these tensors by name, with all outputs.

        Raises:
            InputError: the library's version cannot show tensors, or cannot build the plan.
        """
        from radixrt.engines.tensorrt.session import CudaSession

        api = TrtApi.load(_MODULES[self.capability.target])
        options = replace(
            self.options,
            debug_tensors=tuple(names),
            strip_weights=False,
            compute_capabilities=(find_gpu().capability,),
        )
        with tempfile.TemporaryDirectory(prefix="radixrt-analysis-") as folder:
            engine = Path(folder) / "analysis.plan"
            engine.write_bytes(build_plan(api, for_version(self.deploy, api), options).data)
            with CudaSession(api, engine, use_graph=False) as session:
                feed = session.inputs[0]

                def show(images: Array) -> dict[str, Array]:
                    shown = session.debug_tensors({feed.name: np.ascontiguousarray(images, feed.dtype)})
                    if missing := set(names) - set(shown):
                        raise InputError(
                            f"{api.product} {api.version_text} did not show {len(missing)} of the {len(names)} tensors "
                            f"that were marked, {min(missing)!r} among them"
                        )
                    return shown

                yield show


def analysis_plan(capability: Capability, deploy: Path, options: BuildOptions) -> AnalysisPlan | None:
    """Returns the plan of a target that can be looked into and runs here, None for any other."""
    if capability.target not in _MODULES or not capability.runs:
        return None
    return AnalysisPlan(capability, deploy, options)
