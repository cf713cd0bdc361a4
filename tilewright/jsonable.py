"""The types of values that JSON can hold."""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["Json", "JsonObject"]

#: What ``json.loads`` returns.
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
#: An object of JSON: a dictionary with names as keys.
JsonObject: TypeAlias = dict[str, Json]
