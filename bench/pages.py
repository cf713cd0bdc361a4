"""Writes the tables of results pages from the JSON files of the benches, so that no figure is copied by hand.

    python -m bench.pages            # write the tables into the pages
    python -m bench.pages --check    # say which pages differ, and end with 1 if one does

``docs/results/data/NAME.json`` is what a bench wrote with ``--json``. In a page the table stands between two comments::

    <!-- table NAME: written by bench.pages -->
    ...
    <!-- end of table -->

:data:`TABLES` says how each table is made of its file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tilewright.jsonable import Json, JsonObject

PAGES = Path(__file__).parents[1] / "docs" / "results"
_TABLE = re.compile(r"(<!-- table ([\w-]+): written by bench\.pages -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
#: The networks of ``bench.export --elsewhere`` for people.
_NETWORKS = {
    "squeezenet": "SqueezeNet (random weights, before softmax)",
    "shufflenet": "ShuffleNet (random weights, before softmax)",
    "small ResNet": "a ResNet of three blocks",
    "attention": "attention: 2 x 64 tokens, 4 heads of 32",
    "LSTM": "LSTM: bidirectional, 48 units",
}


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, each line with its end."""
    first, *rest = (f"| {' | '.join(line)} |\n" for line in (head, *rows))
    return first + "|---" * len(head) + "|\n" + "".join(rest)


def fill(page: str, data: Path) -> str:
    """The text of a page with its tables made anew.

    Args:
        page: the text.
        data: the folder of the JSON files.

    Raises:
        KeyError: a table that nothing makes.
        OSError: the file of a table is not there.
    """

    def make(found: re.Match[str]) -> str:
        about: JsonObject = json.loads((data / f"{found[2]}.json").read_text(encoding="utf-8"))
        return found[1] + TABLES[found[2]](about) + found[4]

    return _TABLE.sub(make, page)


def _elsewhere(about: JsonObject) -> str:
    networks = about["networks"]
    assert isinstance(networks, dict)
    rows = []
    for name, row in networks.items():
        assert isinstance(row, dict)
        rows.append([_NETWORKS.get(name, name), f"{_number(row['error']):.1e}", f"{_number(row['tasks']):.0f}"])
    return markdown(["network", "error", "tasks"], rows)


def _number(value: Json) -> float:
    assert isinstance(value, int | float)
    return float(value)


#: What makes the Markdown of a table out of its file, by the file's name.
TABLES: dict[str, Callable[[JsonObject], str]] = {"export-elsewhere": _elsewhere}


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args(given)
    different = []
    for path in sorted(PAGES.glob("*.md")):
        page = path.read_text(encoding="utf-8")
        filled = fill(page, PAGES / "data")
        if filled != page:
            different.append(path.name)
            if not arguments.check:
                path.write_text(filled, encoding="utf-8")
    for name in different:
        print(f"{name}: {'differs from its JSON files; run python -m bench.pages' if arguments.check else 'written'}")
    if arguments.check and different:
        sys.exit(1)


if __name__ == "__main__":
    main()
