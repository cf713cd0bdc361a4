"""Rewrites resizes of images that no operator of TVM computes: an index or a matrix for each dimension.

PyTorch itself says what a resize does to one dimension: it is asked to resize the identity matrix. So every mode,
every scale, corners and antialiasing are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tilewright.frontend.torch.graph import TorchGraph, name_of, shape_of

if TYPE_CHECKING:
    import torch
    from torch import fx

__all__ = ["is_plain", "rewrite_resizes"]

_NEAREST = ("upsample_nearest", "_upsample_nearest_exact")
_SMOOTH = ("upsample_linear", "upsample_bilinear", "upsample_trilinear", "upsample_bicubic")
_SMOOTH_DOWN = ("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")


def rewrite_resizes(graph: TorchGraph) -> None:
    """resize(x) --> index_select(x, dim, places) or x @ matrix, dimension by dimension.

    A resize that :func:`is_plain` stays.
    """
    for node in graph.calls:
        name = name_of(node).removeprefix("aten.")
        if not name.startswith((*_NEAREST, *_SMOOTH, *_SMOOTH_DOWN)) or "backward" in name or is_plain(node):
            continue
        x = node.args[0]
        for axis in range(2, len(shape_of(x))):
            matrix = _ask(node, axis)
            if matrix.shape[0] == matrix.shape[1] and bool((matrix == _identity(matrix.shape[0])).all()):
                continue
            if name.startswith(_NEAREST):
                x = _select(graph, node, x, axis, matrix)
            else:
                x = _multiply(graph, node, x, axis, matrix)
        graph.replace(node, x)


def is_plain(node: fx.Node) -> bool:
    """Whether TVM's operator for images gives what PyTorch gives.

    It takes coordinates from the ratio of the sizes, as PyTorch does if it is not given another scale.
    """
    name = name_of(node).removeprefix("aten.")
    if not name.endswith(".vec") or "_aa" in name or "exact" in name or len(shape_of(node)) != 4:
        return False
    before, after, scales = shape_of(node.args[0])[2:], shape_of(node)[2:], _scales(node)
    if name.startswith("upsample_nearest2d"):
        return all(size % extent == 0 for size, extent in zip(after, before, strict=True))
    exact = all(size == extent * scale for size, extent, scale in zip(after, before, scales or (), strict=False))
    return name.startswith(("upsample_bilinear2d", "upsample_bicubic2d")) and exact


def _given(node: fx.Node) -> dict[str, object]:
    """The arguments of a node by their names, the first one left out."""
    names = [argument.name for argument in node.target._schema.arguments]
    given: dict[str, object] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return {name: given.get(name) for name in names[1:]}


def _scales(node: fx.Node) -> Sequence[float] | None:
    """The scales that a node was given; None if it was given sizes."""
    given = _given(node)
    scales = given["scale_factors"] if "scale_factors" in given else [given[n] for n in given if n.startswith("scale")]
    return scales if isinstance(scales, Sequence) and scales and None not in scales else None


def _ask(node: fx.Node, axis: int) -> torch.Tensor:
    """What a resize does to a dimension: a matrix of shape ``(after, before)``, in float64."""
    import torch

    spatial = len(shape_of(node)) - 2
    before, after = shape_of(node.args[0])[axis], shape_of(node)[axis]
    # The other dimensions have two elements, which stay: with one element, PyTorch 2.13 resizes wrongly, antialiased.
    column = [before if i == axis - 2 else 1 for i in range(spatial)]
    probe = torch.eye(before, dtype=torch.float64).reshape(1, before, *column)
    probe = probe.expand(1, before, *(before if i == axis - 2 else 2 for i in range(spatial))).contiguous()
    given, scales = _given(node), _scales(node)
    if "scale_factors" in given and scales is not None:
        given["scale_factors"] = [scales[i] if i == axis - 2 else 1.0 for i in range(spatial)]
    else:
        given["output_size"] = [after if i == axis - 2 else 2 for i in range(spatial)]
        for i, name in enumerate([name for name in given if name.startswith("scales")]):
            given[name] = scales[i] if scales is not None and i == axis - 2 else None
    with torch.no_grad():
        result = node.target(probe, **given)
    for place in range(spatial):
        if place != axis - 2:
            result = result.narrow(place + 2, 0, 1)
    matrix: torch.Tensor = result.reshape(before, after).T
    return matrix


def _identity(extent: int) -> torch.Tensor:
    import torch

    return torch.eye(extent, dtype=torch.float64)


def _select(graph: TorchGraph, node: fx.Node, x: fx.Node, axis: int, matrix: torch.Tensor) -> fx.Node:
    import torch

    places = graph.add_weight(f"{node.name}_places{axis}", matrix.argmax(1))
    return graph.insert(node, torch.ops.aten.index_select.default, x, axis, places)


def _multiply(graph: TorchGraph, node: fx.Node, x: fx.Node, axis: int, matrix: torch.Tensor) -> fx.Node:
    import torch

    aten = torch.ops.aten
    columns = graph.add_weight(f"{node.name}_columns{axis}", matrix.T.contiguous().to(x.meta["val"].dtype))
    rank = len(shape_of(x))
    if axis == rank - 1:
        return graph.insert(node, aten.matmul.default, x, columns)
    order = [*(a for a in range(rank) if a != axis), axis]
    last = graph.insert(node, aten.permute.default, x, order)
    product = graph.insert(node, aten.matmul.default, last, columns)
    return graph.insert(node, aten.permute.default, product, [order.index(a) for a in range(rank)])
