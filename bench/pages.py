r"""Writes the tables of results pages from the JSON files of the benches, so that no figure is copied by hand.

    python -m bench.pages            # write the tables into the pages
    python -m bench.pages --check    # say which pages differ, and end with 1 if one does
    python -m bench.pages --keep luck.json --machine 'AMD EPYC (Zen 4, AVX-512), 2 cores' \
        --command 'python -m bench.luck --json luck.json'

``--keep`` puts what a bench wrote with ``--json`` into ``docs/results/data``, with the machine, the date and the
commands. In a page the table stands between two comments::

    <!-- table luck: written by bench.pages -->
    ...
    <!-- end of table -->

``bench/_page_tables.py`` says how each table is made of its file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path

from bench._page_tables import read_data
from tilewright.cli.boundary import write_json

PAGES = Path(__file__).parents[1] / "docs" / "results"
_TABLE = re.compile(r"(<!-- table ([\w-]+): written by bench\.pages -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)


def fill(page: str, data: Path) -> str:
    """The text of a page with its tables made anew.

    Args:
        page: the text.
        data: the folder of the JSON files.

    Raises:
        KeyError: a table that nothing makes.
        OSError: the file of a table is not there.
    """
    return _TABLE.sub(lambda found: found[1] + read_data(data / f"{found[2]}.json").table + found[4], page)


def keep(file: Path, data: Path, machine: str, commands: list[str]) -> Path:
    """Put what a bench wrote beside the others, and return its place.

    Args:
        file: what the bench wrote.
        data: the folder of the JSON files.
        machine: what it was measured on: processor, instruction set, cores.
        commands: what was run.
    """
    figures = json.loads(file.read_text(encoding="utf-8"))
    date = str(figures.pop("date", time.strftime("%Y-%m-%d")))[:10]
    place = data / file.name
    about = {"machine": machine, "date": date, "commands": commands, "figures": figures}
    write_json(place, about)
    return place


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="take over what a bench wrote with --json")
    parser.add_argument("--machine", help="with --keep: processor, instruction set, cores")
    parser.add_argument("--command", action="append", default=[], help="with --keep: what was run; may be repeated")
    arguments = parser.parse_args(given)
    if arguments.keep is not None:
        if not arguments.machine or not arguments.command:
            parser.error("--keep needs --machine and --command")
        print(f"kept as {keep(arguments.keep, PAGES / 'data', arguments.machine, arguments.command)}")
        return
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
