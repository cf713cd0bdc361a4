"""Vector instructions that LLVM does not choose by itself, and the operator of TIR that needs them.

They are chosen by a pass after ``VectorizeLoop``, which TVM's pipeline calls by its name. Programs of tasks stay as
they are, and so do their keys.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["RECIPROCAL", "choose_instructions", "register_operators"]

#: The operator of one operand ``d``, a float32: ``1 / d``. Its relative error is at most 1.2e-7 where ``d`` and the
#: result are normal numbers. Of 0, infinity and numbers below 1e-38 it may be anything.
RECIPROCAL = "tilewright.reciprocal"
#: How many numbers a byte can be.
_BYTE_VALUES = 256


@cache
def register_operators() -> None:
    """Let TVM know :data:`RECIPROCAL`. To be called before a program is made or read that has one."""
    from tvm import tirx
    from tvm.ir import register_op_attr

    def divide(call: Any) -> Any:
        (divisor,) = call.args
        lanes, one = divisor.ty.dtype.lanes, tirx.const(1.0, "float32")
        return tirx.Div(one if lanes == 1 else tirx.Broadcast(one, lanes), divisor)

    register_op_attr(RECIPROCAL, "TScriptPrinterName", "reciprocal")
    register_op_attr(RECIPROCAL, "TVectorizable", True)
    register_op_attr(RECIPROCAL, "TCallEffectKind", 1)  # kPure
    register_op_attr(RECIPROCAL, "default.FLowerIntrinsic", divide)


def choose_instructions() -> None:
    """Let TVM's pipeline choose the instructions below for vectors, if the target has them.

    **Lookups in tables**, AVX512-VBMI. TVM 0.27: a load at a vector of indices is one load for each of them, which was
    most of the time of a convolution whose results are looked up. Of a table of 256 bytes:

        table[indices]  -->  select(indices < 128, vpermi2b(table[0:128], indices), vpermi2b(table[128:256], indices))

    **Reciprocals**, AVX-512. A division of 16 numbers takes 16 cycles, in which 32 other instructions could begin. An
    approximation with an error of 2^-14 and a step of Newton's iteration take 2 to 3 cycles. (Shorter vectors are
    divided as fast as other instructions begin.)

        reciprocal(d)  -->  r + r * (1 - d * r), r = vrcp14ps(d)
    """
    import tvm
    from tvm import ir, tirx
    from tvm_ffi import structural_map

    vectorize = tirx.transform.VectorizeLoop
    if getattr(vectorize, "chooses_instructions", False):
        return
    register_operators()

    def choose(function: Any, _module: Any, _context: Any) -> Any:
        target = function.attrs["target"] if function.attrs is not None and "target" in function.attrs else None
        if target is None or target.kind.name != "llvm":
            return function
        body = function.body
        for extension, kind, replaced in _replacements(ir):
            if tvm.target.codegen.target_has_features(extension, target):
                body = structural_map(body, (kind, replaced))
        return body if body is function else function.with_body(body)

    def both(enable_vectorize: bool = True) -> Any:
        after = tirx.transform.prim_func_pass(choose, opt_level=0)
        return tvm.transform.Sequential([vectorize(enable_vectorize), after])

    both.chooses_instructions = True  # type: ignore[attr-defined]
    tirx.transform.VectorizeLoop = both


def _replacements(ir: Any) -> tuple[tuple[str, Any, Callable[[Any], Any]], ...]:
    """For each instruction: the extension that has it, the kind of expression that it replaces, and its replacement."""
    return (("avx512vbmi", ir.TensorLoad, _looked_up), ("avx512f", ir.Call, _approximated))


def _looked_up(load: Any) -> Any:
    """A load of a vector out of a table of bytes by permutations; other loads as they are."""
    from tvm import tirx

    lanes, table, index = load.ty.dtype.lanes, load.source, load.indices[-1]
    whole = str(table.ty.dtype) == "uint8" and [int(d) for d in table.ty.shape] == [_BYTE_VALUES]
    return _look_up(table, index, lanes) if whole and 1 < lanes <= 64 and not isinstance(index, tirx.Ramp) else load


def _look_up(table: Any, index: Any, lanes: int) -> Any:
    """The bytes at a vector of places in a table of 256 bytes, by two permutations of half of the table each."""
    from tvm import tirx

    own = index.value if isinstance(index, tirx.Cast) and str(index.value.ty.dtype).startswith("uint8") else None
    own = tirx.Cast(f"uint8x{lanes}", index) if own is None else own
    wide = own if lanes == 64 else tirx.Shuffle([own] * -(-64 // lanes), [tirx.const(i, "int32") for i in range(64)])
    quarters = [tirx.BufferLoad(table, [tirx.Ramp(begin, 1, 64)]) for begin in (0, 64, 128, 192)]
    halves = [
        tirx.call_llvm_pure_intrin("uint8x64", "llvm.x86.avx512.vpermi2var.qi.512", first, wide, second)
        for first, second in (quarters[:2], quarters[2:])
    ]
    below = tirx.LT(wide, tirx.Broadcast(tirx.const(128, "uint8"), 64))
    found = tirx.Select(below, *halves)
    return found if lanes == 64 else tirx.Shuffle([found], [tirx.const(i, "int32") for i in range(lanes)])


def _approximated(call: Any) -> Any:
    """The reciprocals of a vector of 16 numbers by an approximation; other calls as they are."""
    from tvm import tirx

    if getattr(call.op, "name", None) != RECIPROCAL or call.ty.dtype.lanes != 16:
        return call
    kind = "float32x16"
    d, r = tirx.Var("d", kind), tirx.Var("r", kind)
    zero, one = (tirx.Broadcast(tirx.const(value, "float32"), 16) for value in (0.0, 1.0))
    all_lanes = tirx.const(-1, "int16")
    rough = tirx.call_llvm_pure_intrin(kind, "llvm.x86.avx512.rcp14.ps.512", d, zero, all_lanes)
    return tirx.Let(d, call.args[0], tirx.Let(r, rough, r + r * (one - d * r)))
