"""The small parts that specs of Vega-Lite are made of. Colours are in the page's theme, by the names of styles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilewright.jsonable import Json, JsonObject, finite

__all__ = ["axis", "data", "field", "layers", "mark", "spec", "tooltip"]

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"


def spec(
    height: int, content: JsonObject, description: str, rows: Sequence[Mapping[str, Json]] | None = None
) -> JsonObject:
    """A spec as wide as its place.

    Args:
        height: in pixels.
        content: mark, encoding, layers and so on.
        description: for people who cannot see the chart.
        rows: the data; None: ``content`` has them.
    """
    made: JsonObject = {
        "$schema": _SCHEMA,
        "width": "container",
        "height": height,
        "description": description,
        "autosize": {"type": "fit-x", "contains": "padding"},
    }
    if rows is not None:
        made["data"] = data(rows)
    return {**made, **content}


def data(rows: Sequence[Mapping[str, Json]]) -> JsonObject:
    """Rows as the data of a spec. Infinities and NaN become nothing."""
    return {"values": [finite(dict(row)) for row in rows]}


def mark(kind: str, style: str = "", **more: Json) -> JsonObject:
    """A mark in a style of the page's theme."""
    return {"type": kind, **({"style": style} if style else {}), **more}


def field(name: str, kind: str, title: str | None = None, **more: Json) -> JsonObject:
    """A channel: ``kind`` is quantitative, nominal or ordinal. Names of fields are ours, and hold no dots."""
    return {"field": name, "type": kind, "title": title, **more}


def axis(**more: Json) -> JsonObject:
    """An axis without a domain line and ticks."""
    return {"domain": False, "ticks": False, **more}


def layers(*parts: JsonObject) -> JsonObject:
    """Marks on top of each other."""
    return {"layer": list(parts)}


def tooltip(*fields: tuple[str, str]) -> Json:
    """What is shown at the pointer: the names of fields and their titles."""
    return [{"field": name, "title": title} for name, title in fields]
