"""Executables of Tilewright with one mistake in a kernel, in the packed weights, or in the plan of calls.

The mistakes are those of a wrong schedule, a wrong packing or a wrong planner. A kernel is changed in its TVMScript and
compiled again. Weights and plan are changed in the files.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilewright.compiling.build import build, replace_kernels
from tilewright.compiling.kernels import Kernels
from tilewright.errors import CompilerError
from tilewright.executable.manifest import NAME, WEIGHTS, read_manifest, seal
from tilewright.executable.plan import PlanJson
from tilewright.frontend.network import Network
from tilewright.graph.convolution import Algorithm, Convolution
from tilewright.graph.tasks import Extraction, extract
from tilewright.ops.registry import make_space
from tilewright.target import Target

__all__ = ["Built", "Default", "built_mutants"]

_Rewrite: TypeAlias = Callable[[str, "_Kernel"], str | None]


@dataclass(frozen=True)
class Built:
    """An executable with one mistake.

    Attributes:
        kind: the mistake.
        site: the kernel, weight or call that has it.
        path: the executable's directory.
    """

    kind: str
    site: str
    path: Path


@dataclass(frozen=True)
class _Kernel:
    """What a change of a kernel's text must know: its output, and operands of the same shape that are no weights."""

    output: str
    shape: tuple[int, ...]
    dtype: str
    residuals: tuple[str, ...]


class Default:
    """A network that is built with default schedules.

    Args:
        network: the network.
        target: what for.
        folder: an empty directory for its files.
        algorithm: how to compute the convolutions that it can compute; the others directly.

    Attributes:
        path: the executable's directory.
        tasks: how many tasks it has.
        extracting: seconds that extracting the tasks took.
        seconds: what scheduling, compiling and writing took.
    """

    def __init__(
        self,
        network: Network,
        target: Target,
        folder: Path,
        algorithm: Algorithm = "direct",
    ) -> None:
        self._folder = folder
        begin = time.monotonic()
        extraction = extract(network, target)
        if algorithm != "direct":
            extraction = extract(network, target, dict.fromkeys(_computed_by(algorithm, extraction), algorithm))
        self.extracting = time.monotonic() - begin
        self._functions: dict[str, Any] = {}
        for use in extraction.uses:
            space = make_space(use.task, target)
            self._functions[use.task.key] = space.schedule(space.default()).mod["main"]
        self._extraction = extraction
        self._kernels = Kernels(extraction, folder / "objects")
        self.path = folder / "executable"
        build(extraction, self._functions, self.path, {}, self._kernels)
        self.seconds = time.monotonic() - begin
        self.tasks = len(extraction.uses)
        #: Convolutions that the algorithm computes.
        self.convolutions = len(_computed_by(algorithm, extraction))
        self.planned = extraction.plan is not None

    def texts(self) -> Iterator[tuple[str, str, str, _Kernel]]:
        """The kernels: task key, name, TVMScript, and what is known of them."""
        for use in self._extraction.uses:
            function = self._functions[use.task.key]
            params = list(function.params)
            weights = {int(i) for i in re.findall(r"\d+", str((function.attrs or {}).get("tilewright.weights", "")))}
            shapes = [tuple(int(d) for d in p.ty.shape) for p in params]
            alike = tuple(
                p.name for i, p in enumerate(params[:-1]) if i > 0 and i not in weights and shapes[i] == shapes[-1]
            )
            kernel = _Kernel(params[-1].name, shapes[-1], str(params[-1].ty.dtype), alike)
            yield use.task.key, use.functions[0], function.script(), kernel

    def with_kernel(self, key: str, text: str, out: Path) -> None:
        """Write the executable with another program for a task.

        Raises:
            CompilerError: it cannot be compiled.
        """
        import tvm

        try:
            function = tvm.script.from_source(text)
        except Exception as exc:  # the parser raises what it likes
            raise CompilerError(f"the changed kernel is no TVMScript: {exc}") from exc
        library = self._kernels.library(self._functions | {key: function}, self._folder / f"{out.name}.so")
        replace_kernels(self.path, library, out)

    def with_files(
        self, out: Path, weights: Mapping[str, NDArray[Any]] | None = None, plan: PlanJson | None = None
    ) -> None:
        """Write the executable with other weights or another plan."""
        shutil.copytree(self.path, out)
        manifest = read_manifest(out)
        names = sorted(name for name in manifest["sha256"] if name != NAME)
        if weights is not None:
            with np.load(self.path / WEIGHTS) as held:
                arrays = {name: weights.get(name, held[name]) for name in held.files}
            named: dict[str, Any] = arrays
            np.savez(out / WEIGHTS, **named)
        if plan is not None:
            manifest["plan"] = plan
        (out / NAME).write_text(seal(manifest, out, names), encoding="utf-8")

    def weights(self) -> dict[str, NDArray[Any]]:
        """The packed weights by name."""
        with np.load(self.path / WEIGHTS) as held:
            return {name: held[name] for name in held.files}

    def plan(self) -> PlanJson:
        """The plan, as the manifest has it."""
        found = read_manifest(self.path)["plan"]
        assert found is not None
        return found


