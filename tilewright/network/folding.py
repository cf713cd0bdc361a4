"""Relax's pipeline for its virtual machine, with constants folded only where that is harmless.

TVM folds a call by compiling a kernel for it and running that in this process: 30 ms each, and an integer division by
zero ends the process. What is not folded is computed when the network runs.
"""

from __future__ import annotations

from typing import Any

__all__ = ["machine_pipeline"]

#: Calls on constants that are folded, at most: about two seconds.
_MOST_FOLDED = 64


def machine_pipeline(target: Any) -> Any:
    """TVM 0.27's default pipeline for CPUs, but for the folding of constants; ``target``: TVM's."""
    import tvm
    from tvm.relax.backend.cpu_generic import pipeline as cpu_generic

    folding = tvm.transform.module_pass(_fold, opt_level=0, name="FoldHarmless")
    passes = [
        *cpu_generic.library_dispatch_passes(target),
        *(folding if step.info.name == "FoldConstant" else step for step in cpu_generic.legalize_passes(target)),
        *cpu_generic.dataflow_lower_passes(target),
        *cpu_generic.finalize_passes(target),
    ]

    def run(module: Any, _: Any) -> Any:
        with target:
            return tvm.transform.Sequential(passes)(module)

    return tvm.transform.module_pass(run, opt_level=0, name="machine_pipeline")


def _fold(module: Any, _: Any) -> Any:
    from tvm import relax

    names = _called_on_constants(module)
    if not names or len(names) > _MOST_FOLDED or any(_may_trap(module[name]) for name in set(names)):
        return module
    return relax.transform.FoldConstant()(module)


def _called_on_constants(module: Any) -> list[str]:
    """The functions of calls that depend on constants alone, one for each call."""
    from tvm import ir, relax

    names: list[str] = []
    for _, function in module.functions_items():
        if not isinstance(function, relax.Function) or not isinstance(function.body, relax.SeqExpr):
            continue
        constant: set[Any] = set()
        for block in function.body.blocks:
            for binding in block.bindings:
                call = binding.value
                calls = isinstance(call, relax.Call) and isinstance(call.op, ir.Op) and call.op.name == "relax.call_tir"
                if not calls or not isinstance(call.args[1], relax.Tuple):
                    continue
                if all(isinstance(a, ir.GenericConst) or a in constant for a in call.args[1].fields):
                    constant.add(binding.var)
                    names.append(call.args[0].name_hint)
    return names


def _may_trap(function: Any) -> bool:
    """Whether a kernel divides integers by what may be zero."""
    from tvm import tirx
    from tvm_ffi import structural_walk

    found: list[Any] = []

    def see(node: Any) -> None:
        if "int" in str(node.ty.dtype) and not (isinstance(node.b, tirx.IntImm) and int(node.b) != 0):
            found.append(node)

    structural_walk(function.body, ((tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod), see))
    return bool(found)
