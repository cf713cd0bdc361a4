"""Makes a Jupyter notebook of a tutorial, so that its programs have one source: the page.

Blocks in Python, Bash and C become cells; everything else is text. The site has each notebook beside its page, and
``tests/test_tutorials.py`` runs them.
"""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
from nbformat import NotebookNode

#: Pages that have programs to run.
TUTORIALS = ("first-network", "train-a-network", "deploy-in-c", "a-quantised-model")
#: A program in C, which the text before it names: it is written to a file of that name.
_C_PROGRAM = re.compile(r"(`(\w+\.c)`[^`]*)```c\n")


def to_notebook(page: str) -> NotebookNode:
    """The notebook of a page.

    A cell of Bash ends with an error if one of its commands does.

    Args:
        page: the text of the page, in Markdown.
    """
    text = _C_PROGRAM.sub(r"\1```python\n%%writefile \2\n", page)
    notebook = jupytext.reads(text, fmt="md")
    for cell in notebook.cells:
        cell.source = re.sub(r"\A%%bash$", "%%bash -e", cell.source, flags=re.MULTILINE)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return notebook


def read_tutorial(name: str) -> NotebookNode:
    """The notebook of one of :data:`TUTORIALS`."""
    return to_notebook(Path(__file__).with_name("tutorial").joinpath(f"{name}.md").read_text(encoding="utf-8"))
