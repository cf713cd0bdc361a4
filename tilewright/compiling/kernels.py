"""Compiles a network's kernels into object files, each once, and links libraries from them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.errors import CompilerError, TilewrightError
from tilewright.executable.export.objects import write_objects
from tilewright.executable.manifest import LIBRARY, OBJECTS
from tilewright.executable.plan import Plan
from tilewright.executable.runtime.library import find_compiler, link, write_runtime
from tilewright.graph.buckets import Extracted
from tilewright.measure.memory import memory_error
from tilewright.scratch import check_space, explained
from tilewright.target import Target
from tilewright.tvm_compat import keep_nan
from tilewright.wording import describe_error

if TYPE_CHECKING:
    from tvm import ir, runtime, tirx, transform

__all__ = ["Kernels", "Library", "compile_machine", "objects_beside"]

#: Bytes that must be free on the disk where LLVM writes the object files of the virtual machine.
_LEAST_FREE = 16 << 20
#: Characters of the name of a file in memory. The name is for people only.
_MOST_NAME = 100
#: Characters that are kept of a kernel's name. It lists all fused operators, but names of files have at most 255 bytes.
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Library:
    """A compiled network without its weights.

    Attributes:
        path: the file of the shared library. An archive of the object files that it was linked from lies beside it
            (:func:`objects_beside`), unless it is a program of the virtual machine, or has further variants of kernels.
        plans: for each bucket, the calls of its kernels; none: it is a program of the virtual machine of Relax.
    """

    path: Path
    plans: tuple[Plan, ...] = ()

    @property
    def plan(self) -> Plan | None:
        """The plan of a network in a single bucket; None: it is a program of the virtual machine of Relax."""
        return self.plans[0] if self.plans else None


class Kernels:
    """Compiles the kernels of a network, each program once.

    A kernel may have several variants with other schedules. So each variant is compiled under a name of its own: the
    kernel's name and a number that depends on its program. The plan of a library calls it by this name. Buckets whose
    kernels have the same name and program share it.

    Args:
        extraction: the network.
        folder: the directory for object files, which must exist as long as this object is used. It is made if needed.
    """

    def __init__(self, extraction: Extracted, folder: Path) -> None:
        self._extraction, self._folder = extraction, folder
        self._keys = [{name: use.task.key for use in part.uses for name in use.functions} for part in extraction.parts]
        self._objects: dict[str, Path] = {}

    def symbols(self, functions: Mapping[str, tirx.PrimFunc], bucket: int = 0) -> dict[str, str]:
        """The names that a library has for the kernels of a bucket's plan, by kernel.

        Args:
            functions: programs by ``Task.key``. Kernels of other tasks are left out.
            bucket: the number of the bucket.
        """
        return {kernel: _symbol(kernel, f) for kernel, f in self._programs(functions, bucket).items()}

    def library(
        self,
        functions: Mapping[str, tirx.PrimFunc],
        out: Path,
        variants: Iterable[Mapping[str, tirx.PrimFunc]] = (),
    ) -> Library:
        """Write a library of the network's kernels.

        Args:
            functions: the programs that it runs, by ``Task.key``. Other tasks are compiled as they are.
            out: the file to write.
            variants: further programs that it holds, by ``Task.key``; used only if the network has a plan.

        Raises:
            CompilerError: compiling or linking failed.
            ResourceError: a disk is full.
        """
        plans: list[Plan] = []
        programs: dict[str, tirx.PrimFunc] = {}
        others = list(variants)
        for bucket, part in enumerate(self._extraction.parts):
            if part.plan is None:
                compile_machine(self._module(functions), part.target, out)
                return Library(out)
            wanted = set(part.plan.kernels)
            plain = {var.name_hint: f for var, f in part.module.functions_items() if var.name_hint in wanted}
            chosen = plain | self._programs(functions, bucket)
            names = {kernel: _symbol(kernel, f) for kernel, f in chosen.items()}
            programs |= {names[kernel]: f for kernel, f in chosen.items()}
            for other in others:
                programs |= {_symbol(kernel, f): f for kernel, f in self._programs(other, bucket).items()}
            plans.append(part.plan.rename_kernels(names))
        self._compile({symbol: f for symbol, f in programs.items() if symbol not in self._objects})
        runtime = self._folder / "runtime.o"
        if not runtime.exists():
            write_runtime(runtime)
        link([*(self._objects[symbol] for symbol in programs), runtime], out)
        if not others:
            try:
                write_objects({symbol: self._objects[symbol] for symbol in programs}, objects_beside(out))
            except OSError as exc:
                raise explained(exc, "the objects of kernels cannot be written", out.parent) from exc
        return Library(out, tuple(plans))

    def find_failing(self, functions: Mapping[str, tirx.PrimFunc]) -> tuple[str, ...]:
        """The tasks whose programs cannot be compiled, by ``Task.key``. The programs of all other tasks are compiled.

        Args:
            functions: the programs, by ``Task.key``.
        """
        failing: list[str] = []
        for bucket, part in enumerate(self._extraction.parts):
            for kernel, function in self._programs(functions, bucket).items() if part.plan is not None else ():
                symbol = _symbol(kernel, function)
                try:
                    if symbol not in self._objects:
                        self._compile({symbol: function})
                except CompilerError:
                    failing.append(self._keys[bucket][kernel])
        return tuple(dict.fromkeys(failing))

    def _programs(self, functions: Mapping[str, tirx.PrimFunc], bucket: int) -> dict[str, tirx.PrimFunc]:
        """Programs by the names of a plan's kernels, instead of by ``Task.key``."""
        plan, keys = self._extraction.parts[bucket].plan, self._keys[bucket]
        assert plan is not None
        return {kernel: functions[keys[kernel]] for kernel in plan.kernels if keys.get(kernel) in functions}

    def _module(self, functions: Mapping[str, tirx.PrimFunc]) -> ir.IRModule:
        """The network's module with other programs for tasks."""
        module = self._extraction.parts[0].module.clone()  # the extraction may be built again with other functions
        for name, key in self._keys[0].items():
            if key in functions:
                module.update_func(module.get_global_var(name), functions[key].with_attr("global_symbol", name))
        return module

    def _compile(self, programs: Mapping[str, tirx.PrimFunc]) -> None:
        """Compile programs on all cores, each under its name in ``programs``."""
        import tvm

        target = self._extraction.target

        def compiled(symbol: str) -> None:
            function = programs[symbol].with_attr("global_symbol", symbol)
            path = self._folder / f"{symbol}.o"
            with _checked_kernels():
                module = tvm.ir.IRModule({tvm.ir.GlobalVar(symbol): function})
                _write_object(tvm.compile(keep_nan(module), target=target.tvm).mod, path)
            self._objects[symbol] = path

        self._folder.mkdir(parents=True, exist_ok=True)
        # TVM releases the interpreter's lock while it compiles, so threads use all cores.
        with _translated(self._folder), ThreadPoolExecutor(target.cores) as pool:
            list(pool.map(compiled, programs))


