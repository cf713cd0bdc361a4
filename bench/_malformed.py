"""Gives malformed files to every reader of the package, and counts the outcomes.

A changed file is refused with a ``TilewrightError``, or is still valid: a byte of a comment changes nothing, and a
config of other numbers is a config. Anything else is a failure: another exception, a crash, a hang, excessive memory,
or content of wrong types. Other scripts call :func:`count`.
"""

from __future__ import annotations

import contextlib
import math
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench._mutated import mutated
from bench._readers import READERS, Reader
from tilewright.errors import OutputError, TilewrightError

__all__ = ["Counts", "count", "read_one"]

#: A single file may take so long to read; a process so much memory beyond what it has when it begins.
_HANG_SECONDS, _MEMORY = 60, 4 << 30


@dataclass
class Counts:
    """What came of the files of one reader.

    Attributes:
        malformed_tried: changed files that are not valid any more.
        malformed_refused: those of them that were refused with a ``TilewrightError``.
        still_valid: changed files that were read, and rightly so.
        failures: for each other file what happened, and why the reader was not tried to its end.
        seconds: for which it was tried.
    """

    malformed_tried: int = 0
    malformed_refused: int = 0
    still_valid: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, said: str) -> None:
        """Count what :func:`read_one` said."""
        self.still_valid += said == "valid"
        self.malformed_tried += said != "valid"
        self.malformed_refused += said == "refused"
        if said not in ("valid", "refused"):
            self.failures.append(said)


def read_one(reader: Reader, path: Path, content: bytes) -> str:
    """Put ``content`` in the place of a valid file and read it: ``refused``, ``valid``, or what went wrong instead."""
    path.write_bytes(content)
    if reader.resealed is not None:
        reader.resealed(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
    except TilewrightError as exc:
        if isinstance(exc, OutputError) and isinstance(exc.__cause__, MemoryError):  # of an executable
            return f"memory was taken before its size was known: {str(exc)[:200]}"
        return "refused" if str(exc) else "an error without a message"
    except Exception as exc:
        return f"{type(exc).__name__}: {next(iter(str(exc).splitlines()), '')[:200]}"
    return "valid"


def count(
    seconds: float,
    readers: Sequence[str] | None = None,
    seed: int = 0,
    *,
    engine: str = "own",
    keep: Path | None = None,
    most: float = math.inf,
) -> dict[str, Counts]:
    """Try malformed files with each reader, each in a process of its own, for ``seconds`` altogether.

    Starting a process and importing a compiler (up to 10 s for each) comes on top.

    Args:
        seconds: shared evenly by the readers.
        readers: names in ``READERS``; by default all.
        seed: of the changes.
        engine: ``own``: changes of :func:`mutated`. ``atheris``: coverage-guided, where it is installed.
        keep: a folder for files that made a reader fail.
        most: seconds, imports included. Where the imports of a busy machine leave less of it, the readers that are left
            share what there is. After a tenth more no other reader is begun, and those that are left fail.
    """
    began = time.monotonic()
    names = list(READERS) if readers is None else list(readers)
    found: dict[str, Counts] = {}
    with tempfile.TemporaryDirectory(prefix="tilewright-fuzz-") as folder:
        starting = 0.0  # the most that one has taken besides
        for number, name in enumerate(names):
            begin = time.monotonic()
            left = began + most - begin
            if left < -0.1 * most:
                found[name] = Counts(failures=["no time was left to try it"])
                continue
            share = min(seconds / len(names), max(1.0, left / (len(names) - number) - starting))
            found[name] = _count_one(name, share, seed, Path(folder), engine, keep)
            starting = max(starting, time.monotonic() - begin - found[name].seconds)
    return found


def _count_one(name: str, seconds: float, seed: int, folder: Path, engine: str, keep: Path | None) -> Counts:
    counts, left = Counts(), seconds
    while left > 0.01 * seconds:
        place = folder / f"{len(list(folder.iterdir()))}"
        place.mkdir()
        command = [sys.executable, "-m", "bench._malformed", name, str(left), str(seed), str(place), engine]
        with (place / "said").open("w") as said, (place / "errors").open("w") as errors:
            done = subprocess.run(command, stdout=said, stderr=errors, check=False)
        ended = time.monotonic()
        lines = (place / "said").read_text().splitlines()
        began = next((float(line.split()[1]) for line in lines if line.startswith("ready ")), None)
        if began is None:  # that of the other readers is found out all the same
            lines += (place / "errors").read_text(errors="replace").splitlines()
            counts.failures.append(f"it cannot be tried: {' '.join(lines)[-1000:]} (code {done.returncode})")
            break
        for line in lines:
            kind, _, text = line.partition(" ")
            if kind in ("valid", "refused", "failed"):
                counts.add(text if kind == "failed" else kind)
                if kind == "failed":
                    _keep(place, keep, name, len(counts.failures))
            elif kind == "unusable":
                counts.failures.append(text)
        counts.seconds += ended - began
        if done.returncode == 0:
            break
        hung = done.returncode == -signal.SIGALRM
        counts.add(f"took more than {_HANG_SECONDS} s" if hung else f"the process ended with code {done.returncode}")
        _keep(place, keep, name, len(counts.failures))
        # What is left is tried in another process; with the same seed it would crash there again.
        left, seed = left - max(ended - began, seconds / 8), seed + 1_000_003
        shutil.rmtree(place)
    return counts


def _keep(place: Path, keep: Path | None, name: str, number: int) -> None:
    if keep is not None and (place / "now").is_file():
        keep.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place / "now", keep / f"{name.replace(' ', '-').replace(',', '')}-{number}")


