"""The page about the command line names each command, each option, and each key of the report, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer

from tilewright.cli import app
from tilewright.cli.config import list_options, read_config

PAGE = (Path(__file__).parents[2] / "docs/reference/command-line.md").read_text(encoding="utf-8")
OPTION = re.compile(r"--[a-z][a-z-]*")


def sections() -> dict[str, str]:
    """The page's text by heading."""
    _, *parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def commands(command: Any, name: str) -> dict[str, set[str]]:
    """The long options of each command, without ``--help``, by the command's whole name."""
    if inner := getattr(command, "commands", {}):
        return {key: options for part in inner for key, options in commands(inner[part], f"{name} {part}").items()}
    return {name: {text for parameter in command.params for text in parameter.opts if text.startswith("--")}}


def test_each_command_and_each_of_its_options_is_on_the_page() -> None:
    by_name = {
        re.sub(r" [A-Z].*", "", heading.strip("`")): text
        for heading, text in sections().items()
        if heading.startswith("`tilewright ")
    }
    known = commands(typer.main.get_command(app), "tilewright")
    assert set(by_name) == set(known)
    of_all = set(re.findall(r"^\| `(--[a-z]+)", sections()["Options of every command"], flags=re.MULTILINE))
    assert of_all
    assert of_all <= set.intersection(*known.values())
    for name, options in known.items():
        assert set(OPTION.findall(by_name[name])) == options - of_all, name


def test_the_configuration_on_the_page_is_one(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "tilewright.toml"
    file.write_text(example)
    tune = read_config(file, list_options(app)).values["tune"]
    assert tune == {"budget": "10m", "cost_model": "none", "records": str(tmp_path / "measured.db")}


def test_options_that_several_commands_share_are_theirs() -> None:
    known = commands(typer.main.get_command(app), "tilewright")
    shared = re.findall(r"^\| `(--[a-z-]+)", sections()["Shared options"], flags=re.MULTILINE)
    for option in shared:
        assert sum(option in options for options in known.values()) > 1
