"""Words of messages: numbers with their nouns, names that were mistyped, and what an unforeseen error says."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ["counted", "describe_error", "did_you_mean"]

#: The most characters of an error's text that a message repeats.
_MOST = 200
#: What TVM writes before the message of a failed check, and how it writes an operator.
_CHECK = re.compile(r"^Check failed: .*? is (?:false|true|null): ")
_OPERATOR = re.compile(r"ir\.Op\(.*?name=\"([^\"]+)\".*?attrs_type_key=\"[^\"]*\"[^)]*\)")


def counted(number: object, noun: str) -> str:
    """A number with its noun, such as ``1 task`` or ``2 tasks``; the plural takes an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of a message about a name that does not exist: ``; did you mean 'tune'?``.

    Args:
        given: the name as it was given.
        known: the names that exist.

    Returns:
        the question about the most similar name, without regard to case, hyphens and underscores; an empty text if
        none is similar.
    """
    by_key = {_key(name): name for name in known}
    near = difflib.get_close_matches(_key(given), by_key, n=1, cutoff=0.6)
    return f"; did you mean {by_key[near[0]]!r}?" if near else ""


def _key(name: str) -> str:
    return name.lower().replace("-", "_")


def describe_error(error: BaseException) -> str:
    """What an error of any class says, in one line that can stand in a sentence.

    The parts of TVM's errors that repeat its source are left out. A failed check loses its condition, and an operator
    is called by its name.

    A ``KeyError`` says only a name, so its line says that the name is missing. An error without a text, or with a
    single word, is described by its class.
    """
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    said = _OPERATOR.sub(r"\1", _CHECK.sub("", said))[:_MOST]
    kind = type(error).__name__
    if isinstance(error, KeyError):
        return f"{said} is missing"
    if not said:
        return kind
    return said if " " in said else f"{kind}: {said}"
