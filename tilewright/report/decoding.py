"""Reads dataclasses from JSON that may be of an earlier or later version, or damaged: what fits is taken.

A field that is missing, or has another type than it should, becomes the field's default, or else what is empty: None,
0, "", () or {}. Fields that the dataclass does not have are passed over. So a page shows what a file has.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import types
import typing
from functools import lru_cache
from typing import TypeVar, cast

from tilewright.jsonable import Json

__all__ = ["decode"]

T = TypeVar("T")


class _MisfitError(Exception):
    """A value is not of the type."""


def decode(cls: type[T], value: Json) -> T:
    """A dataclass from a JSON object; from anything else, one of which everything is empty.

    Args:
        cls: the dataclass. Its fields are numbers, texts, enums, dataclasses, and tuples, mappings and unions of these.
        value: what ``json.loads`` returned.
    """
    return cast(T, _dataclass(cls, value if isinstance(value, dict) else {}))


@lru_cache(maxsize=256)
def _hints(cls: type) -> dict[str, object]:
    return typing.get_type_hints(cls, None, {"Json": object})  # an alias that names itself


def _dataclass(cls: type, content: dict[str, Json]) -> object:
    hints, found = _hints(cls), {}
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        wanted = hints[field.name]
        if field.name in content:
            try:
                found[field.name] = _value(wanted, content[field.name])
                continue
            except _MisfitError:
                pass
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            found[field.name] = _empty(wanted)
    return cls(**found)


def _value(wanted: object, value: Json) -> object:
    """A value of a type. Raises :class:`_MisfitError` if it is not of it."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, value)
    if origin is tuple:
        return _tuple(arguments, value)
    if origin is typing.Literal:
        if type(value) not in map(type, arguments):  # a word of a later version is shown as it is
            raise _MisfitError
        return value
    if origin in (dict, collections.abc.Mapping):
        if not isinstance(value, dict):
            raise _MisfitError
        return {name: _value(arguments[1], item) for name, item in value.items()}
    if origin is list:
        if not isinstance(value, list):
            raise _MisfitError
        return [_value(arguments[0], item) for item in value]
    if isinstance(wanted, type):
        return _plain(wanted, value)
    return value  # Json itself


def _one_of(kinds: tuple[object, ...], value: Json) -> object:
    for kind in kinds:
        try:
            return _value(kind, value)
        except _MisfitError:
            continue
    raise _MisfitError


def _tuple(arguments: tuple[object, ...], value: Json) -> object:
    if not isinstance(value, list):
        raise _MisfitError
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_value(arguments[0], item) for item in value)
    if len(arguments) != len(value):
        raise _MisfitError
    return tuple(_value(kind, item) for kind, item in zip(arguments, value, strict=True))


def _plain(wanted: type, value: Json) -> object:
    if dataclasses.is_dataclass(wanted):
        if not isinstance(value, dict):
            raise _MisfitError
        return _dataclass(wanted, value)
    if issubclass(wanted, enum.Enum):
        try:
            return wanted(value)
        except ValueError:
            raise _MisfitError from None
    if wanted is type(None):
        fits = value is None
    elif wanted is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        value = float(value) if fits and isinstance(value, int | float) else value
    elif wanted is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    else:
        fits = isinstance(value, wanted)
    if not fits:
        raise _MisfitError
    return value


def _empty(wanted: object) -> object:
    """What stands for a field that is not there. Raises :class:`_MisfitError` if nothing can."""
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return None if type(None) in arguments else _empty(arguments[0])
    if origin is tuple:
        return ()
    if origin in (dict, collections.abc.Mapping):
        return {}
    if origin is list:
        return []
    if isinstance(wanted, type):
        if dataclasses.is_dataclass(wanted):
            return _dataclass(wanted, {})
        if issubclass(wanted, enum.Enum):
            raise _MisfitError  # no member means that nothing is known: a missing outcome is not the first one
        return wanted()
    return None
