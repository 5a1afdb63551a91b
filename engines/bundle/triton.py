"""A bundle as a model of a Triton inference server's repository.

::

    <repository>/<model>/config.pbtxt     written and read back with Triton's own message types
    <repository>/<model>/labels.txt
    <repository>/<model>/1/model.onnx     or model.plan; other versions that lie there stay

Requests carry the network's input tensor, already normalised; how to make it from a photograph stands in the config's
parameters. A model whose batch is open is batched by the server; one whose batch is fixed takes exactly that batch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import Doc

from radixrt.engines import registry
from radixrt.engines.base import TritonBackend
from radixrt.engines.bundle.atomic import AtomicFolder
from radixrt.engines.bundle.folder import Bundle
from radixrt.engines.bundle.manifest import Manifest, TensorInfo
from radixrt.errors import InputError, UnavailableError
from radixrt.export.sides import free_middle, sized
from radixrt.files import sha256_of, translate_disk_errors

CONFIG_NAME = "config.pbtxt"
LABELS_NAME = "labels.txt"
_SEAL = "# Written by RadixRT, which overwrites it as long as it is unedited. SHA-256 of what follows: "
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


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """How a Triton server runs the model."""

    name: Annotated[str, Doc("The model's name in the repository. Default: the bundle's.")] = ""
    version: Annotated[int, Field(ge=1), Doc("The model's version there; other versions stay.")] = 1
    instances: Annotated[int, Field(ge=1), Doc("Copies of the model on each device.")] = 1
    threads: Annotated[
        int | None, Field(ge=1), Doc("CPU threads of each copy. Default: as many as the bundle was measured with.")
    ] = None
    queue_delay_us: Annotated[int, Field(ge=0), Doc("How long the server may wait to fill a batch.")] = 100
    gpu: Annotated[bool, Doc("Run an ONNX model on a GPU; a TensorRT plan always does.")] = False
    force: Annotated[bool, Doc("Overwrite a config.pbtxt that was edited by hand.")] = False


@dataclass(frozen=True, kw_only=True)
class TritonOptions(ServingOptions):
    """The same, with what was measured: without ``threads`` the server's runtime chooses.

    ``preferred`` are batch sizes that the server should fill; those that the engine does not take are left out, and the
    largest stands where there are none.
    """

    preferred: tuple[int, ...] = ()


def write_model(bundle: Bundle, repository: Path, options: TritonOptions | None = None) -> Path:
    """Writes a bundle into a model repository, whole or not at all; a model that this wrote before is replaced.

    Args:
        bundle: for ONNX Runtime or TensorRT.
        repository: the folder that the server is given; made where it is missing.
        options: how the server runs it.

    Returns:
        The model's folder.

    Raises:
        InputError: the server has no backend for the engine, something else stands in the model's place, or its
            configuration was edited by hand.
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
    if not options.force:
        _refuse_edited(target / CONFIG_NAME)
    others = _other_versions(target, str(options.version))
    text = messages.text_format.MessageToString(config)
    with AtomicFolder(target) as model:
        with translate_disk_errors(target):
            for folder in others:
                shutil.copytree(folder, model.folder / folder.name)
            version = model.folder / str(options.version)
            version.mkdir()
            engine = shutil.copyfile(source, version / backend.file_name)
            labels = "".join(f"{label}\n" for label in bundle.manifest.labels)
            (model.folder / LABELS_NAME).write_text(labels, encoding="utf-8")
            (model.folder / CONFIG_NAME).write_text(f"{_SEAL}{_digest(text)}\n{text}")
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
    if options.threads:
        if on_gpu:
            raise InputError("threads are of an engine on a CPU: leave --threads out for a GPU")
        config.parameters["intra_op_thread_count"].string_value = str(options.threads)
    if batched:
        preferred = [size for size in options.preferred if smallest <= size <= largest] or [largest]
        config.dynamic_batching.preferred_batch_size.extend(preferred)
        config.dynamic_batching.max_queue_delay_microseconds = options.queue_delay_us
    # The first request of each shape is slow: let it be the server's own. A model that is not batched is asked for 1.
    for batch in sorted({1, largest}) if batched else (1,):
        warmup = config.model_warmup.add(name=f"batch-{batch if batched else largest}", batch_size=batch)
        for tensor in manifest.inputs:
            content = warmup.inputs[tensor.name]
            content.data_type = _type_of(tensor, messages)
            content.dims.extend(_warm_dims(tensor, manifest, batched))
            content.zero_data = True
    config.parameters["radixrt_manifest_sha256"].string_value = hashlib.sha256(manifest.to_bytes()).hexdigest()
    if manifest.sides is not None:
        config.parameters["radixrt_image_sides"].string_value = str(manifest.sides)
    if manifest.preprocessing is not None:
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


def _warm_dims(tensor: TensorInfo, manifest: Manifest, batched: bool) -> tuple[int, ...]:
    """The same with the middle sizes in the place of free sides: a request has sizes."""
    whole = sized(tensor.shape, manifest.batch[1], free_middle(manifest.sides))
    return whole[1:] if batched else whole


def _sha256_in(manifest: Manifest) -> str:
    return next(entry.sha256 for entry in manifest.files if entry.name == manifest.engine)


def _other_versions(target: Path, version: str) -> list[Path]:
    """The folders of a model's other versions.

    Raises:
        InputError: ``target`` is anything but a model that :func:`write_model` wrote.
    """
    if not target.exists():
        return []
    engines = {t.triton.file_name for t in registry.all_targets() if t.triton}
    found = [path.relative_to(target) for path in target.rglob("*") if not path.is_dir()]
    foreign = sorted(
        path.as_posix()
        for path in found
        if path.as_posix() not in (CONFIG_NAME, LABELS_NAME)
        and not (len(path.parts) == 2 and path.parts[0].isdecimal() and path.name in engines)
    )
    if not target.is_dir() or foreign:
        what = f"holds {foreign[0]}, which radixrt did not write" if foreign else "is not a folder"
        raise InputError(f"{target} {what}: move it away or choose another name")
    return [target / name for name in sorted({path.parts[0] for path in found if len(path.parts) == 2} - {version})]


def _refuse_edited(config: Path) -> None:
    """Raises InputError where a configuration is not, letter by letter, as :func:`write_model` left it."""
    if not config.is_file():
        return
    seal, _, text = config.read_text(encoding="utf-8", errors="replace").partition("\n")
    if seal != _SEAL + _digest(text):
        raise InputError(f"{config} was edited by hand: keep a copy and give --force, or write it under another --name")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
