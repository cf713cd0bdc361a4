"""Finished executables of parts, kept on disk beside the records, so that the next run has them at once.

Loading them needs neither TVM nor another process. Whether one was proven is noted beside it (``KEY.proven``).
The key of an executable holds all that it depends on: the part's
graph, the layouts of its tensors, the machine, the number of threads, and versions. So executables of another machine
or another version are never found. A damaged executable is not loaded, and is written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.errors import TilewrightError
from tilewright.executable.executable import Executable, load_executable
from tilewright.executable.manifest import NAME
from tilewright.executable.program import PlanProgram
from tilewright.frontend.torch.part import Layout
from tilewright.processor import cache_sizes, model_name
from tilewright.records.address import is_url
from tilewright.training.arena import find_arena
from tilewright.training.options import Options
from tilewright.training.orders import KernelTask

if TYPE_CHECKING:
    from torch import fx

__all__ = ["ENTRY", "Cached", "KeptProof", "find_folder", "keep_proof", "key_of", "load_cached", "remove_oldest"]

#: The entry of a manifest that says how long the kernels were tuned.
ENTRY = "training"
#: What a cached executable depends on; changes if its meaning does.
_FORMAT = 2
#: The executables that are kept. One of a large part has some megabytes. (A choice.)
_MOST = 256


@dataclass(frozen=True)
class Cached:
    """An executable from the cache.

    Attributes:
        executable: the executable.
        spent: the budgets in seconds that were spent on its kernels so far.
        tasks: what its kernels compute, by their names.
        proof: that an earlier run has kept of it; None: it was not proven there.
    """

    executable: Executable
    spent: float
    tasks: Mapping[str, KernelTask]
    proof: KeptProof | None = None


@dataclass(frozen=True)
class KeptProof:
    """That an executable was proven, and used after that, by an earlier run on this machine.

    Attributes:
        worst: the largest difference from PyTorch's results, relative to the largest number of a result.
        their_seconds: that the part took in PyTorch's kernels; NaN: not known.
    """

    worst: float
    their_seconds: float


def find_folder(options: Options) -> Path | None:
    """The folder of kept executables; None: none are kept, because the records are in memory or on a server."""
    records = options.records
    with contextlib.suppress(TilewrightError):
        if records is not None and not is_url(records):
            return Path(f"{records}.executables")
    return None


def key_of(module: fx.GraphModule, inputs: tuple[Layout, ...], outputs: tuple[Layout, ...], threads: int) -> str:
    """The name of a part's executable.

    Args:
        module: the part's graph.
        inputs: the layouts of what it takes.
        outputs: the layouts of what it gives.
        threads: the number of threads that it runs on.
    """
    numbers = {node: str(number) for number, node in enumerate(module.graph.nodes)}
    lines = []
    for node in module.graph.nodes:
        from torch.fx.node import map_arg

        named = map_arg((node.args, node.kwargs), lambda used: f"%{numbers[used]}")
        lines.append(f"{node.op} {node.target if node.op != 'placeholder' else ''} {named}")
        if node.op == "get_attr":
            value = getattr(module, str(node.target))
            lines.append(hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest())
    layouts = [[layout.shape, layout.strides, layout.dtype, layout.block] for layout in (*inputs, *outputs)]
    text = json.dumps([_FORMAT, lines, len(inputs), layouts, threads, *_surroundings()])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def _surroundings() -> tuple[object, ...]:
    """The machine, and the versions of what makes executables."""
    versions = []
    for package in ("tilewright", "torch", "apache-tvm"):
        try:
            versions.append(version(package))
        except PackageNotFoundError:
            versions.append("")
    return (model_name(), cache_sizes(), versions)


def load_cached(folder: Path, key: str, threads: int) -> Cached | None:
    """The executable of a part; None: there is none that can be used."""
    if not (folder / key).is_dir():
        return None
    try:
        executable = load_executable(folder / key, threads, find_arena())
        if not isinstance(executable.program, PlanProgram):
            return None
        entry = executable.manifest.get(ENTRY)
        entry = entry if isinstance(entry, dict) else {}
        spent = entry.get("spent")
        tasks = dict(_read_tasks(entry.get("kernels")))
        spent = float(spent) if isinstance(spent, int | float) else 0.0
        return Cached(executable, spent, tasks, _read_proof(folder, key, executable))
    except (TilewrightError, OSError, MemoryError):
        return None


def _read_tasks(entry: object) -> Iterator[tuple[str, KernelTask]]:
    """What kernels compute, from the entry of a manifest. Earlier versions have not written it."""
    for kernel, about in entry.items() if isinstance(entry, dict) else ():
        if isinstance(about, list) and len(about) == 2 and isinstance(about[1], int | float):
            yield kernel, KernelTask(str(about[0]), float(about[1]))


def keep_proof(folder: Path, key: str, executable: Executable, proof: KeptProof) -> None:
    """Note that an executable was proven, so that the next run need not do it. If that fails, it is proven again.

    Args:
        folder: of kept executables.
        key: of the part.
        executable: which runs. The kept one is used without a proof if it is the same.
        proof: what is noted.
    """
    entry = {"executable": _digest(executable), "worst": proof.worst, "their_seconds": proof.their_seconds}
    path = _proof_of(folder, key)
    part = path.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        try:
            part.write_text(json.dumps(entry), encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _read_proof(folder: Path, key: str, executable: Executable) -> KeptProof | None:
    """The proof that was noted of an executable; None: there is none, or it is that of another executable."""
    with contextlib.suppress(OSError, ValueError):
        entry = json.loads(_proof_of(folder, key).read_text(encoding="utf-8"))
        if isinstance(entry, dict) and entry.get("executable") == _digest(executable):
            worst, theirs = entry.get("worst"), entry.get("their_seconds")
            if isinstance(worst, int | float) and isinstance(theirs, int | float):
                return KeptProof(float(worst), float(theirs))
    return None


def _proof_of(folder: Path, key: str) -> Path:
    return folder / f"{key}.proven"


def _digest(executable: Executable) -> str:
    """What an executable computes, as a hash: its plan, and the checksums of its files."""
    manifest = executable.manifest
    files = {name: checksum for name, checksum in manifest["sha256"].items() if name != NAME}
    return hashlib.sha256(json.dumps([manifest["plan"], files], sort_keys=True).encode()).hexdigest()


def remove_oldest(folder: Path) -> None:
    """Remove the executables that were written first, until there are at most 256."""
    with contextlib.suppress(OSError):
        entries = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
        for path in entries[: max(0, len(entries) - _MOST)]:
            shutil.rmtree(path, ignore_errors=True)
            _proof_of(folder, path.name).unlink(missing_ok=True)
