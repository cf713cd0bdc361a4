"""Groups the operators of a network, and fuses each group into one function."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from tilewright.graph.chains import LONGEST_CHAIN, OPAQUE, cut_chains
from tilewright.graph.legalizing import LEGALIZED
from tilewright.ops.elementwise.lookup import LOOKUP
from tilewright.ops.function import ELEMENTWISE, INJECTIVE
from tilewright.target import Target

if TYPE_CHECKING:
    from tvm.ir import IRModule

__all__ = ["enter_context", "fuse", "group"]


def enter_context(target: Target) -> ExitStack:
    """TVM's context for grouping and fusing."""
    import tvm

    stack = ExitStack()
    stack.enter_context(target.tvm)
    stack.enter_context(tvm.transform.PassContext(config={"relax.FuseOps.max_depth": LONGEST_CHAIN}))
    return stack


def group(module: IRModule) -> IRModule:
    """Operators --> functions of TIR, and groups of them that will be fused."""
    import tvm
    from tvm import relax

    passes = [
        # A reshape that nothing is fused with becomes a view when the executable is built.
        relax.transform.LegalizeOps(LEGALIZED, skip_ops=["relax.reshape"]),
        relax.transform.AnnotateTIROpPattern(),
        tvm.transform.module_pass(_concatenations_apart, opt_level=0),
        tvm.transform.module_pass(_lookups_elementwise, opt_level=0),
        tvm.transform.module_pass(_slices_injective, opt_level=0),
        tvm.transform.module_pass(_cut_chains, opt_level=0),
        relax.transform.FuseOps(),
    ]
    return tvm.transform.Sequential(passes)(module)


def fuse(module: IRModule) -> IRModule:
    """Each group --> one function of TIR."""
    import tvm
    from tvm import relax

    passes = [
        relax.transform.FuseTIR(),
        tvm.transform.module_pass(_without_patterns, opt_level=0),
        relax.transform.DeadCodeElimination(),
    ]
    return tvm.transform.Sequential(passes)(module)


def _concatenations_apart(module: IRModule, _: object) -> IRModule:
    """Fuse nothing with a concatenation. Alone it costs nothing, since its parts are written in place."""
    for var, function in module.functions_items():
        if var.name_hint.startswith("concatenate"):
            module.update_func(var, function.with_attr("op_pattern", OPAQUE))
    return module


def _lookups_elementwise(module: IRModule, _: object) -> IRModule:
    """Let lookups in tables be fused as element-wise functions. TVM itself replaces a pattern of 0 by its own finding.

    That is that nothing can be fused with a lookup, since it reads at places that depend on data.
    """
    for var, function in module.functions_items():
        if function.attrs is not None and LOOKUP in function.attrs:
            module.update_func(var, function.without_attr(LOOKUP).with_attr("op_pattern", ELEMENTWISE))
    return module


def _slices_injective(module: IRModule, _: object) -> IRModule:
    """Let slices move elements. TVM takes one from the start for element-wise, and would fuse it into a contraction.

    No template of contractions leaves out a part of the result.
    """
    for var, function in module.functions_items():
        if var.name_hint.startswith("strided_slice"):
            module.update_func(var, function.with_attr("op_pattern", INJECTIVE))
    return module


def _cut_chains(module: IRModule, _: object) -> IRModule:
    return cut_chains(module)


def _without_patterns(module: IRModule, _: object) -> IRModule:
    """Drop the attributes of fusion. MetaSchedule's databases identify a function by its attributes, too."""
    for var, function in module.functions_items():
        if function.attrs is not None and "op_pattern" in function.attrs:
            module.update_func(var, function.without_attr("op_pattern"))
    return module
