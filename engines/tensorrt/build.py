"""From a deploy graph to a plan, for TensorRT and TensorRT for RTX alike.

Parse, configure, build, and say what went wrong in the model's own names.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from radixrt.engines.base import BuildOptions, Progress
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.debug import mark_debug
from radixrt.errors import InputError
from radixrt.export.sides import sized
from radixrt.export.spec import Precision

if TYPE_CHECKING:
    import tensorrt as trt

STRIPPED = ".stripped"
"""Stands in the name of a plan without weights: whoever opens it must give it those of the graph beside it."""


@dataclass
class BuildLog:
    """What the builder said: errors, warnings, and the list of compiled layers that it prints."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)

    def __call__(self, severity: str, text: str) -> None:
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(text)
        elif severity == "WARNING":
            self.warnings.append(text)
        elif text.startswith("Layers:"):
            self.layers.append(text)


@dataclass(frozen=True)
class BuiltPlan:
    """A built plan, and what the builder said meanwhile."""

    data: bytes
    log: BuildLog
    timing_cache: bytes = b""


def build_plan(
    api: TrtApi,
    graph: bytes,
    options: BuildOptions,
    *,
    timing_cache: bytes | None = None,
    progress: Progress | None = None,
) -> BuiltPlan:
    """Builds a plan.

    Args:
        api: the library.
        graph: the ONNX file's bytes, in a form that this version reads (see ``legacy_graph`` for 8.x).
        options: what the user chose.
        timing_cache: timings of an earlier build on this device, b"" to start a cache, None to do without.
        progress: told of each step; Ctrl-C stops the build at the next one, where the library tells of its steps (10.0
            and later), and at its end elsewhere.

    Raises:
        InputError: the graph has a node that the library cannot take (named by its torch module), an option it does
            not offer, or no kernel fits; or ``progress`` stopped it.
    """
    log = BuildLog()
    logger = api.logger(log)
    builder: trt.Builder = api.trt.Builder(logger)
    network, parser = _parsed(api, builder, graph, logger, log)
    if options.debug_tensors:
        mark_debug(api, network, options.debug_tensors)
    config = builder.create_builder_config()
    _configure(api, builder, config, options)
    stop = threading.Event()
    failed: list[Exception] = []

    def step(phase: str, done: int, total: int) -> bool:
        try:
            if progress is not None and not progress(phase, done, total):
                stop.set()
        except Exception as error:  # in the library's hands it would look like a graph that cannot be built
            failed.append(error)
            stop.set()
        return not stop.is_set()

    monitor = api.set_progress_monitor(config, step)
    _add_profile(api, builder, network, config, options)
    cache = api.timing_cache(config, timing_cache) if timing_cache is not None else None
    plan = _build_in_thread(builder, network, config, stop)
    del monitor, parser
    if failed:
        raise failed[0]
    if plan is None and stop.is_set():
        raise InputError("the build was stopped: start it again")
    if plan is None:
        said = log.errors[-1] if log.errors else "it gave no reason"
        raise InputError(
            f"{api.product} {api.version_text} cannot build this graph ({said}): try another precision or a "
            "larger workspace"
        )
    return BuiltPlan(bytes(memoryview(plan)), log, bytes(memoryview(cache.serialize())) if cache is not None else b"")


def refusal(api: TrtApi, graph: bytes) -> str | None:
    """Why the parser does not take a graph, in the words of :func:`build_plan`, which builds nothing here."""
    log = BuildLog()
    logger = api.logger(log)
    try:
        _parsed(api, api.trt.Builder(logger), graph, logger, log)
    except InputError as error:
        return str(error)
    return None


def _parsed(
    api: TrtApi, builder: trt.Builder, graph: bytes, logger: trt.ILogger, log: BuildLog
) -> tuple[trt.INetworkDefinition, trt.OnnxParser]:
    """The network, and the parser, which keeps the weights that it reads."""
    network = api.network(builder)
    parser: trt.OnnxParser = api.trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise InputError(_explain(api, graph, api.parser_errors(parser), log))
    return network, parser


def _build_in_thread(
    builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig, stop: threading.Event
) -> Any:
    """Builds in a thread of its own, and stops at the next step when this one is interrupted.

    Python raises Ctrl-C in the main thread. In a callback of the builder it would have to pass through the library's
    C++, which ends the process; here it finds the main thread waiting.
    """
    with ThreadPoolExecutor(1, "tensorrt-build") as pool:
        plan = pool.submit(builder.build_serialized_network, network, config)
        try:
            return plan.result()
        except BaseException:
            stop.set()
            raise


