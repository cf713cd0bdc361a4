"""The types of values that JSON can hold."""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Json", "JsonObject"]

#: A value as ``json.loads`` returns it.
Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None
#: A JSON object: values by name.
JsonObject: TypeAlias = dict[str, Json]
