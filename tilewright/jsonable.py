"""The types of values that JSON can hold."""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Json", "JsonObject"]

#: A value as ``json.loads`` returns it.
Json: TypeAlias = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
#: A JSON object: values by name.
JsonObject: TypeAlias = dict[str, Json]
