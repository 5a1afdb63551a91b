"""What INT8 saves in each layer, by the target's own profiler: the FP32 engine beside the INT8 engine, in turn.

A kernel belongs to the layer whose torch module it comes from, with what the runtime fused into it: an INT8 kernel
carries its rounding, an FP32 one its activation. So a gain is of the layer with its surroundings, and may be negative.
TensorRT's engines are not profiled here: each would take minutes to build, on a device that may not be this one.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import onnx_ir as ir

from radixrt.calibration.placement.decision import decide
from radixrt.calibration.placement.options import PlacementOptions
from radixrt.calibration.placement.place import place
from radixrt.calibration.ranges.table import CalibrationTable
from radixrt.engines.base import GRAPH_NAME, BuildOptions, Target
from radixrt.engines.quiet import alone
from radixrt.export.graph.facts import infer
from radixrt.export.graph.layers import macs_of
from radixrt.export.graph.origin import module_of
from radixrt.export.spec import Precision

RUNS = 10
TURNS = 4  # of which the quickest counts: whatever else the machine does can only add


def layer_gains(
    model: ir.Model, table: CalibrationTable, options: PlacementOptions, target: Target
) -> dict[str, float] | None:
    """Measures what INT8 saves in each layer that a placement quantises.

    Args:
        model: the float32 graph; not changed.
        table: its ranges.
        options: the placement.
        target: what is measured.

    Returns:
        milliseconds of one image by layer name; None where the target is not profiled.
    """
    if not target.traits.cpu or not target.capability().runs:
        return None
    placed, _ = place(model, table, options)
    layers = decide(infer(model.clone()), options).layers
    times: dict[Precision, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        engines = {}
        for precision, graph in ((Precision.FP32, model), (Precision.INT8, placed)):
            built = target.build_graph(graph, Path(folder, precision.value), BuildOptions(precision))
            engines[precision] = built.files[0]
        with alone():
            for precision, engine in [*engines.items()] * TURNS:
                found = _by_module(target, engine, precision)
                best = times.setdefault(precision, found)
                times[precision] = {m: min(found.get(m, 0.0), best.get(m, 0.0)) for m in best | found}
    # The layers of one module, such as the parts of a split convolution, share its gain by their work.
    work: Counter[str] = Counter()
    for layer in layers:
        work[module_of(layer.node)] += max(macs_of(layer), 1)
    gains = {}
    for layer in layers:
        module = module_of(layer.node)
        saved = times[Precision.FP32].get(module, 0.0) - times[Precision.INT8].get(module, 0.0)
        gains[layer.name] = saved * max(macs_of(layer), 1) / work[module]
    return gains


def _by_module(target: Target, engine: Path, precision: Precision) -> dict[str, float]:
    seen = target.inspect(engine, engine.with_name(GRAPH_NAME), BuildOptions(precision), runs=RUNS)
    sums: defaultdict[str, float] = defaultdict(float)
    for row in seen.rows:
        if row.origin:
            sums[row.origin[0]] += (row.mean_us or 0.0) / 1e3
    return dict(sums)
