"""Changes valid files for some seconds, and counts the malformed files that each reader of outside data refuses.

    python -m bench.fuzz --seconds 10
    python -m bench.fuzz --reader ONNX --seconds 300 --engine atheris --keep failures

``tried`` are changed files that are no longer valid. All of these should be ``refused`` with a ``TilewrightError``. A
failure is any other exception, a crash, a hang, or content of wrong types. With the extra ``fuzz`` (atheris) the
reached lines guide the changes; without it they are random.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from bench._malformed import Counts, count
from bench._readers import READERS

__all__ = ["main", "text"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each reader")
    parser.add_argument("--reader", action="append", choices=list(READERS), help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["auto", "own", "atheris"], default="auto")
    parser.add_argument("--keep", type=Path, help="a folder for files that made a reader fail")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    guided = find_spec("atheris") is not None
    engine = ("atheris" if guided else "own") if arguments.engine == "auto" else arguments.engine
    if engine == "atheris" and not guided:
        sys.exit("atheris is not installed; install it with: pip install 'tilewright[fuzz]', or leave --engine out")
    names = arguments.reader or list(READERS)
    found = count(arguments.seconds * len(names), names, arguments.seed, engine=engine, keep=arguments.keep)
    print(text(found))
    print(f"{arguments.seconds:g} s for each reader, engine {engine}, seed {arguments.seed}")
    if arguments.json is not None:
        report = {
            "engine": engine,
            "seconds": arguments.seconds,
            "seed": arguments.seed,
            "date": time.strftime("%Y-%m-%d"),
            "readers": {name: vars(counts) for name, counts in found.items()},
            "malformed_tried": sum(counts.malformed_tried for counts in found.values()),
            "malformed_refused": sum(counts.malformed_refused for counts in found.values()),
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(any(counts.failures for counts in found.values()))


def text(found: dict[str, Counts]) -> str:
    """A row for each reader, and the failures below."""
    lines = [f"{'reader':26}{'malformed_tried':>16}{'malformed_refused':>19}{'still valid':>13}{'failures':>10}"]
    for name, counts in found.items():
        row = (counts.malformed_tried, counts.malformed_refused, counts.still_valid, len(counts.failures))
        lines.append(f"{name:26}{row[0]:>16}{row[1]:>19}{row[2]:>13}{row[3]:>10}")
    for name, counts in found.items():
        lines += [f"{name}: {failure}" for failure in sorted(set(counts.failures))[:20]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
