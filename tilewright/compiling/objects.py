"""Object files of kernels: each program is compiled once, on all cores, in the background if that is asked for.

A store on disk may keep them, so that another process need not compile them again.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.errors import CompilerError, TilewrightError
from tilewright.measure.memory import memory_error
from tilewright.scratch import check_space, explained
from tilewright.target import Target
from tilewright.tvm_compat import keep_nan, lean_kernels
from tilewright.wording import describe_error

if TYPE_CHECKING:
    from tvm import runtime, tirx, transform

__all__ = ["Objects", "SharedObjects", "checked_kernels", "translate_errors"]

#: Characters of the name of a file in memory. The name is for people only.
_MOST_NAME = 100
#: Characters that are kept of a kernel's name. It lists all fused operators, but names of files have at most 255 bytes.
_LONGEST_NAME = 120
#: What a kept object file depends on besides its program and versions; changes if kernels are compiled in another way.
_FORMAT = 1
#: Programs in an object file, at least and at most. Each file costs 13 ms, each program 3 ms and what its code takes.
_FEWEST, _MOST = 4, 10
#: Files that are made of programs that are used together, unless they would be too small. (A choice: with fewer of
#: them, the cores do not end at the same time.)
_FILES = 32
#: Object files that are kept. One has about 10 KB. (A choice.)
_MOST_KEPT = 8192


class Objects:
    """Compiles programs into object files, each once. Programs that are used together are compiled in groups.

    Args:
        folder: the directory for object files, which must exist as long as this object is used. It is made if needed.
        target: what they are compiled for.

    Attributes:
        are_archived: whether a library's object files are kept beside it, so that a C library can be linked from them.
    """

    are_archived = True

    def __init__(self, folder: Path, target: Target) -> None:
        self._folder, self._target = folder, target
        self._paths: dict[str, Path] = {}
        self._begun: dict[str, Future[Path]] = {}
        self._pool: ThreadPoolExecutor | None = None

    @property
    def folder(self) -> Path:
        """The directory for object files."""
        return self._folder

    @property
    def begun(self) -> tuple[Future[Path], ...]:
        """The files that are being compiled in the background, or were and are not asked for yet: one a program."""
        return tuple(self._begun.values())

    def symbol(self, kernel: str, function: tirx.PrimFunc) -> str:
        """The name that a program of a kernel has in a library: the kernel's, and a number made of the program."""
        return f"{kernel[:_LONGEST_NAME]}_{_number(function) & 0xFFFFFFFF:08x}"

    def begin(self, programs: Mapping[str, tirx.PrimFunc]) -> None:
        """Begin to compile programs that will be used together, each under its name, and do not wait for them.

        Programs of earlier calls come first. :meth:`compile` raises the errors of compiling.

        Raises:
            ResourceError: the disk is full.
        """
        with translate_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        left = {symbol: f for symbol, f in programs.items() if symbol not in self._paths and symbol not in self._begun}
        if left and self._pool is None:  # TVM releases the interpreter's lock while it compiles: threads use all cores
            self._pool = ThreadPoolExecutor(self._target.cores, "tilewright-compiling")
        for group in self._divide(left):
            assert self._pool is not None
            made = self._pool.submit(self._make, {symbol: left[symbol] for symbol in group})
            self._begun |= dict.fromkeys(group, made)

    def compile(self, programs: Mapping[str, tirx.PrimFunc]) -> dict[str, Path]:
        """The object files of programs, each under its name.

        Raises:
            CompilerError: compiling failed.
            ResourceError: memory is missing, or the disk is full.
        """
        with translate_errors(self._folder):
            try:
                for symbol, function in programs.items():
                    self.begin({symbol: function})
                for symbol in programs:
                    if symbol in self._begun:
                        self._paths[symbol] = self._begun.pop(symbol).result()
            except BaseException:
                self._begun.clear()  # nobody may write to the directory after this
                raise
            finally:
                if not self._begun and self._pool is not None:
                    self._pool.shutdown(cancel_futures=True)
                    self._pool = None
        return {symbol: self._paths[symbol] for symbol in programs}

    def _divide(self, symbols: Iterable[str]) -> list[list[str]]:
        """Groups of programs, each of which becomes one object file; small ones where cores would be idle otherwise."""
        symbols = list(symbols)
        each = max(1, math.ceil(len(symbols) / self._target.cores))
        size = min(max(_FEWEST, len(symbols) // _FILES), _MOST, each)
        return [symbols[begin : begin + size] for begin in range(0, len(symbols), size)]

    def _make(self, programs: Mapping[str, tirx.PrimFunc]) -> Path:
        """Compile programs into an object file. Runs in a thread of the pool."""
        return self._write(programs, checked_kernels())

    def _write(self, programs: Mapping[str, tirx.PrimFunc], context: transform.PassContext) -> Path:
        import tvm

        path = self._folder / f"{next(iter(programs))}.o"
        with context:
            functions = {tvm.ir.GlobalVar(name): f.with_attr("global_symbol", name) for name, f in programs.items()}
            _write_object(tvm.compile(keep_nan(tvm.ir.IRModule(functions)), target=self._target.tvm).mod, path)
        return path


class SharedObjects(Objects):
    """Object files for several networks of one process, whose plans it has made itself.

    Kernels of equal programs share one object file, whatever their names are. They do not check their arguments, which
    would be a third of their code: the plan gives them what they take.

    Args:
        folder: the directory for object files.
        target: what they are compiled for.
        kept: the directory of object files that other processes have compiled, and where this one leaves its own; None:
            there is none. What cannot be read or written there is compiled again.
    """

    are_archived = False

    def __init__(self, folder: Path, target: Target, kept: Path | None = None) -> None:
        super().__init__(folder, target)
        self._kept = kept
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._known: dict[str, Path] = {}
        if kept is not None:
            with contextlib.suppress(OSError):
                files = sorted(kept.iterdir(), key=lambda path: path.stat().st_mtime)
                for path in files[: max(0, len(files) - _MOST_KEPT)]:
                    path.unlink(missing_ok=True)
                self._known = {path.name.partition("-")[0]: path for path in files[-_MOST_KEPT:]}

    def symbol(self, kernel: str, function: tirx.PrimFunc) -> str:
        """The name of a program: that of the kernel that was the first to have it."""
        number = _number(function)
        if number not in self._names:
            known = self._known.get(self._key(number))
            name = known.name.split("-", 2)[-1].removesuffix(".o") if known is not None else ""
            self._names[number] = name if name.isidentifier() else super().symbol(kernel, function)
            self._numbers[self._names[number]] = number
        return self._names[number]

    def _divide(self, symbols: Iterable[str]) -> list[list[str]]:
        symbols = list(symbols)
        known = [symbol for symbol in symbols if self._find(symbol) is not None]
        others = [symbol for symbol in symbols if self._find(symbol) is None]
        return [*([symbol] for symbol in known), *super()._divide(others)]

    def _make(self, programs: Mapping[str, tirx.PrimFunc]) -> Path:
        if len(programs) == 1 and (path := self._load(next(iter(programs)))) is not None:
            return path
        path = self._write(programs, lean_kernels())
        if self._kept is not None:
            with contextlib.suppress(OSError):
                self._keep(programs, path.read_bytes())
        return path

    def _find(self, symbol: str) -> Path | None:
        """The file that is kept of a program."""
        return self._known.get(self._key(self._numbers[symbol])) if symbol in self._numbers else None

    def _load(self, symbol: str) -> Path | None:
        """A copy of the file that is kept of a program; None: there is none, or it is damaged."""
        with contextlib.suppress(OSError):
            known = self._find(symbol)
            content = b"" if known is None else known.read_bytes()
            if known is not None and known.name == _file_name(self._key(self._numbers[symbol]), content, symbol):
                path = self._folder / f"kept-{_digest(content)}.o"  # the same for all programs of a group
                path.write_bytes(content)
                return path
        return None

    def _keep(self, symbols: Iterable[str], content: bytes) -> None:
        """Leave an object file for other processes, under a name for each program. Raises ``OSError`` if that fails."""
        assert self._kept is not None
        self._kept.mkdir(parents=True, exist_ok=True)
        first: Path | None = None
        for symbol in symbols:
            name = _file_name(self._key(self._numbers[symbol]), content, symbol)
            part = self._kept / f"{_digest(name.encode())}.{os.getpid()}.part"
            try:
                if first is None:
                    part.write_bytes(content)
                else:
                    part.hardlink_to(first)
                part.replace(self._kept / name)
            except OSError:
                part.unlink(missing_ok=True)  # half a file would fill a disk that is full already
                raise
            first = self._kept / name

    def _key(self, number: int) -> str:
        """What an object file is found by: a hash of all that it depends on."""
        text = f"{_FORMAT} {number:x} {self._target.key} {self._target.tvm} {_versions()}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _file_name(key: str, content: bytes, symbol: str) -> str:
    """The name of a file that is kept. It holds a hash of the content, so that a damaged file is not used."""
    return f"{key}-{_digest(content)}-{symbol}.o"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


@cache
def _versions() -> tuple[str, ...]:
    found = []
    for package in ("tilewright", "apache-tvm"):
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append("")
    return tuple(found)


def _number(function: tirx.PrimFunc) -> int:
    """A number of 64 bits that depends on a program alone."""
    from tvm_ffi import structural_hash

    # The attribute may hold the name of a kernel already.
    return int(structural_hash(function.without_attr("global_symbol"))) & ((1 << 64) - 1)


def _write_object(module: runtime.Module, path: Path) -> None:
    """Write an object file by way of memory. If a disk is full, Python raises an error, but LLVM ends the process."""
    if not hasattr(os, "memfd_create"):
        module.write_to_file(str(path), "o")
        return
    memory = os.memfd_create(path.name[:_MOST_NAME])
    with os.fdopen(memory, "rb") as file:
        module.write_to_file(f"/proc/self/fd/{memory}", "o")
        path.write_bytes(file.read())


def checked_kernels() -> transform.PassContext:
    """A context of one thread in which compiled kernels check their arguments, since a plan in a file calls them."""
    context: transform.PassContext = lean_kernels(checks=True)
    return context


@contextlib.contextmanager
def translate_errors(folder: Path) -> Iterator[None]:
    """Turn TVM's errors into Tilewright's. TVM writes to ``folder``, whose disk may be full."""
    try:
        yield
    except TilewrightError:
        raise
    except MemoryError as exc:
        raise memory_error("compiling the network") from exc
    except OSError as exc:
        raise explained(exc, "the network cannot be compiled", folder) from exc
    except Exception as exc:  # TVM's passes raise errors of all classes
        check_space(folder)
        if "bad_alloc" in str(exc) or "out of memory" in str(exc).lower():
            raise memory_error("compiling the network") from exc
        raise CompilerError(f"the network cannot be compiled: {describe_error(exc)}") from exc
