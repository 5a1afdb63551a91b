"""A target of our own, to show what one takes: it runs the deploy graph in NumPy, node by node."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
from onnx.reference import ReferenceEvaluator

from radixrt.engines.base import BuildOptions, BuiltEngine, Capability, Progress, Target
from radixrt.engines.session import Array, Session, TensorSpec
from radixrt.export.spec import Traits


class ToySession(Session):
    def __init__(self, engine: Path) -> None:
        # The evaluator knows Q/DQ pairs from this opset on.
        self._graph = ReferenceEvaluator(onnx.version_converter.convert_version(onnx.load(engine), 19))
        self.inputs, self.outputs = (
            tuple(
                TensorSpec(
                    name,
                    np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)),
                    tuple(dim.dim_value or -1 for dim in kind.tensor_type.shape.dim),
                )
                for name, kind in zip(names, types, strict=True)
            )
            for names, types in (
                (self._graph.input_names, self._graph.input_types),
                (self._graph.output_names, self._graph.output_types),
            )
        )

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(self._graph.output_names, self._graph.run(None, feeds), strict=True))

    def _release(self) -> None: ...


class ToyTarget(Target):
    name = "toy"
    suffix = ".toy"
    traits = Traits(title="Toy")

    def _find_capability(self) -> Capability:
        return Capability(self.name, True, True, version=onnx.__version__, device="CPU")

    def _build(
        self, deploy: Path, out_dir: Path, options: BuildOptions, progress: Progress | None = None
    ) -> BuiltEngine:
        started, engine = time.perf_counter(), out_dir / f"engine{self.suffix}"
        engine.write_bytes(deploy.read_bytes())
        return BuiltEngine((engine,), time.perf_counter() - started)

    def _open(self, engine: Path, threads: int) -> Session:
        return ToySession(engine)
