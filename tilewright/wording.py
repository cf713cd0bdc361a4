"""Words of messages: numbers with their nouns, and what an unforeseen error says."""

from __future__ import annotations

__all__ = ["counted", "describe_error"]

#: The most characters of an error's text that a message repeats.
_MOST = 200


def counted(number: object, noun: str) -> str:
    """A number with its noun, such as ``1 task`` or ``2 tasks``; the plural takes an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def describe_error(error: BaseException) -> str:
    """What an error of any class says, in one line that can stand in a sentence.

    A ``KeyError`` says only a name, so its line says that the name is missing. An error without a text, or with a
    single word, is described by its class.
    """
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:_MOST]
    kind = type(error).__name__
    if isinstance(error, KeyError):
        return f"{said} is missing"
    if not said:
        return kind
    return said if " " in said else f"{kind}: {said}"
