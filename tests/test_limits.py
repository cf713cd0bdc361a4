"""The package keeps its limits: lines of modules and functions, parameters of signatures, and uses of ``Any``."""

from __future__ import annotations

import ast
import io
import tokenize
from functools import cache
from pathlib import Path

import pytest

import tilewright

PACKAGE = Path(tilewright.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
#: Lines of a module, and lines of a function without its docstring.
MODULE_LINES, FUNCTION_LINES = 400, 60
#: Parameters of a signature, without ``self`` and ``cls``.
PARAMETERS = 8
#: Uses of ``Any`` in the package, imports included.
ANY = 250

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE.parent))


@cache
def functions() -> tuple[tuple[str, Function], ...]:
    """All functions of the package, each with its module and name."""
    return tuple(
        (f"{name_of(path)}:{node.lineno} {node.name}", node)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, Function)
    )


def is_command(function: Function) -> bool:
    """Whether a function is a Typer command, whose parameters are the options of the command line."""
    for decorator in function.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) == "command":
            return True
    return False


def count_lines(function: Function) -> int:
    """The lines of a function without decorators and docstring. Those of a command are without its options, too."""
    first, body = function.lineno, function.body
    if is_command(function):
        first = body[0].lineno
    lines = (function.end_lineno or first) - first + 1
    if ast.get_docstring(function, clean=False) is not None:
        lines -= (body[0].end_lineno or body[0].lineno) - body[0].lineno + 1
    return lines


def count_parameters(function: Function) -> int:
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    stars = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return len([name for name in names if name not in ("self", "cls")]) + len(stars)


def count_any(path: Path) -> int:
    """The uses of the name ``Any``; in comments and strings it does not count."""
    text = path.read_text(encoding="utf-8")
    if "Any" not in text:  # to read all tokens of the package takes longer than a second
        return 0
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.NAME and token.string == "Any" for token in tokens)


def test_modules_are_short() -> None:
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: count for name, count in lines.items() if count > MODULE_LINES} == {}


def test_functions_fit_a_screen() -> None:
    lines = {name: count_lines(function) for name, function in functions()}
    assert {name: count for name, count in lines.items() if count > FUNCTION_LINES} == {}


def test_signatures_are_short() -> None:
    counts = {name: count_parameters(function) for name, function in functions() if not is_command(function)}
    assert {name: count for name, count in counts.items() if count > PARAMETERS} == {}


def test_any_is_rare() -> None:
    counts = {name_of(path): count_any(path) for path in MODULES}
    assert sum(counts.values()) <= ANY, {name: count for name, count in counts.items() if count}


@pytest.mark.parametrize(
    ("source", "lines", "parameters", "command"),
    [
        ('def f(self, a, *b, c=1, **d):\n    """Two\n    lines."""\n    return a', 2, 4, False),
        ("async def f(a):\n    return a", 2, 1, False),
        (
            "@app.command('f')\n@command\ndef f(\n    a: int,\n    b: int,\n) -> None:\n    print(a)\n    print(b)",
            2,
            2,
            True,
        ),
    ],
)
def test_what_counts(source: str, lines: int, parameters: int, command: bool) -> None:
    function = ast.parse(source).body[0]
    assert isinstance(function, Function)
    assert (count_lines(function), count_parameters(function), is_command(function)) == (lines, parameters, command)