def main(name: str, seconds: float, seed: int, folder: Path, engine: str) -> None:
    """The process's side: make a valid file, then change and read it until the time is over."""
    reader = READERS[name]
    with _instrumented(engine):
        path = reader.make(folder)
        valid = path.read_bytes()
        said = read_one(reader, path, valid)  # imports what is slow to import
    if said != "valid":
        print(f"a valid file is not read: {said}")
        sys.exit(3)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
    print("ready", time.monotonic(), flush=True)
    end = time.monotonic() + seconds

    def attempt(content: bytes) -> None:
        (folder / "now").write_bytes(content)
        signal.alarm(_HANG_SECONDS)
        said = read_one(reader, path, content)
        signal.alarm(0)
        print(
            said if said in ("valid", "refused") else f"failed {said.encode('ascii', 'replace').decode()}", flush=True
        )

    if engine == "atheris":
        _guided(attempt, valid, folder, seconds, seed)
        return
    rng = random.Random(seed)
    while time.monotonic() < end:
        attempt(mutated(valid, rng))
    # What was read before must leave memory and all else for what comes after, or refusals say nothing.
    if (said := read_one(reader, path, valid)) != "valid":
        print(
            f"unusable after these files a valid one is not read any more: {said.encode('ascii', 'replace').decode()}"
        )


def _guided(attempt: Callable[[bytes], None], valid: bytes, folder: Path, seconds: float, seed: int) -> None:
    """Let atheris choose the changes by the lines of the package that they reach."""
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "valid").write_bytes(valid)

    def change(content: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        return (atheris.Mutate(content, most) if rng.random() < 0.3 else mutated(content, rng))[:most]

    options = [f"-max_total_time={max(1, round(seconds))}", f"-seed={seed + 1}", f"-max_len={4 * len(valid)}"]
    arguments = [sys.argv[0], *options, "-timeout=0", "-rss_limit_mb=0", f"-artifact_prefix={folder}/", str(corpus)]
    atheris.Setup(arguments, attempt, custom_mutator=change)
    atheris.Fuzz()


def _instrumented(engine: str) -> contextlib.AbstractContextManager[Any]:
    """Where atheris is to know which lines are reached, the package's modules are imported inside of this."""
    if engine != "atheris":
        return contextlib.nullcontext()
    import atheris

    return atheris.instrument_imports(include=["tilewright"])  # type: ignore[no-any-return]


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
