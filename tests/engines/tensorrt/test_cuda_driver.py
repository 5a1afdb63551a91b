"""The layer over PyCUDA and cuda-python: which one is taken, and that cuda-python has what is called."""

from __future__ import annotations

import gc
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from radixrt.engines.tensorrt import cuda_driver
from radixrt.engines.tensorrt.cuda_driver import CudaPython, load_driver
from tests.engines.tensorrt import simulated_cuda

CALLS = sorted(set(re.findall(r"\bcu[A-Z]\w+", Path(cuda_driver.__file__).read_text())))


def test_pycuda_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated_cuda.install(monkeypatch)
    assert load_driver() is sys.modules["pycuda.driver"]
    simulated_cuda.install_cuda_python(monkeypatch)
    assert isinstance(load_driver(), CudaPython)


def test_without_either_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycuda.driver", "cuda.bindings.driver", "cuda.cuda"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="neither pycuda nor cuda-python can be imported"):
        load_driver()


# The stand-in is only as good as its names: NVIDIA's own module, which needs no GPU to be imported, must have them.
def test_the_real_cuda_python_has_every_call() -> None:
    real = pytest.importorskip("cuda.bindings.driver")
    assert len(CALLS) > 15 and [name for name in CALLS if not hasattr(real, name)] == []
    assert int(real.CUresult.CUDA_ERROR_OUT_OF_MEMORY) == 2
    for kind in ("MAJOR", "MINOR"):
        assert hasattr(real.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{kind}")


def test_a_machine_without_the_driver_is_an_error_of_the_layer() -> None:
    real = pytest.importorskip("cuda.bindings.driver")
    cuda = CudaPython(real)
    try:
        cuda.init()
    except cuda.Error as error:
        assert str(error)


def test_the_device_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated_cuda.install_cuda_python(monkeypatch)
    cuda = load_driver()
    device = cuda.Device(0)
    assert (device.name(), device.compute_capability()) == ("Orin", (8, 7))
    with pytest.raises(cuda.Error, match="cuDeviceGet: 101"):
        cuda.Device(1)


# Pinned memory is dear: it goes with the last view of it, and the context with its last holder.
def test_everything_is_freed_with_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    state = simulated_cuda.install_cuda_python(monkeypatch)
    cuda = load_driver()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    array = cuda.pagelocked_empty((2, 3), np.float32)
    view, memory, stream = array[:1], cuda.mem_alloc(24), cuda.Stream()
    assert (array.shape, array.dtype, array.flags.writeable) == ((2, 3), np.float32, True)
    del array
    gc.collect()
    assert len(cuda.api.host) == 1, "a view still shows it"
    del view, stream
    memory.free()
    memory.free()
    gc.collect()
    assert (len(cuda.api.host), state.addresses) == (0, {})
    cuda.Context.pop()
    del context
    gc.collect()
    assert (cuda.api.retained, state.depth) == (0, 0)
