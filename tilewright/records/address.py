"""The address of a store: a file, or a URL. Light, so that the command line can check it before it opens anything."""

from __future__ import annotations

import re
from pathlib import Path

from tilewright.errors import RecordsError

__all__ = ["is_url", "shorten_address"]

_SCHEME = "postgresql://"
#: Host, port and database of a URL.
_PLACE = re.compile(r"(?:[\w.-]*|\[[\da-fA-F:.]*\])(?::\d+)?(?:/[^?@/:#]*)?(?=\?|$)", re.ASCII)


def is_url(where: str | Path) -> bool:
    """Whether ``where`` names a store on a server rather than a file. A ``Path`` is always a file.

    Raises:
        RecordsError: the URL is of another kind of server.
    """
    if not isinstance(where, str):
        return False
    scheme = re.match(r"[a-z][a-z0-9+]*://", where)
    if scheme is None:
        return False
    if scheme.group() != _SCHEME:
        raise RecordsError(
            f"records are kept in a file or at {_SCHEME}USER@HOST/DATABASE, but this begins with {scheme.group()}; "
            f"a file of such a name is written ./{scheme.group()}..."
        )
    return True


def shorten_address(where: str | Path) -> str:
    """The address for messages. A URL is cut to user, host, port and database, because its options may be secrets."""
    if not is_url(where):
        return str(where)
    # The password ends at the first @, as SQLAlchemy reads it.
    secret, at, rest = str(where)[len(_SCHEME) :].partition("@")
    user = secret.partition(":")[0] if at else ""
    place = _PLACE.match(rest if at else secret)
    if place is None or not re.fullmatch(r"[\w.%-]*", user):
        return f"{_SCHEME}..."
    return f"{_SCHEME}{user}{at}{place.group()}"
