"""Records what a TensorRT version offers to Python: classes, members, signatures and enum values.

    python record_surface.py tensorrt_rtx surfaces/rtx-1.7.json
    python record_surface.py --wheel tensorrt_cu13_bindings-11.4.0.106-cp311-none-manylinux_2_28_x86_64.whl
    surfaces/11.4.json
    python3.10 record_surface.py --wheel tensorrt_bindings-8.6.1-cp310-none-manylinux_2_17_x86_64.whl surfaces/8.6.json

The first form reads a library that can be imported. The second reads the wheel of the bindings alone, which any
package index has: the libraries that they are linked to are replaced by stand-ins that export the same few symbols
and are never called, so nothing but the interface is read. It needs gcc, and the Python that the wheel is for.

It stands alone and runs under Python 3.8, because TensorRT 8.5 does.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# What the adaptor touches; the rest of TensorRT is of no concern here.
CLASSES = (
    "Builder",
    "Dims",
    "EngineInspector",
    "IBuilderConfig",
    "ICudaEngine",
    "IDebugListener",
    "IExecutionContext",
    "IHostMemory",
    "ILayer",  # not in the records of 8.x, whose networks are not looked into
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "IProfiler",
    "IProgressMonitor",
    "IRuntimeCache",
    "IRuntimeConfig",
    "ITensor",
    "ITimingCache",
    "OnnxParser",
    "OnnxParserRefitter",
    "ParserError",
    "Refitter",
    "Runtime",
)
ENUMS = (
    "BuilderFlag",
    "ComputeCapability",
    "CudaGraphStrategy",
    "DataType",
    "DeviceType",
    "HardwareCompatibilityLevel",
    "LayerInformationFormat",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "ProfilingVerbosity",
    "TacticSource",
    "TensorIOMode",
)
# A network can be made by hand in a hundred ways; here the parser makes it.
SKIPPED = re.compile(r"__|add_(?!optimization_profile)|_pybind11")


def signatures(doc):
    """Returns the signatures in a pybind11 docstring, without the module's name in front of types."""
    found = re.findall(r"^(?:\d+\. )?\w+\((.*)\) -> (.+)$", doc or "", re.MULTILINE)
    found = [(a, r) for a, r in found if a != "*args, **kwargs"]
    return [re.sub(r"\b(?:tensorrt\w*\.)+", "", "({}) -> {}".format(*pair)) for pair in found]


def members(cls):
    """Describes a class: methods with their signatures, properties with their type and whether they can be set."""
    described = {}
    for name in sorted(dir(cls)):
        if name != "__init__" and SKIPPED.match(name):
            continue
        attribute = getattr(cls, name)
        if isinstance(attribute, property):
            kind = re.search(r"-> (.+)$", (attribute.fget.__doc__ or "").strip().split("\n")[0])
            described[name] = {
                "type": re.sub(r"\b(?:tensorrt\w*\.)+", "", kind.group(1)) if kind else "",
                "settable": attribute.fset is not None,
            }
        elif callable(attribute):
            described[name] = {"signatures": signatures(attribute.__doc__)}
    return described


def surface(module):
    """Describes a module that is imported."""
    classes = {name: members(getattr(module, name)) for name in CLASSES if hasattr(module, name)}
    enums = {name: sorted(getattr(module, name).__members__) for name in ENUMS if hasattr(module, name)}
    return {"version": module.__version__, "module": module.__name__, "classes": classes, "enums": enums}


def with_stand_ins(wheel, out):
    """Unpacks the bindings, makes the libraries that they miss, and runs this file there."""
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        library = next(Path(folder).glob("*/tensorrt*.so"))
        undefined = subprocess.check_output(["nm", "-D", "--undefined-only", str(library)], universal_newlines=True)
        # 8.x is linked to the parsers of two older formats as well, by mangled names.
        wanted = r"U ((?!_)\w*(?:Infer|NvOnnx|PluginRegistry)\w*|_ZN\d+nv(?:uff|caffe)parser\w+)$"
        symbols = sorted(set(re.findall(wanted, undefined, re.MULTILINE)))
        needed = subprocess.check_output(["readelf", "-d", str(library)], universal_newlines=True)
        source = Path(folder, "stand_in.c")
        source.write_text("".join(f"int {s}(void) {{ return 0; }}\n" for s in symbols))
        for name in re.findall(r"\[(lib\w*(?:nvinfer|nvonnxparser|nvparsers)\S*)\]", needed):
            command = ["gcc", "-shared", "-fPIC", "-o", str(Path(folder, name)), str(source), "-Wl,-soname," + name]
            subprocess.check_call(command)
        environment = dict(os.environ, LD_LIBRARY_PATH=folder, PYTHONPATH=folder)
        command = [sys.executable, str(Path(__file__).resolve()), library.parent.name, str(Path(out).resolve())]
        subprocess.check_call(command, env=environment, cwd=folder)


def main(arguments):
    """Runs the command line."""
    if arguments[0] == "--wheel":
        with_stand_ins(arguments[1], arguments[2])
        return
    found = surface(importlib.import_module(arguments[0]))
    Path(arguments[1]).write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print("recorded {module} {version}".format(**found))


if __name__ == "__main__":
    main(sys.argv[1:])
