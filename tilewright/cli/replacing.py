"""Files that a command replaces: those that it wrote itself before, and no others."""

from __future__ import annotations

from pathlib import Path

from tilewright.errors import OutputError

__all__ = ["check_replaced"]


def check_replaced(path: Path, option: str, kind: str, begins: bytes) -> None:
    """Refuse to replace a file that this command cannot have written, such as the records that it reads.

    Args:
        path: the file that is to be written. It may be missing or empty, and it may be no file, such as a terminal.
        option: that names it, for the message.
        kind: what the command writes, in the plural.
        begins: the first bytes of each file of this kind, in lower case.

    Raises:
        OutputError: the file holds something else.
    """
    try:
        if not path.is_file() or not path.stat().st_size:
            return
        with path.open("rb") as file:
            head = file.read(64).lstrip().lower()
    except OSError:
        return  # writing it says why
    if not head.startswith(begins):
        raise OutputError(f"{option} replaces earlier {kind} only, but {path} is something else; name another file")
