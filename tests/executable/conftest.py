"""The fixtures of these tests."""

from __future__ import annotations

from tests.executables import out, shared

__all__ = ["out", "shared"]
