"""What is public is there, and its docstrings say what it gives, what it takes and what it raises."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tilewright

#: Whose ``__all__`` is the public API: as the docstring of the package says.
MODULES = ("tilewright", *re.findall(r"`(tilewright\.\w+)`", tilewright.__doc__ or ""))
PUBLIC = [(module, name) for module in MODULES for name in importlib.import_module(module).__all__]


def test_the_package_names_its_public_modules() -> None:
    assert len(MODULES) == 11


@pytest.mark.parametrize("module", MODULES)
def test_names_are_sorted_and_there(module: str) -> None:
    found = importlib.import_module(module)
    assert len(set(found.__all__)) == len(found.__all__)
    assert all(hasattr(found, name) for name in found.__all__)


def test_the_package_imports_each_name_where_it_is_used() -> None:
    assert set(tilewright._HOMES) == set(tilewright.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tilewright.nothing  # noqa: B018


def functions(found: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class of ours defines itself."""
    for name, value in vars(found).items():
        plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if not name.startswith("_") and inspect.isfunction(plain):
            yield name, plain


def is_contract(found: type) -> bool:
    """Whether a class is a protocol, which nobody makes."""
    return bool(getattr(found, "_is_protocol", False))


def raised(function: Callable[..., Any]) -> set[str]:
    """The names of the errors that a function's own ``raise`` statements make."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    made = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {call.func.id for call in made if isinstance(call.func, ast.Name) and call.func.id.endswith("Error")}


def lacks(what: str, text: str | None, function: Callable[..., Any], *, checks_raises: bool = True) -> list[str]:
    """What a docstring leaves out of a function's arguments and errors."""
    if not text:
        return [f"{what} has no docstring"]
    taken = [name for name in inspect.signature(function).parameters if name not in ("self", "cls") and name[0] != "_"]
    found = [f"{what} does not describe {name}" for name in taken if not re.search(rf"\b{name}\b", text)]
    errors = raised(function) if checks_raises else set()
    return found + [f"{what} does not say that it raises {error}" for error in errors if error not in text]


@pytest.mark.parametrize(("module", "name"), PUBLIC, ids=lambda value: str(value))
def test_docstrings_say_what_is_given_taken_and_raised(module: str, name: str) -> None:
    package = importlib.import_module(module)
    value: Any = getattr(package, name)
    problems: list[str] = []
    if inspect.isfunction(value):
        problems = lacks(name, value.__doc__, value)
    elif inspect.isclass(value):
        text = value.__doc__ or ""
        # A dataclass without a docstring of its own has its signature for one.
        problems += [] if text and not text.startswith(f"{name}(") else [f"{name} has no docstring"]
        if dataclasses.is_dataclass(value):
            own = [
                field.name
                for field in dataclasses.fields(value)
                if field.name in vars(value).get("__annotations__", ())
            ]
            problems += [f"{name} does not describe {field}" for field in own if not re.search(rf"\b{field}\b", text)]
        elif inspect.isfunction(made := vars(value).get("__init__")) and not is_contract(value):
            problems += lacks(name, text, made)
        for method, function in functions(value):
            problems += lacks(f"{name}.{method}", function.__doc__, function)
    else:  # a constant or an alias of a type
        assert re.search(rf"\b{name}\b", package.__doc__ or ""), f"the docstring of {module} does not describe {name}"
    assert not problems


def references() -> set[str]:
    """What the docstrings of the package refer to by its whole name."""
    sources = Path(tilewright.__file__).parent.rglob("*.py")
    return {name for path in sources for name in re.findall(r":\w+:`~?(tilewright\.[\w.]+)`", path.read_text())}


def test_what_docstrings_refer_to_exists() -> None:
    assert references()
    for name in references():
        parts = name.split(".")
        depth = next(n for n in range(len(parts), 0, -1) if find_spec_of(parts[:n]))
        try:
            value: Any = importlib.import_module(".".join(parts[:depth]))
        except ModuleNotFoundError as error:
            if error.name != "torch":  # TORCH=0 leaves it out
                raise
            continue
        for part in parts[depth:]:
            annotated = inspect.isclass(value) and part in vars(value).get("__annotations__", ())
            assert annotated or hasattr(value, part), name
            value = getattr(value, part, None)


def find_spec_of(parts: list[str]) -> bool:
    """Whether there is a module of this name."""
    place = Path(tilewright.__file__).parent.joinpath(*parts[1:])
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
