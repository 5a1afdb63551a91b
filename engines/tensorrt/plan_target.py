"""What TensorRT and TensorRT for RTX have in common: their engines are plans."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import onnx_ir as ir

from radixrt.engines.base import Analysis, BuildOptions, Target
from radixrt.engines.forms.rules import Rule
from radixrt.engines.inspection import Inspection, LayerRow
from radixrt.engines.layer_origin import Origins
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.build import refusal

INT8_GROUP_MULTIPLE = 4
"""INT8 tensor cores take channels four at a time at least: a group of another width has no INT8 kernel."""

# From the documented tensor layouts: an INT8 kernel reads channels in vectors of 32 (CHW32) and an FP16 kernel in
# vectors of 8 (HWC8); a narrower group leaves the rest of the vector idle. A convolution of two to four wide groups
# (ResNeSt's radix convolution) is well fed already.
INT8_GROUPS = Rule(
    below=32, multiple=INT8_GROUP_MULTIPLE, width=32, why="an INT8 kernel reads channels in vectors of 32"
)
FP16_GROUPS = Rule(below=8, multiple=8, width=16, why="an FP16 kernel reads channels in vectors of 8")


class PlanTarget(Target):
    """A target whose engines are plans. ``module`` is the library's."""

    module: str
    suffix = ".plan"

    @property
    def _api(self) -> TrtApi:
        return TrtApi.load(self.module)

    def inspect(
        self, engine: Path, deploy: Path, options: BuildOptions, *, devices: tuple[str, ...] = (), runs: int = 20
    ) -> Inspection:
        if self.capability().runs:
            return super().inspect(engine, deploy, options, devices=devices, runs=runs)
        return self._estimate(engine, deploy, options, devices)

    def refusal(self, graph: ir.Model) -> str | None:
        # What TensorRT 8.x reads is another graph, made of the finished one.
        if not self.capability().builds or self._api.max_opset is not None:
            return None
        return refusal(self._api, ir.to_proto(graph).SerializeToString())

    @abstractmethod
    def _estimate(self, engine: Path, deploy: Path, options: BuildOptions, devices: tuple[str, ...]) -> Inspection:
        """Tells of a plan that cannot run here."""

    def _layers(self, engine: Path, origins: Origins, options: BuildOptions, runs: int) -> tuple[LayerRow, ...]:
        from radixrt.engines.tensorrt.inspect import plan_layers

        return plan_layers(self._api, engine, origins, options, runs)

    def analysis(self, deploy: Path, options: BuildOptions) -> Analysis | None:
        from radixrt.engines.tensorrt.debug import PlanAnalysis

        capability = self.capability()
        return PlanAnalysis(capability, options, self._api, deploy) if capability.runs else None

    def write_beside(self, deploy: Path) -> Path | None:
        from radixrt.engines.bundle.runner import write_legacy_graph

        return write_legacy_graph(deploy)
