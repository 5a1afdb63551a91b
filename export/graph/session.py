"""A graph on ONNX Runtime's CPU provider, its tensors by name: for calibrating, for references, for comparing layers.

What a user is shipped is opened elsewhere (``engines/cpu/onnxruntime.py``), with the options that serve speed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from radixrt.errors import InputError, first_line
from radixrt.export.feed import Feed, filled, length, part
from radixrt.export.graph.constants import constant
from radixrt.export.graph.facts import Signs, bytes_of, infer
from radixrt.export.graph.writer import GraphWriter
from radixrt.export.sides import HEIGHT_DIM, WIDTH_DIM, Sides, Size
from radixrt.machine import cores

Array = NDArray[Any]

_LIVE_BYTES = 1 << 28
"""What the activations of all runs that go on at the same time may take."""


def silent_runtime() -> Any:
    """ONNX Runtime, whose builds for Windows report how they are used to their maker: here they do not."""
    import onnxruntime as ort

    ort.disable_telemetry_events()
    return ort


def open_session(model: ir.Model | onnx.ModelProto, *, optimize: bool, threads: int = 0) -> Any:
    """Opens a graph.

    Args:
        model: not changed.
        optimize: False computes every node as it is written, which is the reference for what an engine makes of it.
        threads: of the runtime; 0 lets it choose.

    Returns:
        an ``onnxruntime.InferenceSession``. Where the runtime refuses the graph, its own exceptions pass.
    """
    ort = silent_runtime()
    if optimize:
        model = with_kept_pads(ir.from_proto(model) if isinstance(model, onnx.ModelProto) else model)
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # a refusal is an exception, which tells the same
    # One batch follows another: a growing arena would only raise the peak, and a thread that spins between two runs
    # takes the processor from whoever else works.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def with_kept_pads(model: ir.Model) -> ir.Model:
    """The graph, or a copy of it that ONNX Runtime's optimiser leaves right where zeros are padded for a MaxPool.

    The optimiser makes a Pad of zeros the MaxPool's own padding, which is lower than any number: at a border of
    negative numbers 0 was the largest, and is no longer. It looks for 0 exactly, so the least positive number stands
    there instead.
    """
    found = [index for index, node in enumerate(model.graph) if _pads_for_maximum(node)]
    if not found:
        return model
    model = model.clone()
    writer = GraphWriter(model.graph)
    for index in found:
        pad = model.graph[index]
        kind = _padded_type(pad)
        pad.resize_inputs(max(len(pad.inputs), 3))
        pad.replace_input_with(2, writer.constant(np.asarray(np.finfo(kind).tiny, kind), f"least_{kind}"))
    writer.append()
    return model


def _pads_for_maximum(node: ir.Node) -> bool:
    """Whether a node pads numbers that may be negative with zeros, and a MaxPool reads them."""
    if node.op_type != "Pad" or node.domain or node.attributes.get_string("mode", "constant") != "constant":
        return False
    fill, data = node.inputs[2] if len(node.inputs) > 2 else None, node.inputs[0]
    number = constant(fill)
    zeros = fill is None or (number is not None and not number.any())
    pooled = any(reader.op_type == "MaxPool" for reader in node.outputs[0].consumers())
    floats = zeros and pooled and _padded_type(node).kind == "f"
    return floats and data is not None and not Signs().nonnegative(data)


def _padded_type(pad: ir.Node) -> np.dtype[Any]:
    """The type of what a Pad moves; float32 where neither its tensor nor what it pads with tells."""
    values = (value for value in (pad.inputs[0], pad.inputs[2] if len(pad.inputs) > 2 else None) if value is not None)
    known = [value.dtype.numpy() for value in values if value.dtype is not None]
    return np.dtype(known[0] if known else np.float32)


def onnx_outputs(model: ir.Model | onnx.ModelProto) -> Callable[[Feed], dict[str, np.ndarray]]:
    """A call from inputs by name to every output, the graph run as it stands. It must take the batch it is given."""
    # A reference is what the graph says, not what a runtime makes of it.
    session = open_session(model, optimize=False)
    outputs = [output.name for output in session.get_outputs()]

    def run(feed: Feed) -> dict[str, np.ndarray]:
        found = session.run(outputs, dict(feed))
        return dict(zip(outputs, found, strict=True))

    return run


def run_once(proto: onnx.ModelProto, batch: int = 1, *, sides: Sides | None = None) -> dict[str, np.ndarray]:
    """Runs a graph on random images, as many as its batch says or, where it is free, ``batch``.

    Whatever fails raises its own error.
    """
    return onnx_outputs(proto)(random_samples(proto, batch, sides.lowest if sides else None))


def random_samples(proto: onnx.ModelProto, batch: int = 1, size: Size | None = None) -> dict[str, np.ndarray]:
    """Inputs that a graph takes; ``batch`` of them where it does not say how many, of ``size`` where sides are free."""
    random = np.random.default_rng(0)
    free = dict(zip((HEIGHT_DIM, WIDTH_DIM), size or (0, 0), strict=True))
    feed = {}
    for value in proto.graph.input:
        count, *sides = [side.dim_value or free.get(side.dim_param, 0) for side in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [count or batch, *sides]
        # An integer may be an index, of which 0 and 1 are the likeliest to exist; bytes of two dimensions are pixels.
        below = 256 if dtype == np.uint8 and len(shape) == 4 else 2
        numbers = random.standard_normal(shape) if dtype.kind == "f" else random.integers(0, below, shape)
        feed[value.name] = numbers.astype(dtype)
    return feed


class GraphSession:
    """An open graph.

    Args:
        model: not changed.
        tensors: names of more tensors to hand out, beside the graph's own outputs; those it does not have are left out.
        optimize: as for :func:`open_session`.
        threads: of the runtime; 0 lets it choose.
        beside: runs of :meth:`each` and :meth:`over` may go on at the same time, as many as memory has room for, and
            share the threads: two runs on a core each take less time than one after the other on both. A single run
            then has its share of the threads alone.

    Attributes:
        batch: the graph's batch size where that is fixed.

    Raises:
        InputError: ONNX Runtime refuses the graph.
    """

    def __init__(
        self,
        model: ir.Model,
        tensors: Sequence[str] = (),
        *,
        optimize: bool = True,
        threads: int = 0,
        beside: bool = False,
    ) -> None:
        self._room = _room(model) if beside else None
        self._beside = 1 if self._room is None else max(1, min(threads or cores(), self._room))
        if self._beside > 1:
            threads = (threads or cores()) // self._beside
        try:
            self._session = open_session(_with_outputs(model, tensors), optimize=optimize, threads=threads)
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise InputError(f"onnxruntime cannot run the graph: {first_line(error)}") from error
        inputs = self._session.get_inputs()
        self._shapes: dict[str, tuple[int | str | None, ...]] = {i.name: tuple(i.shape) for i in inputs}
        first = next(iter(self._shapes.values()), ())[:1]
        self.batch: int | None = first[0] if first and isinstance(first[0], int) else None
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(
        self, feed: Feed, outputs: Sequence[str] | None = None, constants: Feed | None = None
    ) -> dict[str, Array]:
        """Runs one batch.

        Args:
            feed: the inputs, a row for each sample.
            outputs: which tensors to return; all that the session hands out where None, the graph's own first.
            constants: inputs that are the same for every sample.

        Raises:
            InputError: the inputs do not have the names and shapes that the graph takes.
        """
        names = self._outputs if outputs is None else list(outputs)
        if set(self._shapes) != {*feed, *(constants or ())}:
            raise InputError(f"the graph takes inputs {list(self._shapes)}, not {list(feed)}: name each of them")
        for name, array in feed.items():
            wanted = self._shapes[name]
            if array.ndim != len(wanted) or any(
                isinstance(w, int) and w != g for w, g in zip(wanted[1:], array.shape[1:], strict=True)
            ):
                raise InputError(
                    f"samples of shape {array.shape} do not fit the graph's input {name} {list(wanted)}: resize them"
                )
        if not names:  # which the runtime would take for all
            return {}
        fed = {**(constants or {}), **{name: np.ascontiguousarray(array) for name, array in feed.items()}}
        return dict(zip(names, self._session.run(names, fed), strict=True))

    def each(
        self, feeds: Iterable[Feed], outputs: Sequence[str] | None = None, constants: Feed | None = None
    ) -> Iterator[tuple[Feed, dict[str, Array]]]:
        """Runs batches as for a call, and yields each with its tensors, in order; the next ones are computed meanwhile.

        A batch smaller than the graph's own is filled up, and what came of that is left out. Where the source of
        batches fails, or the user stops it, those before come first.
        """

        def run(feed: Feed) -> dict[str, Array]:
            count = length(feed)
            tensors = self(filled(feed, self.batch or 0), outputs, constants)
            return tensors if count >= (self.batch or 0) else {name: value[:count] for name, value in tensors.items()}

        with ThreadPoolExecutor(self._beside) as workers:
            ahead: deque[tuple[Feed, Future[dict[str, Array]]]] = deque()
            source = iter(feeds)
            failure: BaseException | None = None
            while failure is None or ahead:
                if failure is None and len(ahead) <= self._beside:
                    try:
                        feed = next(source)
                    except (Exception, KeyboardInterrupt, SystemExit) as error:  # its end, too
                        failure = error
                    else:
                        ahead.append((feed, workers.submit(run, feed)))
                    continue
                done, future = ahead[0]
                tensors = future.result()
                ahead.popleft()
                yield done, tensors
            if not isinstance(failure, StopIteration):
                raise failure

    def over(
        self, feed: Feed, outputs: Sequence[str] | None = None, constants: Feed | None = None, *, batch: int = 1
    ) -> dict[str, Array]:
        """Runs any number of samples, in batches.

        Args:
            feed: as for a call.
            outputs: as for a call.
            constants: as for a call.
            batch: samples of one run at most, where the graph leaves that open.

        Returns:
            each tensor with N rows.
        """
        size = self.batch or (batch if self._room is None else max(1, min(batch, self._room // self._beside)))
        found: dict[str, list[Array]] = {}
        parts = (part(feed, start, start + size) for start in range(0, length(feed), size))
        for _, tensors in self.each(parts, outputs, constants):
            for name, value in tensors.items():
                found.setdefault(name, []).append(value)
        return {name: np.concatenate(values) for name, values in found.items()}


def _room(model: ir.Model) -> int | None:
    """For how many samples at the same time there is room; None where the size of a tensor is open."""
    graph = infer(model.clone()).graph
    last = {value: node for node in graph for value in node.inputs if value is not None}
    kept = {*graph.initializers.values(), *graph.inputs, *graph.outputs}
    live = peak = 0
    for node in graph:
        if node.op_type == "Constant":
            kept |= {*node.outputs}
            continue
        sizes = [bytes_of(value) for value in node.outputs]
        if None in sizes:
            return None
        live += sum(size for size in sizes if size is not None)
        peak = max(peak, live)
        live -= sum(
            bytes_of(value) or 0 for value in {*node.inputs} if value and value not in kept and last[value] is node
        )
    return _LIVE_BYTES // max(peak, 1)


def _with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """The model with more of its tensors as outputs; the model itself is left as it was."""
    if not names:
        return model
    copy = model.clone()
    have = {value.name for value in copy.graph.outputs}
    values = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.extend(values[name] for name in dict.fromkeys(names) if name in values and name not in have)
    # Cloned values may have lost their types to a rewrite; the runtime infers what is missing.
    return copy
