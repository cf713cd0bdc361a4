"""Words of messages that depend on a number."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: object, noun: str) -> str:
    """A number with its noun, such as ``1 task`` or ``2 tasks``; the plural takes an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
