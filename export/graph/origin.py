"""Where a node of a graph comes from, in the words of the model's author: ``layer3.2.conv2``, not ``node_412``.

The dynamo exporter leaves a list of scopes in a node's metadata; the TorchScript exporter writes the scopes into the
node's name. Rewrites carry either along with :func:`copy_origin`, so that reports and calibration tables name modules.
"""

from __future__ import annotations

import ast

import onnx_ir as ir

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key: a list literal, from the root's empty name inwards, whose last item is the operation in the FX
graph."""

_LONGEST_SCOPES = 10_000  # a hostile file may hold a literal that takes minutes to parse


def module_of(node: ir.Node) -> str:
    """Returns the torch module path of ``node``, or the node's own name where the graph keeps no path."""
    return _from_scopes(node.metadata_props.get(NAME_SCOPES)) or _from_torchscript(node.name) or node.name or ""


def set_module(node: ir.Node, path: str) -> None:
    """Records ``path`` as the module that ``node`` comes from."""
    node.metadata_props[NAME_SCOPES] = repr(["", path, node.name or node.op_type])


def copy_origin(src: ir.Node, dst: ir.Node) -> None:
    """Lets ``dst``, made by a rewrite, come from where ``src`` came from. A node without an origin passes none on."""
    scopes = src.metadata_props.get(NAME_SCOPES)
    if scopes is not None:
        dst.metadata_props[NAME_SCOPES] = scopes
    elif path := _from_torchscript(src.name):
        set_module(dst, path)


def take_place(old: ir.Node, new: ir.Node) -> None:
    """Gives ``new``, which does what ``old`` did in another spelling, all that ``old`` kept about itself."""
    new.metadata_props.update(old.metadata_props)
    copy_origin(old, new)


def _from_scopes(text: str | None) -> str:
    if text is None or len(text) > _LONGEST_SCOPES:
        return ""
    try:
        scopes = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        return ""
    # The last item names the operation; the one before it is the full path of the innermost module.
    return scopes[-2] if len(scopes) >= 2 else ""


def _from_torchscript(name: str | None) -> str:
    """Turns ``/layer1/layer1.0/conv2/Conv`` into ``layer1.0.conv2``.

    Each part is an attribute's name, except that a child of a container repeats the container's: ``layer1`` then
    ``layer1.0``.
    """
    if not name or not name.startswith("/"):
        return ""
    path: list[str] = []
    for part in name.split("/")[1:-1]:
        if path and part.startswith(f"{path[-1]}."):
            path[-1] = part
        else:
            path.append(part)
    return ".".join(path)
