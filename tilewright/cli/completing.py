"""Lets shells complete the values of options that take a name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable

__all__ = ["complete_from"]


def complete_from(module: str, constant: str) -> Callable[[str], list[str]]:
    """What completes a name for ``typer.Option(autocompletion=...)``.

    Args:
        module: is imported only when a shell asks, since many of them are heavy.
        constant: holds the names, as a tuple or as the keys of a dictionary.

    Returns:
        a function from the beginning of a name to the names that begin so.
    """

    def complete(incomplete: str) -> list[str]:
        names: Iterable[str] = getattr(importlib.import_module(module), constant)
        return [name for name in names if name.startswith(incomplete)]

    return complete
