"""Benches that go on where they were stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench._each import each


def test_what_was_made_before_is_kept_and_each_network_is_written_at_once(tmp_path: Path) -> None:
    file, made = tmp_path / "found.json", []

    def bench(name: str) -> dict[str, Any]:
        held = json.loads(file.read_text())["networks"] if file.exists() else {}
        made.append((name, sorted(held)))
        return {"minutes": len(made)}

    each(["one", "two"], file, bench)
    assert each(["three", "two"], file, bench) == {
        "one": {"minutes": 1},
        "two": {"minutes": 2},
        "three": {"minutes": 3},
    }
    each(["one", "three"], file, bench, lambda entry: entry["minutes"] >= 3)
    assert made == [("one", []), ("two", ["one"]), ("three", ["one", "two"]), ("one", ["one", "three", "two"])]