def objects_beside(library: Path) -> Path:
    """The archive of the object files that a library was linked from. A C library is linked from them again."""
    return library.with_name(f"{library.stem}-{OBJECTS}" if library.name != LIBRARY else OBJECTS)


def compile_machine(module: ir.IRModule, target: Target, out: Path) -> None:
    """Compile a Relax module for its virtual machine into the library ``out``.

    Raises:
        CompilerError: compiling or linking failed.
    """
    from tvm import relax

    check_space(Path(tempfile.gettempdir()), _LEAST_FREE)
    # TVM folds constants by running kernels in this process, but not in its default pipeline for CPUs.
    with _translated(out.parent), _checked_kernels():
        relax.build(keep_nan(module), target.tvm).export_library(str(out), cc=find_compiler())


def _write_object(module: runtime.Module, path: Path) -> None:
    """Write an object file by way of memory. If a disk is full, Python raises an error, but LLVM ends the process."""
    if not hasattr(os, "memfd_create"):
        module.write_to_file(str(path), "o")
        return
    memory = os.memfd_create(path.name[:_MOST_NAME])
    with os.fdopen(memory, "rb") as file:
        module.write_to_file(f"/proc/self/fd/{memory}", "o")
        path.write_bytes(file.read())


def _symbol(kernel: str, function: tirx.PrimFunc) -> str:
    """The name that a program of a kernel has in a library."""
    from tvm_ffi import structural_hash

    # The attribute may hold this name already.
    number = structural_hash(function.without_attr("global_symbol")) & 0xFFFFFFFF
    return f"{kernel[:_LONGEST_NAME]}_{number:08x}"


def _checked_kernels() -> transform.PassContext:
    """A context of one thread in which compiled kernels check their arguments, since a plan in a file calls them.

    LLVM eliminates common subexpressions, as in :func:`~tilewright.tvm_compat.lean_kernels`.
    """
    import tvm

    return tvm.transform.PassContext(opt_level=3, disabled_pass=["tirx.CommonSubexprElim"])


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
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
