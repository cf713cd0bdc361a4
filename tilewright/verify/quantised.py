"""Tells quantised models from others."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["is_quantised"]


def is_quantised(model: ModelProto | None) -> bool:
    """Whether an ONNX model rounds numbers to integers of a scale, at its top level."""
    if model is None:
        return False
    kinds = {node.op_type for node in model.graph.node}
    return any(kind.endswith("QuantizeLinear") or kind.startswith("QLinear") for kind in kinds)
