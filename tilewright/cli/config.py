"""The configuration of commands: ``tilewright.toml``, or ``[tool.tilewright]`` in ``pyproject.toml``.

A table is named after a command, and a key after one of its options without the hyphens before it::

    [shared]                     # for every command that has the option
    records = "measured.db"

    [tune]
    budget = "10m"

    [cost.train]
    model = "xgb_ensemble"

A flag beats the environment, the environment beats the file, and the file beats the default.
"""

from __future__ import annotations

import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import typer
from typer.models import OptionInfo

from tilewright.errors import TilewrightError
from tilewright.records.address import is_url
from tilewright.wording import did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Config", "Option", "find_config", "list_options", "overridden", "read_config"]

#: The keys of ``[shared]``: options that mean the same for each command.
_SHARED = ("records", "seed", "quiet", "verbose")
#: The variable of the environment that says the same as an option.
_ENVIRONMENT = {"records": "TILEWRIGHT_RECORDS"}
#: Options that exclude each other. One that was given as a flag beats the other ones in the file.
_EXCLUSIVE = ({"method"}, {"searcher", "sampler"}), ({"records", "target"}, {"data"}), ({"quiet"}, {"verbose"})
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path, as a text"}

#: The options of each command by their names without hyphens; a group of commands holds those of its commands.
Options: TypeAlias = "Mapping[str, Option | Options]"


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        parameter: the name of the function's parameter.
        kind: the type of its value, or of each of its values.
        several: whether it may be given several times.
    """

    parameter: str
    kind: type
    several: bool


@dataclass(frozen=True)
class Config:
    """What the file of a configuration says.

    Attributes:
        path: of the file; None: there is none.
        values: of the parameters of each command, as ``default_map`` of a context takes them.
        lines: each value that it gives, as ``tune: budget = '10m'``.
        problem: why the file does not count; None: it does. Commands that need no configuration go on.
    """

    path: Path | None
    values: dict[str, object]
    lines: tuple[str, ...]
    problem: TilewrightError | None = None


def find_config(folder: Path) -> Path | None:
    """The file of the configuration for commands in a folder; None if there is none.

    It is looked for in the folder and, within a repository of Git, in the folders above up to the repository's root.
    Elsewhere other people may have put a file above. ``tilewright.toml`` comes before ``pyproject.toml``. A damaged
    ``pyproject.toml`` in which the word tilewright does not occur has no configuration for it, and is passed over.

    Raises:
        TilewrightError: a ``pyproject.toml`` cannot be read, or its ``tool.tilewright`` is no table.
    """
    places = [folder, *folder.parents]
    root = next((number for number, place in enumerate(places) if os.path.exists(place / ".git")), 0)
    for place in places[: root + 1]:
        if os.path.isfile(place / "tilewright.toml"):
            return place / "tilewright.toml"
        project = place / "pyproject.toml"
        if os.path.isfile(project) and _table_of(project) is not None:
            return project
    return None


def read_config(path: Path | None, options: Options) -> Config:
    """Read the file of a configuration. Paths in it are relative to its folder.

    Args:
        path: the file; None: there is none.
        options: of all commands, as :func:`list_options` finds them.

    Raises:
        TilewrightError: it cannot be read, a key is no option, or a value has another type than the option.
    """
    if path is None:
        return Config(None, {}, ())
    table = _table_of(path)
    if table is None:
        raise TilewrightError(f"a configuration stands in [tool.tilewright] of a project's file, but {path} has none")
    reader = _Reader(path)
    shared = table.pop("shared", {})
    values = reader.read_commands(table, options, "")
    reader.share(shared, values, options)
    return Config(path, values, tuple(reader.lines))


def list_options(app: typer.Typer) -> Options:
    """The options of each command of an application."""
    found: dict[str, Option | Options] = {}
    for info in app.registered_commands:
        assert info.callback is not None
        assert info.name is not None
        found[info.name] = dict(_options_of(info.callback))
    for group in app.registered_groups:
        assert group.typer_instance is not None
        found[str(group.name)] = list_options(group.typer_instance)
    return found


def overridden(context: typer.Context) -> Iterator[str]:
    """The parameters whose values are from the file, and do not count because a flag excludes them."""
    sources = {name: getattr(context.get_parameter_source(name), "name", "") for name in context.params}
    # These two may also stand before the command.
    above = context.find_root().params
    sources |= {name: "COMMANDLINE" for name in ("quiet", "verbose") if above.get(name)}
    for pair in _EXCLUSIVE:
        for ones, others in (pair, pair[::-1]):
            if any(sources.get(name) == "COMMANDLINE" for name in ones):
                yield from (name for name in others if sources.get(name) == "DEFAULT_MAP")


class _Reader:
    """Reads the tables of a file, and remembers what they give."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines: list[str] = []

    def read_commands(self, table: object, options: Options, where: str) -> dict[str, object]:
        """The values of a table: of a command's options, or of the commands in a group."""
        if not isinstance(table, dict):
            raise TilewrightError(
                f"{where!r} is the name of commands, so it is a table in {self._path}, but this is {table!r}; write "
                f"[{where}], or [shared] for all commands"
            )
        found: dict[str, object] = {}
        for key, value in table.items():
            known = options.get(key)
            if known is None:
                names = [*options] if where else [*options, "shared"]
                near = did_you_mean(key, names) or f"; the keys are {', '.join(names)}"
                kind = "an option" if any(isinstance(each, Option) for each in options.values()) else "a command"
                raise TilewrightError(
                    f"a key of {f'[{where}]' if where else 'the configuration'} in {self._path} names {kind}"
                    f"{'' if where else ', or shared'}, but there is no {key!r}{near}"
                )
            if isinstance(known, Option):
                found[known.parameter] = self._read_value(f"{where}: {key}", key, value, known)
            else:
                found[key] = self.read_commands(value, known, f"{where}.{key}".strip("."))
        return found

    def share(self, table: object, values: dict[str, object], options: Options) -> None:
        """Give the values of ``[shared]`` to each command that has the option and no value of its own."""
        if not isinstance(table, dict):
            raise TilewrightError(f"'shared' is a table in {self._path}, but this is {table!r}; write [shared]")
        for key, value in table.items():
            if key not in _SHARED:
                near = did_you_mean(key, _SHARED) or f"; the keys are {', '.join(_SHARED)}"
                raise TilewrightError(
                    f"a key of [shared] in {self._path} is for every command, but this is {key!r}{near}"
                )
            known = next(_all_of(key, options))
            _spread(key, self._read_value(f"shared: {key}", key, value, known), values, options)

    def _read_value(self, place: str, key: str, value: object, option: Option) -> object:
        several = isinstance(value, list)
        values = list(value) if isinstance(value, list) else [value]
        kinds = (int, float) if option.kind is float else (str,) if option.kind is Path else (option.kind,)
        for one in values:
            # To Python, true is a whole number, too.
            if not isinstance(one, kinds) or (isinstance(one, bool) and option.kind is not bool):
                raise TilewrightError(
                    f"{key} is {_NAMES[option.kind]}, but {place.partition(':')[0]}.{key} in {self._path} is {one!r}"
                )
        if several and not option.several:
            raise TilewrightError(
                f"{key} has one value, but {place.partition(':')[0]}.{key} in {self._path} is a list: {value!r}"
            )
        if key in _ENVIRONMENT and os.environ.get(_ENVIRONMENT[key]):
            return None
        self.lines.append(f"{place} = {value!r}")
        placed = [self._place(key, one, option.kind) for one in values]
        return placed if option.several else placed[0]

    def _place(self, key: str, value: object, kind: type) -> object:
        """The value; a path is made relative to the file's folder."""
        text = str(value)
        is_path = kind is Path or (key == "records" and not is_url(text)) or (key == "cost-model" and text != "none")
        # Unlike Path.expanduser, this one keeps the ~ of a user that there is not, as shells do.
        return str(self._path.parent / os.path.expanduser(text)) if is_path else value


