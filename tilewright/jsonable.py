"""What JSON can hold, as types, and dataclasses as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from math import isfinite
from typing import TypeAlias

__all__ = ["Json", "JsonObject", "finite", "to_json", "to_json_object"]

#: What ``json.loads`` returns.
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
#: An object of JSON: a dictionary with names as keys.
JsonObject: TypeAlias = dict[str, Json]


def to_json(value: object) -> Json:
    """A value as JSON.

    A dataclass becomes an object of its fields, and an enum its value. Parts of mappings and sequences are converted in
    the same way.

    Raises:
        TypeError: a part of the value has no form in JSON.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Enum):
        return to_json(value.value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [to_json(item) for item in value]
    raise TypeError(f"JSON holds numbers, texts, lists and objects, but this is {type(value).__name__}")


def to_json_object(value: object) -> dict[str, Json]:
    """A dataclass as a JSON object.

    Raises:
        TypeError: the value is no dataclass, or a part of it has no form in JSON.
    """
    if not is_dataclass(value) or isinstance(value, type):
        raise TypeError(f"only a dataclass becomes an object of its fields, but this is {type(value).__name__}")
    return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}


def finite(value: Json) -> Json:
    """A value without infinities and NaN, which JSON lacks: None takes their place."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