def _computed_by(algorithm: Algorithm, extraction: Extraction) -> list[Convolution]:
    """The different convolutions that an algorithm can compute."""
    return [conv for conv, _ in extraction.rewritten.convolutions if algorithm in conv.algorithms]


def built_mutants(default: Default, folder: Path, seed: int = 0) -> Iterator[Built]:
    """One executable of each kind of mistake that is possible, at a place drawn by chance; none outlives its turn."""
    rng = np.random.default_rng(seed)
    for number, (kind, site, write) in enumerate(_possible(default, rng)):
        out = folder / f"mutant{number}"
        write(out)
        yield Built(kind, site, out)
        shutil.rmtree(out)


def _possible(default: Default, rng: np.random.Generator) -> Iterator[tuple[str, str, Callable[[Path], None]]]:
    """The mistakes: kind, site, and what writes the executable."""
    kernels = list(default.texts())
    for kind, rewrite in _REWRITES.items():
        for place in rng.permutation(len(kernels)):
            key, name, text, kernel = kernels[place]
            made = rewrite(text, kernel)
            if made is not None:
                yield kind, name, _bound(default.with_kernel, key, made)
                break
    if not default.planned:
        return
    weights = default.weights()
    packed = [name for name, array in weights.items() if array.ndim >= 3 and array.dtype == np.float32]
    for kind, change in _PACKINGS.items():
        for place in rng.permutation(len(packed)):
            array = weights[packed[place]]
            changed = change(array)
            if not np.array_equal(changed, array):
                made_weights = {packed[place]: np.ascontiguousarray(changed)}
                yield kind, packed[place], _bound(default.with_files, weights=made_weights)
                break
    plan = default.plan()
    for kind, replan in _PLANS.items():
        found = replan(plan, rng)
        if found is not None:
            yield kind, found[0], _bound(default.with_files, plan=found[1])


def _bound(write: Callable[..., None], *first: Any, **named: Any) -> Callable[[Path], None]:
    return lambda out: write(*first, out, **named)


def _short_loop(text: str, kernel: _Kernel) -> str | None:
    """The last parallel loop ends one step too early, so a tile of each of its turns is not written."""
    found = [m for m in re.finditer(r"T\.parallel\((\d+)\)", text) if int(m[1]) > 1]
    return None if not found else _exchanged(text, found[-1], f"T.parallel({int(found[-1][1]) - 1})")


def _short_reduction(text: str, kernel: _Kernel) -> str | None:
    """The last step of a loop of the reduction is left out."""
    found = re.search(r"for (rc[^:\n]*) in T\.grid\(([^)]*)\)", text)
    if found is None:
        return None
    extents = [int(e) for e in found[2].split(",")]
    places = [i for i, e in enumerate(extents) if e > 1]
    if not places:
        return None
    extents[places[-1]] -= 1
    return _exchanged(text, found, f"for {found[1]} in T.grid({', '.join(map(str, extents))})")


