"""Compiles a network's kernels into object files, each once, and links libraries from them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tilewright.compiling.objects import Objects, checked_kernels, translate_errors
from tilewright.errors import CompilerError
from tilewright.executable.export.objects import write_objects
from tilewright.executable.manifest import LIBRARY, OBJECTS
from tilewright.executable.plan import Plan
from tilewright.executable.runtime.library import link, write_runtime
from tilewright.graph.buckets import Extracted
from tilewright.scratch import check_space, explained
from tilewright.target import Target
from tilewright.tvm_compat import keep_nan

if TYPE_CHECKING:
    from tvm import ir, tirx

__all__ = ["Kernels", "Library", "compile_machine", "objects_beside"]

#: Bytes that must be free on the disk where LLVM writes the object files of the virtual machine.
_LEAST_FREE = 16 << 20


@dataclass(frozen=True)
class Library:
    """A compiled network without its weights.

    Attributes:
        path: the file of the shared library. An archive of the object files that it was linked from lies beside it
            (:func:`objects_beside`), unless it is a program of the virtual machine, has further variants of kernels,
            or is part of a training.
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
        objects: compiles the programs, of other networks as well; None: of this network only.
    """

    def __init__(self, extraction: Extracted, folder: Path, objects: Objects | None = None) -> None:
        self._extraction = extraction
        self._objects = Objects(folder, extraction.target) if objects is None else objects
        self._keys = [{name: use.task.key for use in part.uses for name in use.functions} for part in extraction.parts]

    def symbols(self, functions: Mapping[str, tirx.PrimFunc], bucket: int = 0) -> dict[str, str]:
        """The names that a library has for the kernels of a bucket's plan, by kernel.

        Args:
            functions: programs by ``Task.key``. Kernels of other tasks are left out.
            bucket: the number of the bucket.
        """
        return {kernel: self._objects.symbol(kernel, f) for kernel, f in self._programs(functions, bucket).items()}

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
        if any(part.plan is None for part in self._extraction.parts):
            compile_machine(self._module(functions), self._extraction.target, out)
            return Library(out)
        programs, plans = self._gather(functions, ())
        self._objects.begin(programs)
        others = list(variants)
        files = self._objects.compile(self._gather(functions, others)[0])
        runtime, triple = self._objects.folder / "runtime.o", self._extraction.target.triple
        if not runtime.exists():
            write_runtime(runtime, triple)
        # Files that several processes have made may hold the same program.
        link([*dict.fromkeys(files.values()), runtime], out, repeated=True, triple=triple)
        if not others and self._objects.are_archived:
            try:
                write_objects(tuple(dict.fromkeys(files.values())), objects_beside(out))
            except OSError as exc:
                raise explained(exc, "the objects of kernels cannot be written", out.parent) from exc
        return Library(out, tuple(plans))

    def begin(self, functions: Mapping[str, tirx.PrimFunc]) -> None:
        """Begin to compile what :meth:`library` will need for these functions, and do not wait for it."""
        if all(part.plan is not None for part in self._extraction.parts):
            self._objects.begin(self._gather(functions, ())[0])

    def begin_some(self, functions: Mapping[str, tirx.PrimFunc]) -> None:
        """Begin to compile some functions, by ``Task.key``, while it is not known what others there will be."""
        for bucket, part in enumerate(self._extraction.parts):
            if part.plan is not None:
                self._objects.begin(
                    {self._objects.symbol(k, f): f for k, f in self._programs(functions, bucket).items()}
                )

    def _gather(
        self, functions: Mapping[str, tirx.PrimFunc], others: Sequence[Mapping[str, tirx.PrimFunc]]
    ) -> tuple[dict[str, tirx.PrimFunc], list[Plan]]:
        """The programs of a library by their names, and the plans that call them by these."""
        plans: list[Plan] = []
        programs: dict[str, tirx.PrimFunc] = {}
        for bucket, part in enumerate(self._extraction.parts):
            assert part.plan is not None
            wanted = set(part.plan.kernels)
            plain = {var.name_hint: f for var, f in part.module.functions_items() if var.name_hint in wanted}
            chosen = plain | self._programs(functions, bucket)
            names = {kernel: self._objects.symbol(kernel, f) for kernel, f in chosen.items()}
            programs |= {names[kernel]: f for kernel, f in chosen.items()}
            for other in others:
                programs |= {self._objects.symbol(k, f): f for k, f in self._programs(other, bucket).items()}
            plans.append(part.plan.rename_kernels(names))
        return programs, plans

    def find_failing(self, functions: Mapping[str, tirx.PrimFunc]) -> tuple[str, ...]:
        """The tasks whose programs cannot be compiled, by ``Task.key``. The programs of all other tasks are compiled.

        Args:
            functions: the programs, by ``Task.key``.
        """
        failing: list[str] = []
        for bucket, part in enumerate(self._extraction.parts):
            for kernel, function in self._programs(functions, bucket).items() if part.plan is not None else ():
                try:
                    self._objects.compile({self._objects.symbol(kernel, function): function})
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


def objects_beside(library: Path) -> Path:
    """The archive of the object files that a library was linked from. A C library is linked from them again."""
    return library.with_name(f"{library.stem}-{OBJECTS}" if library.name != LIBRARY else OBJECTS)


def _link(out: str, objects: Sequence[str]) -> None:
    """Link what TVM has compiled, with the compiler of all other libraries."""
    link([Path(name) for name in objects], Path(out))


def compile_machine(module: ir.IRModule, target: Target, out: Path) -> None:
    """Compile a Relax module for its virtual machine into the library ``out``.

    Raises:
        CompilerError: compiling or linking failed.
    """
    from tvm import relax

    check_space(Path(tempfile.gettempdir()), _LEAST_FREE)
    # TVM folds constants by running kernels in this process, but not in its default pipeline for CPUs.
    with translate_errors(out.parent), checked_kernels():
        relax.build(keep_nan(module), target.tvm).export_library(str(out), fcompile=_link)
