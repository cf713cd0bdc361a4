"""Names of files whose bytes are not UTF-8. In Python's texts they are halves of characters, such as U+DCFF."""

from __future__ import annotations

from pathlib import Path

from tilewright.errors import OutputError

__all__ = ["check_encodable", "encodable", "printable"]


def printable(text: str) -> str:
    """The text with each half of a character spelt out, so that it can be printed, stored and sent."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def encodable(path: Path) -> bool:
    """Whether the path's name is UTF-8, as libraries written in C++ want it."""
    return printable(str(path)) == str(path)


def check_encodable(path: Path, what: str, remedy: str) -> None:
    """Refuse a path whose name is not UTF-8, where libraries take it that know no other names.

    Raises:
        OutputError: it is not.
    """
    if not encodable(path):
        raise OutputError(f"the name of {what} is UTF-8, but {printable(str(path))!r} is not; {remedy}")
