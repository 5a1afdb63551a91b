"""``tensorrt`` on a device that has none, to test the way there and back: a plan is the graph, run by ONNX Runtime.

Copied as ``tensorrt.py`` and ``pycuda/driver.py`` into the device's Python. It has what ``run.py`` calls, no more.
"""

import enum
import sys
import types

import numpy as np
import onnxruntime

__version__ = "10.3.0"
MEMORY = {}


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class TacticSource(enum.IntEnum):
    JIT_CONVOLUTIONS = 4


class TensorIOMode(enum.Enum):
    INPUT = 0
    OUTPUT = 1


class ILogger:
    """As the library says things while it works: to the logger that it was given."""

    def __init__(self):
        pass


class Logger(ILogger):
    """The library's own, which writes to stdout: whoever prints JSON there must not use it."""

    def log(self, severity, msg):
        print(severity, msg)


class OnnxParser:
    num_errors = 0

    def __init__(self, network, logger):
        self.network = network

    def parse(self, data):
        self.network.data = data
        return True


class Network:
    data, num_inputs = b"", 1

    def get_input(self, index):
        given = onnxruntime.InferenceSession(self.data).get_inputs()[index]
        return types.SimpleNamespace(name=given.name, shape=[s if isinstance(s, int) else -1 for s in given.shape])


class Builder:
    def __init__(self, logger):
        logger.log("Severity.WARNING", "CUDA lazy loading is not enabled.")

    def create_network(self, flags):
        return Network()

    def create_builder_config(self):
        return types.SimpleNamespace(
            add_optimization_profile=lambda profile: 0,
            builder_optimization_level=3,
            set_tactic_sources=lambda bits: True,
            create_timing_cache=lambda known: known,
            set_timing_cache=lambda cache, mismatch: True,
            get_timing_cache=lambda: types.SimpleNamespace(serialize=lambda: b"timings"),
        )

    def create_optimization_profile(self):
        return types.SimpleNamespace(set_shape=lambda *shapes: None)

    def build_serialized_network(self, network, config):
        return network.data


class Runtime:
    def __init__(self, logger):
        logger.log("Severity.ERROR", "the library says something")

    def deserialize_cuda_engine(self, data):
        return Engine(data)


class Engine:
    num_optimization_profiles = 1

    def __init__(self, data):
        self.session = onnxruntime.InferenceSession(data)
        self.tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.num_io_tensors = len(self.tensors)
        self.shapes, self.addresses = {}, {}

    def get_tensor_name(self, index):
        return self.tensors[index].name

    def get_tensor_dtype(self, name):
        return "DataType.FLOAT"

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == self.tensors[0].name else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        batch = self.shapes.get(self.tensors[0].name, (-1,))[0]
        shape = next(t.shape for t in self.tensors if t.name == name)
        return [size if isinstance(size, int) else batch for size in shape]

    def get_tensor_profile_shape(self, name, profile):
        return [(1,), (64,), (64,)]

    def create_execution_context(self):
        return self

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        first = self.tensors[0].name
        given = np.frombuffer(MEMORY[self.addresses[first]], np.float32).reshape(self.shapes[first])
        for tensor, array in zip(self.session.get_outputs(), self.session.run(None, {first: given}), strict=True):
            MEMORY[self.addresses[tensor.name]][:] = array.tobytes()
        return True


def _driver():
    """``pycuda.driver``: device memory by address."""

    def mem_alloc(size):
        MEMORY[len(MEMORY) + 1] = bytearray(size)
        return len(MEMORY)

    driver = types.ModuleType("pycuda.driver")
    context = types.SimpleNamespace(push=lambda: None)
    device = types.SimpleNamespace(
        retain_primary_context=lambda: context, compute_capability=lambda: (8, 7), name=lambda: "Orin"
    )
    stream = types.SimpleNamespace(handle=1, synchronize=lambda: None)
    event = types.SimpleNamespace(record=lambda stream: None, time_since=lambda other: 0.25)
    driver.init, driver.Device = lambda: None, lambda index: device
    driver.Stream, driver.Event = lambda: stream, lambda: event
    driver.Context = types.SimpleNamespace(pop=lambda: None)
    driver.mem_alloc, driver.pagelocked_empty = mem_alloc, lambda shape, dtype: np.zeros(shape, dtype)
    driver.memcpy_htod_async = lambda to, array, stream: MEMORY[to].__setitem__(slice(None), array.tobytes())
    driver.memcpy_dtoh_async = lambda array, at, stream: np.copyto(
        array, np.frombuffer(MEMORY[at], array.dtype).reshape(array.shape)
    )
    return driver


sys.modules["pycuda.driver"] = _driver()
