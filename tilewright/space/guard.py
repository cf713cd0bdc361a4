"""The boundary of a design space: what a template raises by mistake becomes an error that costs one task."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from tilewright.errors import SpaceError, TilewrightError
from tilewright.wording import describe_error

__all__ = ["guard_space"]


@contextlib.contextmanager
def guard_space(what: str) -> Iterator[None]:
    """Turn every unforeseen error in the block into a ``SpaceError``.

    Errors of Tilewright's own pass, and so does a lack of memory. With ``TILEWRIGHT_DEBUG`` set all errors pass.

    Args:
        what: the subject of the message, such as ``the template 'rows' of softmax 12x64``.

    Raises:
        SpaceError: the block raised an error.
    """
    try:
        yield
    except (TilewrightError, MemoryError):
        raise
    except Exception as exc:
        if os.environ.get("TILEWRIGHT_DEBUG"):
            raise
        raise SpaceError(
            f"{what} failed: {describe_error(exc)}; the task is not tuned; TILEWRIGHT_DEBUG=1 shows where"
        ) from exc
