"""Runs a plan: device memory, a stream and events by PyCUDA, in the primary context that PyTorch shares.

Written for TensorRT 8.5 to 11 and TensorRT for RTX, and not executed where it was written: there is no GPU there. Its
calls are held against the recorded API of each version, and ``make gpu-check`` is the command that tries it.

Each input and output has a page-locked host buffer and a device buffer, sized for the largest batch. From the second
run of a shape on, the copies and the kernels are replayed as one CUDA graph, where ``cuda-bindings`` is there to record
it (TensorRT for RTX records its own); a new shape starts anew, because an execution context keeps state of the last.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from radixrt.engines.base import GRAPH_NAME
from radixrt.engines.cache.device import keep, read_kept
from radixrt.engines.session import Array, Session, TensorSpec
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.build import STRIPPED
from radixrt.engines.tensorrt.cuda_driver import load_driver
from radixrt.engines.tensorrt.cuda_graph import CudaGraph, GraphError, find_driver
from radixrt.engines.tensorrt.debug import DebugTensor, listen
from radixrt.errors import InputError, RadixRTError, UnavailableError

Shapes = tuple[tuple[int, ...], ...]
_SEVERE = ("ERROR", "INTERNAL_ERROR")


class CudaSession(Session):
    """An open plan.

    Args:
        api: the library that built it.
        engine: the plan's file.
        use_graph: replay the work as a CUDA graph where possible. A replay shows no debug tensors.
        runtime_cache: where TensorRT for RTX keeps the kernels that it specialises for this GPU; None keeps none.

    Raises:
        InputError: the plan is of another GPU, version or system, or is damaged.
        UnavailableError: the GPU's memory is full.
    """

    def __init__(self, api: TrtApi, engine: Path, *, use_graph: bool = True, runtime_cache: Path | None = None) -> None:
        self._api = api
        self._errors: list[str] = []
        self._runtime: Any = None
        self._plan: Any = None
        self._execution: Any = None
        self._specialised: Any = None
        self._listener: Any = None
        self._graph: CudaGraph | None = None
        self._host: dict[str, Any] = {}
        self._device: dict[str, Any] = {}
        self._shapes: Shapes = ()
        self._use_graph = use_graph
        self._runtime_cache = runtime_cache
        # TensorRT for RTX captures by itself, as its execution context is told.
        self._driver: Any = find_driver() if use_graph and not api.rtx else None
        self.last_device_ms = 0.0
        self._cuda: Any = load_driver()
        self._cuda.init()
        # PyTorch works in the device's primary context: a context of our own would double the memory and split the
        # streams.
        self._context: Any = self._cuda.Device(0).retain_primary_context()
        try:
            with self._current():
                self._open_plan(engine)
                self._stream: Any = self._cuda.Stream()
                self._start: Any = self._cuda.Event()
                self._end: Any = self._cuda.Event()
                self._allocate()
        except BaseException as error:
            # The error's traceback would hold the plan and its memory for as long as somebody looks at it.
            self._runtime_cache = None
            self.close()
            if isinstance(error, self._cuda.MemoryError):
                raise UnavailableError(str(engine), "this GPU's memory is full", "Close other programs.") from error
            raise

    @contextmanager
    def _current(self) -> Iterator[None]:
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def _open_plan(self, engine: Path) -> None:
        errors = self._errors

        def sink(severity: str, text: str) -> None:
            if severity in _SEVERE:
                errors.append(text)

        self._logger = self._api.logger(sink)
        self._runtime = self._api.runtime(self._logger)
        plan = self._plan = self._runtime.deserialize_cuda_engine(engine.read_bytes())
        if plan is None:
            said = self._errors[-1].strip() if self._errors else "it gave no reason"
            raise InputError(
                f"{engine} does not open with {self._api.product} {self._api.version_text} on this GPU ({said}): "
                "build it again here"
            )
        if STRIPPED in engine.suffixes:
            self._refit(engine)
        known = read_kept(self._runtime_cache)
        self._execution, self._specialised = self._api.execution_context(plan, known, capture=self._use_graph)
        if self._execution is None:
            size = self._api.device_memory_bytes(plan) / 1e6
            reason = f"its work needs {size:.0f} MB of GPU memory, which are not free"
            raise UnavailableError(str(engine), reason, "Close other programs.")
        names = [plan.get_tensor_name(index) for index in range(plan.num_io_tensors)]
        specs = [
            TensorSpec(name, self._api.dtype(plan, name), self._api.shape(plan.get_tensor_shape(name)))
            for name in names
        ]
        self.inputs = tuple(spec for spec in specs if self._api.is_input(plan, spec.name))
        self.outputs = tuple(spec for spec in specs if not self._api.is_input(plan, spec.name))

    def _refit(self, engine: Path) -> None:
        graph = engine.with_name(GRAPH_NAME)
        if not graph.is_file():
            raise InputError(
                f"{engine} holds no weights, and {GRAPH_NAME}, which has them, is not beside it: copy both"
            )
        if not self._api.refit(self._plan, self._logger, graph.read_bytes()):
            said = self._errors[-1].strip() if self._errors else "it gave no reason"
            raise InputError(f"{engine} does not take the weights of {graph.name} ({said}): build it again here")

    def _allocate(self) -> None:
        """Makes the buffers for the largest batch of the plan's profile, and gives the plan their addresses."""
        self._largest = {}
        for spec in self.inputs:
            largest = (
                self._api.shape(self._plan.get_tensor_profile_shape(spec.name, 0)[2])
                if -1 in spec.shape
                else spec.shape
            )
            self._largest[spec.name] = largest
            self._execution.set_input_shape(spec.name, largest)
        for spec in (*self.inputs, *self.outputs):
            shape = self._api.shape(self._execution.get_tensor_shape(spec.name))
            size = math.prod(shape)
            self._host[spec.name] = self._cuda.pagelocked_empty(size, spec.dtype)
            self._device[spec.name] = self._cuda.mem_alloc(max(1, size * spec.dtype.itemsize))
            self._execution.set_tensor_address(spec.name, int(self._device[spec.name]))

    def _check(self, feeds: dict[str, Array]) -> None:
        super()._check(feeds)
        for spec in self.inputs:
            smallest = self._plan.get_tensor_profile_shape(spec.name, 0)[0][0] if spec.shape[0] == -1 else spec.shape[0]
            size = feeds[spec.name].shape[0]
            if not smallest <= size <= self._largest[spec.name][0]:
                raise InputError(
                    f"input {spec.name!r} has a batch of {size}, the engine was built for {smallest} to "
                    f"{self._largest[spec.name][0]}: build it with a wider BATCH"
                )

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        shapes = tuple(feeds[spec.name].shape for spec in self.inputs)
        with self._current():
            for spec in self.inputs:
                array = feeds[spec.name]
                self._host[spec.name][: array.size] = array.ravel()
            again = shapes == self._shapes
            if not again:
                self._set_shapes(shapes)
            self._start.record(self._stream)
            if self._graph is None and again and self._driver is not None:
                # The first run of a shape initialises kernels, which cannot be captured: this is the second.
                self._capture()
            if self._graph is not None:
                self._graph.launch()
            else:
                self._enqueue()
            self._end.record(self._stream)
            self._stream.synchronize()
            self.last_device_ms = float(self._end.time_since(self._start))
            return {
                name: np.array(self._host[name][: math.prod(shape)]).reshape(shape)
                for name, shape in self._results.items()
            }

    def _capture(self) -> None:
        try:
            self._graph = CudaGraph(self._driver, self._stream.handle, self._enqueue)
        except (GraphError, RadixRTError):
            # Some layers cannot be recorded. Such a plan runs all the same, each time piece by piece.
            self._driver = None
            self._errors.clear()

    def _set_shapes(self, shapes: Shapes) -> None:
        if self._graph is not None:
            self._graph.close()
            self._graph = None
        self._shapes = ()
        for spec, shape in zip(self.inputs, shapes, strict=True):
            if not self._execution.set_input_shape(spec.name, shape):
                raise InputError(f"input {spec.name!r} of shape {shape} is outside what the engine was built for")
        self._results = {
            spec.name: self._api.shape(self._execution.get_tensor_shape(spec.name)) for spec in self.outputs
        }
        self._sizes = {spec.name: math.prod(shape) for spec, shape in zip(self.inputs, shapes, strict=True)}
        self._shapes = shapes

    def device_times_ms(self, feeds: dict[str, Array], runs: int) -> list[float]:
        # Sets the shapes, puts the images on the device, and lets each kernel initialise itself.
        self.run(feeds)
        times = []
        with self._current():
            for _ in range(runs):
                self._start.record(self._stream)
                self._execute()
                self._end.record(self._stream)
                self._stream.synchronize()
                times.append(float(self._end.time_since(self._start)))
        return times

    def debug_tensors(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Runs one batch and looks inside: for a plan that was built to show tensors, opened without graphs.

        Args:
            feeds: as for :meth:`run`.

        Returns:
            Every tensor that the plan shows and every output, by name.

        Raises:
            InputError: a name, dtype or shape does not fit.
            RadixRTError: the library does not run the plan, or a tensor could not be copied.
        """
        shown: dict[str, Array] = {}

        def copy(tensor: DebugTensor) -> None:
            array: Array = np.empty(tensor.shape, tensor.dtype)
            if tensor.on_host:
                ctypes.memmove(array.ctypes.data, tensor.address, array.nbytes)
            else:
                # The library may work on streams of its own beside ours: all of it must be done before the copy.
                self._cuda.Context.synchronize()
                self._cuda.memcpy_dtoh(array, tensor.address)
            shown[tensor.name] = array

        with self._current():
            self._listener, failed = listen(self._api, self._execution, copy)
        try:
            outputs = self.run(feeds)
        except RadixRTError:
            # A listener that fails may end the run, and then says why.
            if not failed:
                raise
        if failed:
            raise RadixRTError(f"a tensor inside the plan could not be read ({failed[0]})") from failed[0]
        return {**shown, **outputs}

    def _enqueue(self) -> None:
        """Copies in, runs, copies out: all on the stream, waiting for nothing."""
        for name, size in self._sizes.items():
            self._cuda.memcpy_htod_async(self._device[name], self._host[name][:size], self._stream)
        self._execute()
        for name, shape in self._results.items():
            self._cuda.memcpy_dtoh_async(self._host[name][: math.prod(shape)], self._device[name], self._stream)

    def _execute(self) -> None:
        if not self._execution.execute_async_v3(self._stream.handle):
            said = self._errors[-1].strip() if self._errors else "it gave no reason"
            raise RadixRTError(f"{self._api.product} failed to run the engine ({said})")

    def describe(self) -> str:
        """Returns TensorRT's own description of the plan's layers, as JSON."""
        inspector = self._plan.create_engine_inspector()
        inspector.execution_context = self._execution
        return str(inspector.get_engine_information(self._api.trt.LayerInformationFormat.JSON))

    @contextmanager
    def profiled(self, sink: Callable[[str, float], None]) -> Iterator[None]:
        """Reports each layer's time to ``sink(name, milliseconds)`` for the runs inside the block.

        The profiler stays with the execution context, so a session that was profiled is for profiling alone.
        """
        active = True
        profiler = self._api.profiler(lambda name, ms: sink(name, ms) if active else None)
        self._execution.profiler = profiler
        try:
            yield
        finally:
            active = False

    def _release(self) -> None:
        with self._current():
            if self._runtime_cache is not None and self._specialised is not None:
                keep(self._runtime_cache, bytes(memoryview(self._specialised.serialize())))
            if self._graph is not None:
                self._graph.close()
            # The order matters: an execution context uses the plan, which uses the runtime.
            self._execution = self._specialised = None
            self._listener = None
            self._plan = None
            self._runtime = None
            for buffer in self._device.values():
                buffer.free()
            self._device.clear()
            self._host.clear()
            self._stream = self._start = self._end = None
        # Letting go releases the primary context, which lives on where PyTorch holds it too.
        self._context = None
