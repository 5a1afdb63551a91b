"""The files of a bundle as ``run.py`` reads and writes them: the manifest, which seals them, samples, and answers.

It travels with a bundle as it stands: it imports nothing of the project and keeps to Python 3.8.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

with contextlib.suppress(ImportError):  # run.py says so, once it is known that more than help is wanted
    import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
MODULES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
PRECISIONS = (None, "f32", "bf16")  # of OpenVINO; None stands in bundles of other engines, and in old ones
Answer = Dict[str, Any]  # every output by name, (N, ...) each
Feed = Dict[str, Any]  # every input by name, (N, ...) each
Ranges = List[Tuple[int, int]]  # the smallest and the largest batch of each profile


class BadInputError(Exception):
    """What the user gave cannot be used (exit 2)."""

    exit_code = 2


class UnavailableError(Exception):
    """The engine cannot run on this machine (exit 4)."""

    exit_code = 4


def read_manifest(bundle: Path, key_file: Path | None = None) -> dict[str, Any]:
    """Reads the manifest and holds every file against its SHA-256; ``key_file`` is of the one who must have signed."""
    path = bundle / "manifest.json"
    try:
        data = path.read_bytes()
        if key_file is not None:
            check_signature(bundle, data, key_file)
        manifest = json.loads(data.decode("utf-8"))
        if manifest.get("format") != "radixrt-bundle" or manifest.get("schema_version") != 1:
            raise BadInputError(f"{path} is of a format that this runner does not know: use the run.py made with it")
        listed = {entry["name"]: entry["sha256"] for entry in manifest["files"]}
        for name, expected in listed.items():
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise BadInputError(f"{path} names the file {name}, which lies outside it: copy the bundle again")
            check_file(bundle / name, expected)
        # A bundle that leaves its plan to the device has no engine.
        if not {manifest["deploy"], manifest.get("engine") or manifest["deploy"]} <= set(listed):
            raise BadInputError(f"{path} lists no hash for its engine or its graph: copy the bundle again")
        low, high = manifest["batch"]
        if manifest.get("inference_precision") not in PRECISIONS:
            raise BadInputError(
                f"{path} asks for a precision that this runner does not know: use the run.py made with it"
            )
        prepared = manifest["preprocessing"]
        for side in sides_of(manifest):
            if not (1 <= side.min <= side.max and side.step >= 1):
                raise ValueError("sides")
        if not 1 <= low <= high or (prepared is not None and len(prepared["input_size"]) != 3):
            raise ValueError("batch or input_size")
        # What is only read later must be there too.
        MODULES[manifest["target"]], manifest["precision"], list(manifest["labels"]), manifest["outputs"][0]["name"]
        for tensor in (manifest["inputs"][0], *manifest["inputs"]):
            tensor["name"], np.dtype(tensor["dtype"]), list(tensor["shape"])
    except OSError as error:
        raise BadInputError(f"{error.filename} cannot be read ({error.strerror}): copy the bundle again") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadInputError(f"{path} is damaged: copy the bundle again") from error
    return manifest  # type: ignore[no-any-return]


def check_signature(bundle: Path, data: bytes, key_file: Path) -> None:
    """Refuses a bundle whose manifest, and through it every file, the owner of an Ed25519 key did not sign."""
    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise UnavailableError(f"a signature needs cryptography ({error}): for pip it is cryptography") from error
    try:
        pem, key = key_file.read_bytes(), None
    except OSError as error:
        raise BadInputError(f"the key {key_file} cannot be read ({error.strerror}): check its name") from error
    for load in (serialization.load_pem_public_key, serialization.load_ssh_public_key):
        with contextlib.suppress(ValueError, UnsupportedAlgorithm):
            key = key or load(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise BadInputError(f"{key_file} is not an Ed25519 public key: make one with openssl pkey -pubout")
    signature = bundle / "manifest.sig"
    if not signature.is_file():
        raise BadInputError(f"{bundle} is not signed, and a signature is required: ask its maker for a signed one")
    try:
        key.verify(signature.read_bytes()[:4096], data)
    except InvalidSignature as error:
        raise BadInputError(
            f"{bundle} was not signed with the key of {key_file}, or was changed since: get it again from its maker"
        ) from error


def check_file(path: Path, expected: str) -> None:
    """Refuses a file that is not what the build wrote."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    if digest.hexdigest() != expected:
        raise BadInputError(f"{path} is not what the build wrote (its SHA-256 differs): copy the bundle again")


def sides_of(manifest: dict[str, Any]) -> list[Any]:
    """The ranges of the image's height and width, where the engine leaves them free; else nothing."""
    ranges = manifest.get("sides")
    return [] if ranges is None else [argparse.Namespace(**ranges[name]) for name in ("height", "width")]


def in_words(side: Any) -> str:
    """A range as the build's options have it."""
    return f"{side.min}..{side.max}:{side.step}" if side.min != side.max else str(side.min)


def takes(side: Any, size: int) -> bool:
    """Whether a size is one of a range."""
    return bool(side.min <= size <= side.max and (size - side.min) % side.step == 0)


