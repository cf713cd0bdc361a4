"""The measured limits of a machine, for people."""

from __future__ import annotations

from tilewright.jsonable import JsonObject
from tilewright.report import figures as fmt

__all__ = ["roofline_facts"]

_UNITS = (
    ("Peak, float32", "peak", "GFLOP/s"),
    ("Peak, products of bytes", "dot", "GOP/s"),
    ("Peak, bfloat16", "bf16_dot", "GFLOP/s"),
    ("Matrix product", "product", "GFLOP/s"),
    ("First caches", "innermost_bandwidth", "GB/s"),
    ("Next caches", "cache_bandwidth", "GB/s"),
    ("Memory", "memory_bandwidth", "GB/s"),
)


def roofline_facts(roofline: JsonObject) -> list[tuple[str, str]]:
    """Names and values of the limits that are known.

    Args:
        roofline: as :meth:`tilewright.tuning.roofline.Roofline.describe` has it.
    """
    found = []
    for name, key, unit in _UNITS:
        value = roofline.get(key)
        if isinstance(value, int | float):
            found.append((name, f"{fmt.significant(value / 1e9)} {unit}"))
    return found
