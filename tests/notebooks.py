"""Runs a tutorial as a Jupyter notebook, in a kernel of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from docs.notebooks import read_tutorial
from tests.pages import ROOT

__all__ = ["run_tutorial"]


def run_tutorial(name: str, folder: Path, less: Mapping[str, str], last: str = "") -> list[str]:
    """Run the cells of a tutorial, and return what each printed.

    Args:
        name: of the tutorial's page.
        folder: where its files are written.
        less: texts of its cells that are replaced, such as a budget by a shorter one. Each of them must be there.
        last: a program that is run after the tutorial, with what it has defined.
    """
    nbclient = pytest.importorskip("nbclient")
    notebook = read_tutorial(name)
    for text, other in less.items():
        assert any(text in cell.source for cell in _programs(notebook)), f"{name}.md has no {text!r}"
        for cell in _programs(notebook):
            cell.source = cell.source.replace(text, other)
    if last:
        notebook.cells.append(new_code_cell(last))
    command = folder / "bin/tilewright"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tilewright.cli "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(command.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {"PATH": path, "PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(folder), "IPYTHONDIR": str(folder)}
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute(env=os.environ | environment)
    return ["".join(_texts(cell)) for cell in _programs(notebook)]


def _programs(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _texts(cell: NotebookNode) -> list[str]:
    return [output.text for output in cell.outputs if output.output_type == "stream"]
