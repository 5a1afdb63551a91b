"""A bundle as a model of a Triton inference server's repository.

::

    <repository>/<model>/config.pbtxt     written and read back with Triton's own message types
    <repository>/<model>/labels.txt
    <repository>/<model>/1/model.onnx     or model.plan

Requests carry the network's input tensor, already normalised; how to make it from a photograph stands in the config's
parameters. A model whose batch is open is batched by the server; one whose batch is fixed takes exactly that batch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radixrt.engines import registry
from radixrt.engines.base import TritonBackend
from radixrt.engines.bundle.atomic import AtomicFolder
from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.bundle.manifest import Manifest, TensorInfo
from radixrt.errors import InputError, UnavailableError
from radixrt.files import sha256_of, translate_disk_errors

CONFIG_NAME = "config.pbtxt"
LABELS_NAME = "labels.txt"
_TYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "float64": "TYPE_FP64",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "int8": "TYPE_INT8",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}


@dataclass(frozen=True)
class TritonOptions:
    """How the server runs the model.

    Attributes:
        name: the model's name in the repository; empty takes the bundle's folder name.
        instances: copies of the model on each device.
        queue_delay_us: how long the server may wait to fill a batch, in microseconds.
        gpu: run an ONNX model on a GPU; a TensorRT plan always does.
    """

    name: str = ""
    instances: int = 1
    queue_delay_us: int = 100
    gpu: bool = False


def write_model(bundle: Bundle, repository: Path, options: TritonOptions | None = None) -> Path:
    """Writes a bundle into a model repository, whole or not at all; a model that this wrote before is replaced.

    Args:
        bundle: for ONNX Runtime or TensorRT.
        repository: the folder that the server is given; made where it is missing.
        options: how the server runs it.

    Returns:
        The model's folder.

    Raises:
        InputError: the server has no backend for the engine, or something else stands in the model's place.
        UnavailableError: ``tritonclient`` or ``protobuf`` is missing, or the bundle's engine is left to the device.
    """
    options, source = options or TritonOptions(), bundle.engine
    backend = _backend(bundle.manifest)
    if bundle.manifest.built_for is not None and bundle.manifest.built_for.stripped:
        raise InputError(f"{bundle.path} holds a plan without weights, which Triton cannot open: build it whole")
    name = options.name or bundle.path.absolute().name
    if not name or "/" in name or name.startswith("."):
        raise InputError(f"{name!r} cannot name a model: give one without slashes or a leading dot")
    messages = _messages()
    config = make_config(bundle.manifest, name, options)
    target = repository / name
    _refuse_to_replace(target)
    with AtomicFolder(target) as model:
        with translate_disk_errors(target):
            (model.folder / "1").mkdir()
            engine = shutil.copyfile(source, model.folder / "1" / backend.file_name)
            labels = "".join(f"{label}\n" for label in bundle.manifest.labels)
            (model.folder / LABELS_NAME).write_text(labels, encoding="utf-8")
            (model.folder / CONFIG_NAME).write_text(messages.text_format.MessageToString(config))
        if sha256_of(engine) != _sha256_in(bundle.manifest):
            raise InputError(f"{bundle.path} changed while it was copied: run the command again")
        # What the server will read, rather than what was meant.
        if read_config(model.folder / CONFIG_NAME) != config:
            raise RuntimeError(f"{CONFIG_NAME} does not read back as it was written")
        model.commit()
    return target


def make_config(manifest: Manifest, name: str, options: TritonOptions) -> Any:
    """Describes a bundle to the server.

    Returns:
        A ``ModelConfig`` message.

    Raises:
        InputError: the target, the batch or a tensor's type is one that the server cannot serve.
    """
    backend, messages = _backend(manifest), _messages().model_config
    smallest, largest = manifest.batch
    if smallest != largest and smallest > 1:
        raise InputError(f"Triton may send one image, the engine takes at least {smallest}: build it with BATCH=1..N")
    batched = smallest != largest
    config = messages.ModelConfig(
        name=name,
        platform=backend.platform,
        backend=backend.name,
        default_model_filename=backend.file_name,
        # 0 tells the server that the shapes below are complete, batch included.
        max_batch_size=largest if batched else 0,
    )
    for tensor in manifest.inputs:
        config.input.add(name=tensor.name, data_type=_type_of(tensor, messages), dims=_dims(tensor, batched))
    for tensor in manifest.outputs:
        config.output.add(
            name=tensor.name,
            data_type=_type_of(tensor, messages),
            dims=_dims(tensor, batched),
            label_filename=LABELS_NAME if manifest.labels else "",
        )
    on_gpu = backend.gpu or options.gpu
    kind = messages.ModelInstanceGroup.KIND_GPU if on_gpu else messages.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(count=options.instances, kind=kind)
    if batched:
        config.dynamic_batching.preferred_batch_size.append(largest)
        config.dynamic_batching.max_queue_delay_microseconds = options.queue_delay_us
    # The first request of each shape is slow: let it be the server's own. A model that is not batched is asked for 1.
    for batch in sorted({1, largest}) if batched else (1,):
        warmup = config.model_warmup.add(name=f"batch-{batch if batched else largest}", batch_size=batch)
        for tensor in manifest.inputs:
            content = warmup.inputs[tensor.name]
            content.data_type = _type_of(tensor, messages)
            content.dims.extend(_dims(tensor, batched))
            content.zero_data = True
    config.parameters["radixrt_manifest_sha256"].string_value = hashlib.sha256(manifest.to_bytes()).hexdigest()
    config.parameters["radixrt_preprocessing"].string_value = manifest.preprocessing.model_dump_json()
    return config


def _backend(manifest: Manifest) -> TritonBackend:
    backend = registry.get(manifest.target).triton
    if backend is None:
        others = " or ".join(target.name for target in registry.all_targets() if target.triton)
        raise InputError(f"Triton has no backend for {manifest.target}: make a bundle for {others} instead")
    return backend


def read_config(path: Path) -> Any:
    """Reads a ``config.pbtxt``.

    Raises:
        InputError: it is not one.
    """
    messages = _messages()
    try:
        return messages.text_format.Parse(path.read_text(), messages.model_config.ModelConfig())
    except (OSError, ValueError, messages.text_format.ParseError) as error:
        raise InputError(f"{path} is not a Triton model configuration: write the model again") from error


def _type_of(tensor: TensorInfo, messages: Any) -> Any:
    try:
        return messages.DataType.Value(_TYPES[tensor.dtype])
    except KeyError:
        raise InputError(f"tensor {tensor.name!r} is {tensor.dtype}, which Triton does not take") from None


def _dims(tensor: TensorInfo, batched: bool) -> tuple[int, ...]:
    """The server adds the batch itself where it batches."""
    return tensor.shape[1:] if batched else tensor.shape


def _sha256_in(manifest: Manifest) -> str:
    return next(entry.sha256 for entry in manifest.files if entry.name == manifest.engine)


def _refuse_to_replace(target: Path) -> None:
    """Raises InputError where ``target`` is anything but a model that :func:`write_model` wrote."""
    if not target.exists():
        return
    ours = {CONFIG_NAME, LABELS_NAME, *(f"1/{t.triton.file_name}" for t in registry.all_targets() if t.triton)}
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
    foreign = sorted(found - ours)
    if not target.is_dir() or foreign:
        what = f"holds {foreign[0]}, which radixrt did not write" if foreign else "is not a folder"
        raise InputError(f"{target} {what}: move it away or choose another name")


@dataclass(frozen=True)
class _Messages:
    """Triton's message types, and the text form of any message."""

    model_config: Any
    text_format: Any


def _messages() -> _Messages:
    """Loads Triton's message types.

    Raises:
        UnavailableError: they are not installed.
    """
    hint = 'Install it: pip install "radixrt[triton]"'
    package = importlib.util.find_spec("tritonclient")
    if package is None or package.origin is None:
        raise UnavailableError("the Triton export", "tritonclient is not installed", hint)
    try:
        from google.protobuf import text_format

        # Importing tritonclient.grpc as a package demands a gRPC runtime, which describing a model has no use for.
        path = Path(package.origin).with_name("grpc") / "model_config_pb2.py"
        spec = importlib.util.spec_from_file_location("radixrt_triton_model_config_pb2", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} cannot be loaded")
        model_config = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(model_config)
    except (ImportError, OSError) as error:
        raise UnavailableError("the Triton export", f"its message types do not load ({error})", hint) from error
    return _Messages(model_config, text_format)