def size_of(text: str, sides: Sequence[Any]) -> tuple[int, ...]:
    """Reads ``480x640``, a height and a width that the engine takes."""
    numbers = tuple(int(number) for number in text.split("x") if number.isdigit())
    if not sides:
        raise BadInputError("the engine takes images of one size: leave --size out")
    if len(numbers) != 2 or not all(takes(side, number) for side, number in zip(sides, numbers)):
        ranges = " x ".join(map(in_words, sides))
        raise BadInputError(f"{text!r} is no size of this engine: write one of {ranges} (480x640), or fit")
    return numbers


def find_images(arguments: Sequence[str]) -> list[Path]:
    """The images named, folders searched through."""
    found = []  # type: list[Path]
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise BadInputError(f"{path} holds no image: name a folder with {', '.join(SUFFIXES)} files")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise BadInputError(f"{path} does not exist: name an image or a folder of images")
    return found


def load_image(path: Path, spec: Any, size: str | None = None) -> np.ndarray:
    """Reads one image as the input tensor's (C, H, W), in the ``size`` asked for where its sides are free."""
    try:
        import pixels
    except ImportError as error:
        raise UnavailableError(f"pictures need pillow ({error}): install it, or give arrays with --input") from error
    try:
        image = pixels.open_image(path, spec.input_size[0])
        if size is not None:
            chosen = pixels.nearest_size(image.size, *spec.sides) if size == "fit" else size_of(size, spec.sides)
            spec = argparse.Namespace(**dict(vars(spec), input_size=(spec.input_size[0], *chosen)))
        return pixels.preprocess_image(image, spec)  # type: ignore[no-any-return]
    except pixels.ImageUnusableError as error:
        raise BadInputError(f"{path} is not an image that can be read ({error}): remove it or save it again") from error


def load_tensors(path: Path, manifest: dict[str, Any]) -> Feed:
    """Reads prepared inputs, (N, ...) each: from a .npz file by name, or the one input from a .npy or .npz file."""
    specs = {tensor["name"]: tensor for tensor in manifest["inputs"]}
    try:
        content = np.load(str(path), allow_pickle=False)
        found = {"": content} if isinstance(content, np.ndarray) else {key: content[key] for key in content.files}
    except OSError as error:
        raise BadInputError(f"{path} cannot be read ({error.strerror or error}): name a .npy or .npz file") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadInputError(f"{path} is not a .npy or .npz file of numbers: write it with numpy.save") from error
    if len(specs) == 1 == len(found):
        found = dict(zip(specs, found.values()))
    for name in specs:
        if name not in found:
            has = ", ".join(filter(None, found)) or ("one array" if found else "nothing")
            raise BadInputError(f"{path} holds {has}: name the array {name!r} of a .npz file")
    sides = sides_of(manifest)
    feed = {name: fitting(path, found[name], spec, sides) for name, spec in specs.items()}
    counts = {name: len(array) for name, array in feed.items()}
    if len(set(counts.values())) > 1:
        raise BadInputError(f"{path} has different numbers of samples ({counts}): give each input as many rows")
    return feed


def fitting(path: Path, array: np.ndarray, spec: dict[str, Any], sides: Sequence[Any] = ()) -> np.ndarray:
    """An array as an input takes it; one sample without a first axis is a batch of one."""
    name, shape, dtype = spec["name"], tuple(spec["shape"][1:]), np.dtype(spec["dtype"])

    def alike(sides: Sequence[int]) -> bool:
        return len(sides) == len(shape) and all(want in (-1, got) for want, got in zip(shape, sides))

    tensors = array[None] if alike(array.shape) and not alike(array.shape[1:]) else array
    kinds = {"u": "i"}
    if kinds.get(tensors.dtype.kind, tensors.dtype.kind) != kinds.get(dtype.kind, dtype.kind):
        what = "floats, normalised as manifest.json says" if dtype.kind == "f" else str(dtype)
        raise BadInputError(f"{path} holds {tensors.dtype} for {name}: give {what}")
    if not tensors.ndim or not alike(tensors.shape[1:]) or not len(tensors):
        wanted = ", ".join(["N", *("any" if side == -1 else str(side) for side in shape)])
        raise BadInputError(f"{path} has shape {array.shape} for {name}: the engine takes ({wanted})")
    free = [side for side in sides if side.min != side.max] if len(shape) == 3 else []
    for size, side in zip((got for want, got in zip(shape, tensors.shape[1:]) if want == -1), free):
        if not takes(side, size):
            raise BadInputError(f"{path} has a side of {size} for {name}: the engine takes {in_words(side)}, resize it")
    return np.ascontiguousarray(tensors, dtype)


def length(feed: Feed) -> int:
    """How many samples there are."""
    return len(next(iter(feed.values())))


def range_for(size: int, ranges: Ranges) -> tuple[int, int]:
    """The range that takes a batch with the fewest copies, and of those the narrowest; the largest where none does."""
    fitting = [sizes for sizes in ranges if size <= sizes[1]] or [max(ranges, key=lambda sizes: sizes[1])]
    return min(fitting, key=lambda sizes: (max(0, sizes[0] - size), sizes[1] - sizes[0]))


@contextlib.contextmanager
def whole(path: Path, option: str) -> Iterator[Path]:
    """Gives an empty file to write, which takes the place of ``path`` when it is whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        yield partial
        partial.replace(path)
    except OSError as error:
        raise BadInputError(f"{path} cannot be written ({error.strerror}): name another file with {option}") from error
    finally:
        if partial.exists():
            partial.unlink()
