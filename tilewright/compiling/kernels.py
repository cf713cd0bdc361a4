"""A network's kernels as object files, each compiled once, and the libraries that are linked from them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilewright.errors import CompilerError
from tilewright.executable.plan import Plan
from tilewright.executable.runtime.library import compile_runtime, find_compiler, link
from tilewright.graph.tasks import Extraction
from tilewright.measure.memory import memory_error
from tilewright.scratch import check_space, explained
from tilewright.target import Target

__all__ = ["Kernels", "Library", "compile_machine"]

#: Bytes on a disk that the object files of the virtual machine may need, which LLVM writes by itself.
_LEAST_FREE = 16 << 20
#: Characters of the name of a file in memory, which is for people only.
_MOST_NAME = 100
#: What is kept of a kernel's name, which lists all operators that are fused: files have names of at most 255 bytes.
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Library:
    """A compiled network without its weights.

    Attributes:
        path: the shared library.
        plan: the calls of its kernels; None: it is a program of the virtual machine of Relax.
    """

    path: Path
    plan: Plan | None


class Kernels:
    """Compiles the kernels of a network, none twice.

    A kernel may be there in several variants, which have other schedules. So each is compiled under a name of its own,
    the kernel's with a number that tells its program, and the plan of a library calls it by that.

    Args:
        extraction: the network.
        folder: where object files are kept for as long as this is used; made if it is not there.
    """

    def __init__(self, extraction: Extraction, folder: Path) -> None:
        self._extraction, self._folder = extraction, folder
        self._keys = {name: use.task.key for use in extraction.uses for name in use.functions}
        self._objects: dict[str, Path] = {}

    def symbols(self, functions: Mapping[str, Any]) -> dict[str, str]:
        """Under what name a library has each kernel of the plan whose task is in ``functions`` (by ``Task.key``)."""
        return {kernel: _symbol(kernel, f) for kernel, f in self._programs(functions).items()}

    def library(self, functions: Mapping[str, Any], out: Path, variants: Iterable[Mapping[str, Any]] = ()) -> Library:
        """Write a library of the network's kernels.

        Args:
            functions: what it runs, PrimFuncs by ``Task.key``. Tasks without one are compiled as they are.
            out: the file to write.
            variants: functions that it holds besides, by ``Task.key``. Only of a network with a plan.

        Raises:
            CompilerError: compiling or linking failed.
            ResourceError: a disk is full.
        """
        plan, module = self._extraction.plan, self._extraction.module
        if plan is None:
            compile_machine(self._module(functions), self._extraction.target, out)
            return Library(out, None)
        wanted = set(plan.kernels)
        plain = {var.name_hint: f for var, f in module.functions_items() if var.name_hint in wanted}
        chosen = plain | self._programs(functions)
        names = {kernel: _symbol(kernel, f) for kernel, f in chosen.items()}
        programs = {names[kernel]: f for kernel, f in chosen.items()}
        for others in variants:
            programs |= {_symbol(kernel, f): f for kernel, f in self._programs(others).items()}
        self._compile({symbol: f for symbol, f in programs.items() if symbol not in self._objects})
        runtime = self._folder / "runtime.o"
        if not runtime.exists():
            compile_runtime(runtime)
        link([*(self._objects[symbol] for symbol in programs), runtime], out)
        return Library(out, plan.calling(names))

    def _programs(self, functions: Mapping[str, Any]) -> dict[str, Any]:
        """Functions by the names of the plan's kernels."""
        assert self._extraction.plan is not None
        kernels = self._extraction.plan.kernels
        return {k: functions[self._keys[k]] for k in kernels if self._keys.get(k) in functions}

    def _module(self, functions: Mapping[str, Any]) -> Any:
        module = self._extraction.module.clone()  # the extraction may be built again with other functions
        for name, key in self._keys.items():
            if key in functions:
                module.update_func(module.get_global_var(name), functions[key].with_attr("global_symbol", name))
        return module

    def _compile(self, programs: Mapping[str, Any]) -> None:
        """Compile functions on all cores, by the names that they are to have."""
        import tvm

        target = self._extraction.target

        def compiled(symbol: str) -> None:
            function = programs[symbol].with_attr("global_symbol", symbol)
            path = self._folder / f"{symbol}.o"
            with _checked_kernels():
                module = tvm.ir.IRModule({tvm.ir.GlobalVar(symbol): function})
                _write_object(tvm.compile(module, target=target.tvm).mod, path)
            self._objects[symbol] = path

        self._folder.mkdir(parents=True, exist_ok=True)
        # TVM lets go of the interpreter while it compiles, so threads are enough.
        with _translated(self._folder), ThreadPoolExecutor(target.cores) as pool:
            list(pool.map(compiled, programs))


def compile_machine(module: Any, target: Target, out: Path) -> None:
    """Compile a Relax module for its virtual machine into the library ``out``.

    Raises:
        CompilerError: compiling or linking failed.
    """
    from tvm import relax

    check_space(Path(tempfile.gettempdir()), _LEAST_FREE)
    # TVM's default pipeline for CPUs folds no constants, which it would do by running kernels in this process.
    with _translated(out.parent), _checked_kernels():
        relax.build(module, target.tvm).export_library(str(out), cc=find_compiler())


def _write_object(module: Any, path: Path) -> None:
    """Write an object file by way of memory: where a disk is full, LLVM ends the process, and Python raises."""
    if not hasattr(os, "memfd_create"):
        module.write_to_file(str(path), "o")
        return
    memory = os.memfd_create(path.name[:_MOST_NAME])
    with os.fdopen(memory, "rb") as file:
        module.write_to_file(f"/proc/self/fd/{memory}", "o")
        path.write_bytes(file.read())


def _symbol(kernel: str, function: Any) -> str:
    from tvm_ffi import structural_hash

    # The attribute is the symbol itself where somebody has named the function already.
    number = structural_hash(function.without_attr("global_symbol")) & 0xFFFFFFFF
    return f"{kernel[:_LONGEST_NAME]}_{number:08x}"


def _checked_kernels() -> Any:
    """A context, of one thread, in which kernels check their arguments: what calls them is a plan in a file.

    Common subexpressions are left to LLVM, as in :func:`~tilewright.tvm_compat.lean_kernels`.
    """
    import tvm

    return tvm.transform.PassContext(opt_level=3, disabled_pass=["tirx.CommonSubexprElim"])


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """Turn what TVM raises into errors of ours; ``folder``: where it writes, which may be full."""
    try:
        yield
    except MemoryError as exc:
        raise memory_error("compiling the network") from exc
    except OSError as exc:
        raise explained(exc, "the network cannot be compiled", folder) from exc
    except (RuntimeError, ValueError, TypeError) as exc:
        check_space(folder)
        if "bad_alloc" in str(exc) or "out of memory" in str(exc).lower():
            raise memory_error("compiling the network") from exc
        raise CompilerError(f"the network cannot be compiled: {(str(exc).splitlines() or ['?'])[0][:300]}") from exc
