"""Debug tensors: what a run of a TensorRT plan shows of its inside, from 10.0 on and with TensorRT for RTX.

A tensor is marked in the network before the build, and a listener gets its value at each run. Marking prevents fusion
across the tensor, as NVIDIA says: a marked plan is for analysis and is never shipped.

Not executed where it was written: there is no GPU there. Marking was tried with TensorRT for RTX 1.7, whose builder
needs none: it keeps the names in the plan and lists the same kernels, so it may show fewer tensors than were marked.
The rest was held against the recorded API of each version.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radixrt.engines.base import Analysis
from radixrt.engines.session import Array
from radixrt.engines.tensorrt.api import TrtApi
from radixrt.engines.tensorrt.available import find_gpu
from radixrt.errors import InputError, RadixRTError
from radixrt.export.feed import Feed

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class DebugTensor:
    """A tensor as a run shows it. What lies at ``address`` is valid during the call alone."""

    name: str
    address: int
    on_host: bool
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


def mark_debug(api: TrtApi, network: trt.INetworkDefinition, names: Iterable[str]) -> None:
    """Keeps tensors of a network through the build, so that a run can show them.

    An output of the network is handed out anyway, and stays as it is.

    Raises:
        InputError: this version shows no tensors, or the network does not have all of these.
    """
    if not api.shows_tensors:
        raise InputError(
            f"{api.product} {api.version_text} cannot show the tensors inside a plan: build without debug tensors, or "
            "with 10.0 or later"
        )
    left = set(names)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for output in range(layer.num_outputs):
            tensor = layer.get_output(output)
            if tensor.name in left and (tensor.is_network_output or network.mark_debug(tensor)):
                left.remove(tensor.name)
    if left:
        raise InputError(
            f"{api.product} {api.version_text} cannot show {len(left)} of the tensors, {min(left)!r} among them: "
            "take the names of debug tensors from the deploy graph"
        )


def listen(api: TrtApi, execution: Any, sink: Callable[[DebugTensor], None]) -> tuple[Any, list[Exception]]:
    """Hands each debug tensor of the runs that follow to ``sink``.

    Args:
        api: the library.
        execution: an execution context of a plan that was built with debug tensors.
        sink: called while the run waits.

    Returns:
        The listener, which the caller keeps alive as long as the execution context; and what ``sink`` raised so far.

    Raises:
        RadixRTError: the library takes no listener.
    """
    failed: list[Exception] = []

    class Listener(api.trt.IDebugListener):  # type: ignore[name-defined,misc]  # known once the library is loaded
        def __init__(self) -> None:
            super().__init__()

        def process_debug_tensor(self, addr: Any, location: Any, type: Any, shape: Any, name: str, stream: int) -> bool:
            try:
                on_host = str(location).endswith("HOST")
                dtype = api.numpy_dtype(name, type)
                sink(DebugTensor(name, _address(addr), on_host, dtype, api.shape(shape)))
            except Exception as error:  # it must not pass through the library's C++, which would end the process
                failed.append(error)
            return not failed

    listener = Listener()
    if not (execution.set_debug_listener(listener) and execution.set_all_tensors_debug_state(True)):
        raise RadixRTError(f"{api.product} {api.version_text} takes no listener for the tensors inside a plan")
    return listener, failed


def _address(capsule: Any) -> int:
    """The address in a capsule, which is what a C++ ``void*`` becomes in Python."""
    if isinstance(capsule, int):
        return capsule
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return pointer_of(capsule, None) or 0


@dataclass(frozen=True)
class PlanAnalysis(Analysis):
    """A plan built beside the shipped one, of the same deploy graph and with the same options, that shows its tensors.

    Attributes:
        api: the library.
        deploy: the deploy graph's file.
    """

    api: TrtApi
    deploy: Path

    @contextmanager
    def showing(self, names: Sequence[str]) -> Iterator[Callable[[Feed], dict[str, Array]]]:
        from radixrt.engines.tensorrt.build import build_plan
        from radixrt.engines.tensorrt.legacy_graph import for_version
        from radixrt.engines.tensorrt.session import CudaSession

        api = self.api
        options = replace(
            self.options,
            debug_tensors=tuple(names),
            strip_plan=False,
            compute_capabilities=(find_gpu().capability,),
        )
        with tempfile.TemporaryDirectory(prefix="radixrt-analysis-") as folder:
            engine = Path(folder) / "analysis.plan"
            engine.write_bytes(build_plan(api, for_version(self.deploy, api), options).data)
            with CudaSession(api, engine, use_graph=False) as session:

                def show(feed: Feed) -> dict[str, Array]:
                    shown = session.debug_tensors(
                        {spec.name: np.ascontiguousarray(feed[spec.name], spec.dtype) for spec in session.inputs}
                    )
                    if missing := set(names) - set(shown):
                        raise InputError(
                            f"{api.product} {api.version_text} did not show {len(missing)} of the {len(names)} tensors "
                            f"that were marked, {min(missing)!r} among them"
                        )
                    return shown

                yield show