def _spread(key: str, value: object, values: dict[str, object], options: Options) -> None:
    for name, known in options.items():
        if not isinstance(known, Option):
            inner = values.setdefault(name, {})
            assert isinstance(inner, dict)
            _spread(key, value, inner, known)
        elif name == key:
            values.setdefault(known.parameter, value)


def _all_of(key: str, options: Options) -> Iterator[Option]:
    for name, known in options.items():
        if not isinstance(known, Option):
            yield from _all_of(key, known)
        elif name == key:
            yield known


def _options_of(function: Callable[..., object]) -> Iterator[tuple[str, Option]]:
    """The options of a command by their long names."""
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind, *about = typing.get_args(parameter.annotation) or (None,)
        for one in about:
            if isinstance(one, OptionInfo):
                given = (one.default, *(one.param_decls or ()))  # in Annotated the first name stands at the default
                long = next((str(text) for text in given if str(text).startswith("--")), f"--{name}")
                long = long.removeprefix("--").partition("/")[0].replace("_", "-")
                yield long, Option(name, *_kind_of(kind))


def _kind_of(hint: type) -> tuple[type, bool]:
    """The type of an option's value, and whether the option may be given several times."""
    if typing.get_origin(hint) is list:
        return typing.get_args(hint)[0], True
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    return _kind_of(parts[0]) if parts else (hint, False)


def _table_of(path: Path) -> dict[str, object] | None:
    """The table of a file: all of it, or ``[tool.tilewright]`` of a project's; None if that is not there."""
    content = b""
    try:
        content = path.read_bytes()
        table = tomllib.loads(content.decode("utf-8"))
    except (OSError, ValueError) as error:
        if content and path.name == "pyproject.toml" and b"tilewright" not in content:
            return None
        raise TilewrightError(
            f"a configuration is a TOML file, but {path} cannot be read: {_describe(error)}; correct it, or give "
            "--config /dev/null before the command"
        ) from error
    if path.name != "pyproject.toml":
        return table
    tool = table.get("tool")
    found = tool.get("tilewright") if isinstance(tool, dict) else None
    if found is not None and not isinstance(found, dict):
        raise TilewrightError(f"'tilewright' is a table in {path}, but this is {found!r}; write [tool.tilewright]")
    return found


def _describe(error: OSError | ValueError) -> str:
    """What is wrong with a file, and in which line."""
    if isinstance(error, UnicodeDecodeError):
        line = error.object[: error.start].count(b"\n") + 1
        return f"byte 0x{error.object[error.start]:02x} is no UTF-8 (at line {line})"
    return str(getattr(error, "strerror", None) or error)
