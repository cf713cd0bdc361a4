"""Calls of single kernels, compiled as candidates are.

A kernel that checks its arguments is nearly twice as much code, and compiling is most of what such tests take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tilewright.target import Target
from tilewright.tvm_compat import keep_nan, lean_kernels

if TYPE_CHECKING:
    from tvm import ir, runtime

__all__ = ["assembly", "call_kernel", "check_arguments", "compile_kernel", "compile_module"]


def compile_module(module: ir.IRModule, target: Target, *, optimised: bool = True) -> Any:
    """What TVM makes of a module as workers compile it: its functions do not check their arguments.

    Args:
        module: the program.
        target: what it is compiled for.
        optimised: whether LLVM optimises it; not worth its time where the results are only compared with.
    """
    import tvm

    made = target.tvm if optimised else tvm.target.Target({**target.tvm.export(), "opt-level": 0})
    with lean_kernels():
        return tvm.compile(keep_nan(module), target=made)


def assembly(module: ir.IRModule, target: Target) -> str:
    """The assembly of a module as workers compile it."""
    return str(compile_module(module, target).mod.inspect_source("asm"))


def compile_kernel(module: ir.IRModule, target: Target, *, optimised: bool = True) -> Callable[..., object]:
    """The function ``main`` of a module. Arguments are those of :func:`compile_module`."""
    function: Callable[..., object] = compile_module(module, target, optimised=optimised)["main"]
    return function


def call_kernel(module: ir.IRModule, target: Target, *arguments: runtime.Tensor) -> None:
    """Call the function ``main`` of a module, whose arguments are checked here."""
    check_arguments(module, arguments)
    compile_kernel(module, target)(*arguments)


def check_arguments(module: ir.IRModule, arguments: Sequence[runtime.Tensor]) -> None:
    """What a kernel would check of its arguments: how many there are, their shapes, and their types."""
    wanted = [([int(n) for n in p.ty.shape], str(p.ty.dtype)) for p in module["main"].params]
    assert [([int(n) for n in a.shape], str(a.dtype)) for a in arguments] == wanted
