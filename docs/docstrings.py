"""Reads docstrings for the site: roles of Sphinx become code, and examples become blocks of code.

An extension of Griffe, which ``mkdocs.yml`` names.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:mod|class|func|meth|data|attr|exc|obj):`~?([^`]+)`")
_EXAMPLE = re.compile(r"(?:^[ ]*(?:>>>|\.\.\.) .*\n?)+", re.MULTILINE)
#: What concerns only the test of an example.
_DIRECTIVE = re.compile(r" *# doctest: .*")


class Docstrings(griffe.Extension):
    """Rewrites each docstring."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite the docstring of the package itself, which is no object in a module."""
        self.on_object(obj=pkg)

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object, if it has one."""
        if obj.docstring is not None and "```pycon" not in obj.docstring.value:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub(_fence, text)


def _fence(found: re.Match[str]) -> str:
    lines = [_DIRECTIVE.sub("", line.strip()) for line in found[0].splitlines()]
    return "```pycon\n" + "\n".join(lines) + "\n```\n"
