"""Pretrained weights from timm's hub, where it answers in time.

Whether to wait for the hub is decided before anything is loaded: by the local cache, or by one request in a thread
that is left behind when it takes too long. So a machine without a network loses seconds, not minutes of retries.
"""

from __future__ import annotations

import queue
import threading
import urllib.request
from typing import TYPE_CHECKING, Any

from radixrt.export.source.quiet import quiet

if TYPE_CHECKING:
    import torch


def load_pretrained(name: str, timeout_s: float) -> torch.nn.Module | str:
    """Builds timm's ``name`` with its pretrained weights.

    Args:
        name: a timm model, perhaps with a tag.
        timeout_s: how long the hub may take to answer at all; the download itself may take longer.

    Returns:
        The module, or in a few words why there are no weights.
    """
    import timm

    with quiet("timm", "huggingface_hub", "filelock", "httpx", "httpcore", "urllib3"):
        config = timm.models.get_pretrained_cfg(name)
        if config is None or not (config.hf_hub_id or config.url):
            return "timm has no pretrained weights for this model"
        if not _cached(config):
            url = _url(config)
            if url is None:
                return "the hub is switched off (HF_HUB_OFFLINE) and the weights are not in its cache"
            if not _answers(url, timeout_s):
                return "timm's hub did not answer"
        try:
            module: torch.nn.Module = timm.create_model(name, pretrained=True)
        except Exception as error:  # the hub, the network and the file format each raise their own
            return f"timm's hub answered, but the weights could not be loaded ({type(error).__name__})"
    return module


def _cached(config: Any) -> bool:
    """Whether the weights lie in the hub's cache, so that no network is needed."""
    from huggingface_hub import try_to_load_from_cache

    if not config.hf_hub_id:
        return False
    repository, _, revision = config.hf_hub_id.partition("@")
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    return any(isinstance(try_to_load_from_cache(repository, n, revision=revision or None), str) for n in names)


def _url(config: Any) -> str | None:
    from huggingface_hub import constants, hf_hub_url

    if not config.hf_hub_id:
        return str(config.url)
    if constants.HF_HUB_OFFLINE:
        return None
    repository, _, revision = config.hf_hub_id.partition("@")
    return str(hf_hub_url(repository, config.hf_hub_filename or "config.json", revision=revision or None))


def _answers(url: str, timeout_s: float) -> bool:
    """Whether a request for ``url`` succeeds in time. A name look-up cannot be interrupted: a thread waits for it."""
    answer: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=timeout_s):  # follows redirects to where the file lies
                answer.put(True)
        except Exception:  # whatever went wrong, there is no answer
            answer.put(False)

    threading.Thread(target=ask, name="hub-probe", daemon=True).start()
    try:
        return answer.get(timeout=timeout_s)
    except queue.Empty:
        return False
