"""A checkpoint file becomes the weights of a module, and never runs code.

``.safetensors`` holds tensors and nothing else. ``.pth`` and ``.pt`` are read with ``weights_only=True``, which
refuses every pickled object except tensors and plain containers; of the numbers, paths and dates that training scripts
keep beside the weights, nothing is made. The weights may be nested, as training scripts do
(``state_dict``, ``model``, ``model_ema``; the exponential average is taken where there is one, as timm does), and the
keys may carry the prefixes of wrappers.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radixrt.errors import InputError, first_line

if TYPE_CHECKING:
    import torch

_CONTAINERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema",
    "state_dict", "model_state_dict", "model", "network", "net", "module",
)  # fmt: skip
# What training scripts keep beside the weights: numbers, paths, dates. None is made, so nothing of them runs.
_LEFT_OUT = (
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.ndarray",
    "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
    "datetime.datetime", "datetime.timedelta",
)  # fmt: skip
_PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.", "backbone.")
_LISTED = 10


class _LeftOut:
    """Stands in for an object beside the weights; takes what the file gives for it and keeps nothing."""

    def __new__(cls, *_: object) -> _LeftOut:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Reads the tensors of a checkpoint, as they are named in it.

    Raises:
        InputError: the file is missing, unreadable, truncated, holds pickled code, holds no weights, or fewer than it
            claims.
    """
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        content: Any = _read_safetensors(path)
    elif path.suffix in (".pth", ".pt", ".bin", ".ckpt", ".tar"):
        content = _read_pickle(path)
    else:
        raise InputError(f"checkpoint {path} is of no known kind: give a .pth, .pt or .safetensors file")
    state = _find_state(content)
    if state is None:
        raise InputError(
            f"checkpoint {path} holds no weights: save the model's state_dict(), alone or under state_dict or model"
        )
    for key, tensor in state.items():
        if tensor.numel() * tensor.element_size() > _held_bytes(tensor):
            raise InputError(
                f"checkpoint {path}: {key} claims {'x'.join(map(str, tensor.shape))} values and holds fewer: save the "
                "model's state_dict() again, on the CPU and dense"
            )
    return state


def _held_bytes(tensor: torch.Tensor) -> int:
    """The bytes that lie behind a tensor; a file of a kilobyte can claim a terabyte, with strides of zero."""
    import torch

    plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return tensor.untyped_storage().nbytes() if plain else 0


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(f"checkpoint {path} is truncated or is not a safetensors file: {first_line(error)}") from error


def _read_pickle(path: Path) -> Any:
    import torch

    try:
        # timm keeps the training script's arguments beside the weights; a Namespace is data.
        harmless: list[Any] = [argparse.Namespace, *((_LeftOut, name) for name in _LEFT_OUT)]
        with torch.serialization.safe_globals(harmless), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the file is said below
            # Files of the old, unzipped kind cannot be mapped into memory.
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except Exception as error:  # a damaged file makes torch raise nearly anything
        # torch wraps the refusal of a class in a long text of advice that ends with "just allow it".
        if isinstance(error, pickle.UnpicklingError) and ("GLOBAL" in str(error) or "TorchScript" in str(error)):
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            named = f" ({found[1]})" if found else ""
            raise InputError(
                f"checkpoint {path} holds pickled Python objects{named}, which are not loaded "
                "because they can run code: save model.state_dict() alone, or as safetensors"
            ) from error
        if isinstance(error, RuntimeError) and "TorchScript" in str(error):
            raise InputError(
                f"checkpoint {path} is a TorchScript archive, which holds code: save model.state_dict() instead"
            ) from error
        raise InputError(f"checkpoint {path} is truncated or is not a PyTorch checkpoint: fetch it again") from error


def _find_state(content: Any, depth: int = 3) -> dict[str, torch.Tensor] | None:
    import torch

    if not isinstance(content, Mapping) or depth == 0:
        return None
    for name in _CONTAINERS:
        if isinstance(content.get(name), Mapping) and (state := _find_state(content[name], depth - 1)):
            return state
    if content and all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()):
        return dict(content)
    return None


def strip_prefixes(state: Mapping[str, torch.Tensor], expected: Collection[str]) -> dict[str, torch.Tensor]:
    """Takes wrappers' prefixes (``module.``, ``model.``...) off the keys, where that makes more of them fit.

    Args:
        state: weights by key.
        expected: the module's own keys; a model whose keys do start with ``model.`` keeps them.
    """
    best = current = dict(state)
    while prefix := next((p for p in _PREFIXES if current and all(key.startswith(p) for key in current)), None):
        current = {key.removeprefix(prefix): value for key, value in current.items()}
        if len(current.keys() & set(expected)) > len(best.keys() & set(expected)):
            best = current
    return best


def load_weights(module: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Copies ``state`` into ``module``, all of it or nothing.

    Raises:
        InputError: keys are missing or left over, a shape differs, or a weight is not finite; each is named.
    """
    own = module.state_dict()
    state = strip_prefixes(state, own.keys())
    # Checkpoints from before PyTorch 0.4.1 have no such counters, and inference does not use them.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    different = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = [
        f"{count} {what}: {_shorten(items)}"
        for count, what, items in (
            (len(missing), "missing", missing),
            (len(unexpected), "unexpected", unexpected),
            (len(different), "of another shape", different),
        )
        if items
    ]
    if faults:
        raise InputError(f"{source} does not fit the model, whose keys must match: {'; '.join(faults)}")
    module.load_state_dict({**own, **state})
    check_finite(module, source)


def check_finite(module: torch.nn.Module, source: str) -> None:
    """Refuses weights that cannot be computed with.

    Raises:
        InputError: a weight is NaN or infinite, or a running variance is negative; it is named.
    """
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise InputError(f"{source}: {name} holds {bad} values that are NaN or infinite: take an earlier one")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise InputError(f"{source}: {name} holds negative variances: take an earlier one")


def _shorten(items: Iterable[str]) -> str:
    # A key can hold anything, a terminal's control codes included.
    items = ["".join(c if c.isprintable() else "?" for c in item) for item in items]
    rest = len(items) - _LISTED
    return ", ".join(items[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