def _zero_tile(text: str, kernel: _Kernel) -> str | None:
    """A tile of the output is written once more, with zeros."""
    if kernel.dtype != "float32" or "T.float32" not in text:
        return None
    rows, lanes = ([1, *kernel.shape])[-2:]
    extents = min(4, rows), min(16, lanes)
    index = ["0"] * (len(kernel.shape) - 2) + ["tile_0", "tile_1"][-len(kernel.shape) :]
    loop = f"    for tile_0, tile_1 in T.grid({extents[0]}, {extents[1]}):\n"
    return f"{text.rstrip()}\n{loop}        {kernel.output}[{', '.join(index)}] = T.float32(0.0)\n"


def _residual_lost(text: str, kernel: _Kernel) -> str | None:
    """A residual is taken for zeros."""
    lines = text.splitlines()
    for name in kernel.residuals:
        pattern = re.compile(rf"(?<![\w.]){re.escape(name)}\[[^\]]*\]")
        for number in reversed(range(len(lines))):
            head, equals, tail = lines[number].partition(" = ")
            if equals and head.strip().startswith(f"{kernel.output}[") and pattern.search(tail):
                lines[number] = head + equals + pattern.sub("T.float32(0.0)", tail)
                return "\n".join(lines) + "\n"
    return None


def _relu_lost(text: str, kernel: _Kernel) -> str | None:
    """What is below zero stays."""
    found = list(re.finditer(r"T\.max\((.*), T\.float32\(0\.0\)\)$", text, re.MULTILINE))
    return None if not found else _exchanged(text, found[-1], f"({found[-1][1]})")


def _late_edge(text: str, kernel: _Kernel) -> str | None:
    """The padding is one row too wide."""
    found = re.search(r"\b1 <= (v_\w+)", text)
    return None if found is None else _exchanged(text, found, f"2 <= {found[1]}")


def _exchanged(text: str, found: re.Match[str], new: str) -> str:
    return text[: found.start()] + new + text[found.end() :]


_REWRITES: dict[str, _Rewrite] = {
    "kernel: last turn of a loop missing": _short_loop,
    "kernel: last step of a reduction missing": _short_reduction,
    "kernel: one wrong tile": _zero_tile,
    "kernel: residual lost": _residual_lost,
    "kernel: activation lost": _relu_lost,
    "kernel: padding too wide": _late_edge,
}
_PACKINGS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "packing: weights negated": lambda array: -array,
    "packing: blocks of channels exchanged": lambda array: np.roll(array, 1, 0),
    "packing: lanes off by one": lambda array: np.roll(array, 1, -1),
    "packing: rows off by one": lambda array: np.roll(array, 1, -2),
}


def _call_missing(plan: Mapping[str, Any], rng: np.random.Generator) -> tuple[str, dict[str, Any]] | None:
    calls = list(plan["calls"])
    place = int(rng.integers(len(calls)))
    return calls[place][0] or "copy", {**plan, "calls": calls[:place] + calls[place + 1 :]}


def _other_tensor(region: str) -> Callable[[Mapping[str, Any], np.random.Generator], tuple[str, dict[str, Any]] | None]:
    """A kernel reads another tensor of the same region and shape than it should."""

    def replan(plan: Mapping[str, Any], rng: np.random.Generator) -> tuple[str, dict[str, Any]] | None:
        tensors, calls = plan["tensors"], [[kernel, list(numbers)] for kernel, numbers in plan["calls"]]
        possible = [
            (place, i, other)
            for place, (kernel, numbers) in enumerate(calls)
            for i, number in enumerate(numbers[:-1])
            for other, tensor in enumerate(tensors)
            if kernel
            and tensors[number][0] == tensor[0] == region
            and tensors[number][2:] == tensor[2:]
            and tensors[number][1] != tensor[1]
            and other != numbers[-1]
        ]
        if not possible:
            return None
        place, i, other = possible[rng.integers(len(possible))]
        calls[place][1][i] = other
        return calls[place][0], {**plan, "calls": calls}

    return replan


_PLANS: dict[str, Callable[[Mapping[str, Any], np.random.Generator], tuple[str, dict[str, Any]] | None]] = {
    "plan: a call missing": _call_missing,
    "plan: operand of another place": _other_tensor("arena"),
    "plan: weights of another layer": _other_tensor("weights"),
}
