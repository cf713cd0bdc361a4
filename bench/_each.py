"""Runs a bench for one network after another, and goes on where an earlier run was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tilewright.cli.boundary import write_json

__all__ = ["each"]


def each(
    names: Iterable[str],
    file: Path,
    bench: Callable[[str], dict[str, Any]],
    enough: Callable[[dict[str, Any]], bool] = lambda entry: True,
) -> dict[str, Any]:
    """What a bench makes of each network. It is written as soon as it is known, and not made again.

    Args:
        names: of the networks.
        file: JSON, with what was made before.
        bench: of a name, what is written.
        enough: whether what was made before will do.

    Returns:
        by name what the file holds now, also of other networks.
    """
    done: dict[str, Any] = json.loads(file.read_text())["networks"] if file.exists() else {}
    for name in names:
        if name not in done or not enough(done[name]):
            done[name] = bench(name)
            write_json(file, {"networks": done})
    return done
