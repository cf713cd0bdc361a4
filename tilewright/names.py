"""File names that are not UTF-8. In Python strings their odd bytes are lone surrogates, such as U+DCFF."""

from __future__ import annotations

from pathlib import Path

from tilewright.errors import OutputError

__all__ = ["check_encodable", "encodable", "printable"]


def printable(text: str) -> str:
    """The text with each lone surrogate spelt out, so that it can be printed, stored and sent."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def encodable(path: Path) -> bool:
    """Whether the path is UTF-8, as libraries in C++ require."""
    return printable(str(path)) == str(path)


def check_encodable(path: Path, what: str, remedy: str) -> None:
    """Refuse a path that is not UTF-8, for libraries that accept no other paths.

    Raises:
        OutputError: the path is not UTF-8.
    """
    if not encodable(path):
        raise OutputError(f"the name of {what} is UTF-8, but {printable(str(path))!r} is not; {remedy}")
