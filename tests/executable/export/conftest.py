"""The fixtures of these tests."""

from __future__ import annotations

from tests.c_libraries import two_buckets

__all__ = ["two_buckets"]