def check_options(api: TrtApi, options: BuildOptions) -> None:
    """Finds out, without building anything, whether this version offers what is asked for.

    Raises:
        InputError: it does not.
    """
    builder: trt.Builder = api.trt.Builder(api.logger(BuildLog()))
    _configure(api, builder, builder.create_builder_config(), options)


def plan_name(options: BuildOptions) -> str:
    """The file name of a plan, which says whether its weights are in it."""
    return f"engine{STRIPPED if options.strip_plan else ''}.plan"


def _configure(api: TrtApi, builder: trt.Builder, config: trt.IBuilderConfig, options: BuildOptions) -> None:
    api.set_detailed(config)
    api.set_precision_flags(
        config, half=options.precision is not Precision.FP32, int8=options.precision is Precision.INT8
    )
    if options.workspace_mb is not None:
        api.set_workspace(config, options.workspace_mb << 20)
    if options.builder_level is not None:
        api.set_builder_level(config, options.builder_level)
    if options.version_compatible:
        api.set_version_compatible(config)
    if options.hardware_compatible:
        api.set_hardware_compatible(config)
    if options.refit:
        api.set_flag(config, "REFIT", "refittable plans")
    if options.strip_plan:
        api.set_flag(config, "STRIP_PLAN", "plans without weights")
    if options.dla_core is not None:
        if options.batch.dynamic or options.precision is Precision.FP32:
            raise InputError("a DLA core takes one batch size, at fp16 or int8: choose one of each, or no --dla-core")
        api.set_dla(builder, config, options.dla_core)
    if api.rtx:
        api.set_compute_capabilities(config, options.compute_capabilities)


def _add_profile(
    api: TrtApi,
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    config: trt.IBuilderConfig,
    options: BuildOptions,
) -> None:
    """Gives a dynamic batch and the free sides of an image their ranges; every other dimension must be static.

    Raises:
        InputError: nobody said what a free side may be.
    """
    batch, sides = options.batch, options.sides
    sizes = [()] * 3 if sides is None else [sides.free_of(s) for s in (sides.lowest, sides.middle, sides.highest)]
    profile = None
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = api.shape(tensor.shape)
        if -1 not in shape:
            continue
        if shape[1:].count(-1) != len(sizes[0]):
            raise InputError(
                f"input {tensor.name!r} has shape {shape}, and nobody said what its sides may be: name them with "
                "--height 320..960:32 --width 320..960:32, or export it with a fixed image size"
            )
        profile = profile or builder.create_optimization_profile()
        ends = zip((batch.min, batch.opt, batch.max), sizes, strict=True)
        smallest, tuned, largest = (api.trt.Dims(sized(shape, count, free)) for count, free in ends)
        profile.set_shape(tensor.name, smallest, tuned, largest)
    if profile is not None:
        config.add_optimization_profile(profile)


def _explain(api: TrtApi, graph: bytes, errors: tuple[tuple[int, str, str], ...], log: BuildLog) -> str:
    """Turns the parser's errors into one sentence that names the torch module and a way out."""
    if not errors:
        said = log.errors[-1] if log.errors else "it gave no reason"
        return f"{api.product} {api.version_text} cannot read the graph ({said}): export the model again"
    index, name, description = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    node = _find_node(graph, index, name)
    if node is None:
        return f"{api.product} {api.version_text} cannot read the graph: {description.strip()}{more}"
    from radixrt.export.graph.origin import module_of

    way_out = "use TARGET=onnxruntime for this model, or replace that operator in the model"
    if "scale" in description.lower() and "quantize" in node.op_type.lower():
        way_out = "build it at fp16, whose graph has no such pair"
    return (
        f"{api.product} {api.version_text} does not take {node.op_type} at {module_of(node)!r}{more}, saying "
        f"{description.strip().rstrip('.')!r}: {way_out}"
    )


def _find_node(graph: bytes, index: int, name: str) -> ir.Node | None:
    import onnx

    nodes = list(ir.from_proto(onnx.load_from_string(graph)).graph)
    named = [node for node in nodes if name and node.name == name]
    if named:
        return named[0]
    return nodes[index] if 0 <= index < len(nodes) else None
