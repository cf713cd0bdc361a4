"""Where a store is: in a file, or on a server. Light, so that the command line can tell before anything is opened."""

from __future__ import annotations

import re
from pathlib import Path

from tilewright.errors import RecordsError

__all__ = ["is_url", "shown"]

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


def shown(where: str | Path) -> str:
    """``where`` for messages: of a URL only user, host, port and database, for its options may be secrets too."""
    if not is_url(where):
        return str(where)
    # The password ends with the first @, whatever else is in it: so SQLAlchemy reads it.
    secret, at, rest = str(where)[len(_SCHEME) :].partition("@")
    user = secret.partition(":")[0] if at else ""
    place = _PLACE.match(rest if at else secret)
    if place is None or not re.fullmatch(r"[\w.%-]*", user):
        return f"{_SCHEME}..."
    return f"{_SCHEME}{user}{at}{place.group()}"
