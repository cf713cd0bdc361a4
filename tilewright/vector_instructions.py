"""Vector instructions that LLVM does not choose by itself, and the operator of TIR that needs them.

They are chosen by passes after ``VectorizeLoop`` and ``UnrollLoop``, which TVM's pipeline calls by their names.
Programs of tasks stay as they are, and so do their keys.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tilewright.vector_stores import join_stores
from tilewright.vector_tables import look_up_by_permutations, look_up_by_shuffles

__all__ = ["RECIPROCAL", "choose_instructions", "follow_pass", "is_bytes", "register_operators"]

#: The operator of one operand ``d``, a float32: ``1 / d``. Its relative error is at most 1.2e-7 where ``d`` and the
#: result are normal numbers. Of 0, infinity and numbers below 1e-38 it may be anything.
RECIPROCAL = "tilewright.reciprocal"
#: How many numbers a byte can be.
_BYTE_VALUES = 256

#: Networks are compiled in several threads, and what follows is told to TVM once: it refuses a second time.
_telling = threading.Lock()
_told: set[str] = set()


def register_operators() -> None:
    """Let TVM know :data:`RECIPROCAL`. To be called before a program is made or read that has one."""
    from tvm import tirx
    from tvm.ir import register_op_attr

    def divide(call: Any) -> Any:
        (divisor,) = call.args
        lanes, one = divisor.ty.dtype.lanes, tirx.const(1.0, "float32")
        return tirx.Div(one if lanes == 1 else tirx.Broadcast(one, lanes), divisor)

    with _telling:
        if RECIPROCAL in _told:
            return
        register_op_attr(RECIPROCAL, "TScriptPrinterName", "reciprocal")
        register_op_attr(RECIPROCAL, "TVectorizable", True)
        register_op_attr(RECIPROCAL, "TCallEffectKind", 1)  # kPure
        register_op_attr(RECIPROCAL, "default.FLowerIntrinsic", divide)
        _told.add(RECIPROCAL)


def choose_instructions() -> None:
    """Let TVM's pipeline choose the instructions below for vectors, if the target has them.

    **Lookups in tables** of 256 bytes (:mod:`tilewright.vector_tables`), AVX512-VBMI and AVX2. TVM 0.27: a load at a
    vector of indices becomes one load for each index. These loads took most of the time of a convolution whose results
    are looked up.

    **Stores** of short vectors of bytes (:mod:`tilewright.vector_stores`), AVX512BW and AVX2: those that lie side by
    side are one store, and what is looked up for them is looked up at once.

    **Reciprocals**, AVX-512. A division of 16 numbers takes 16 cycles, in which 32 other instructions could begin. An
    approximation with an error of 2^-14 and a step of Newton's iteration take 2 to 3 cycles. (A division of a
    shorter vector is fast enough: other instructions keep the processor busy meanwhile.)

        reciprocal(d)  -->  r + r * (1 - d * r), r = vrcp14ps(d)
    """
    from tvm import ir
    from tvm.target.codegen import target_has_features
    from tvm_ffi import structural_map

    register_operators()

    def approximate(function: Any, _module: Any, _context: Any) -> Any:
        target = dict(function.attrs or {}).get("target")
        if target is None or target.kind.name != "llvm":
            return function
        # Few functions have reciprocals, and to ask a target takes 0.4 ms.
        if not _divides(function.body) or not target_has_features("avx512f", target):
            return function
        return function.with_body(structural_map(function.body, (ir.Call, _approximated)))

    def move_bytes(function: Any, _module: Any, _context: Any) -> Any:
        target = dict(function.attrs or {}).get("target")
        if target is None or target.kind.name != "llvm" or not any(map(is_bytes, function.params)):
            return function
        if not target_has_features("avx2", target):
            return function
        wide = target_has_features("avx512f", target)
        body = function.body
        if not wide or target_has_features("avx512bw", target):
            body = join_stores(body, 16 if wide else 8)
        if any(map(_is_table, function.params)):
            way = look_up_by_permutations if target_has_features("avx512vbmi", target) else look_up_by_shuffles
            body = structural_map(body, (ir.TensorLoad, _looked_up(way)))
        return function.with_body(body)

    follow_pass("VectorizeLoop", approximate)
    follow_pass("UnrollLoop", move_bytes)


def follow_pass(name: str, change: Callable[[Any, Any, Any], Any]) -> None:
    """Let ``change`` of a function, its module and the context follow a pass that TVM's pipeline calls by its name."""
    import tvm
    from tvm.tirx import transform

    with _telling:
        if name in _told:
            return
        before = getattr(transform, name)

        def both(*arguments: Any) -> Any:
            return tvm.transform.Sequential([before(*arguments), transform.prim_func_pass(change, opt_level=0)])

        setattr(transform, name, both)
        _told.add(name)


def _is_table(variable: Any) -> bool:
    """Whether a parameter, or what a load reads, is a buffer of 256 bytes."""
    kind = variable.ty
    if str(getattr(kind, "dtype", "")) != "uint8":
        return False
    return [int(extent) for extent in getattr(kind, "shape", ())] == [_BYTE_VALUES]


def is_bytes(variable: Any) -> bool:
    """Whether a parameter is a buffer of bytes."""
    return str(getattr(variable.ty, "dtype", "")) in ("uint8", "int8")


def _divides(body: Any) -> bool:
    """Whether a program has reciprocals."""
    from tvm import ir
    from tvm_ffi import VisitInterrupt, structural_walk

    def look(call: Any) -> VisitInterrupt | None:
        return VisitInterrupt(True) if getattr(call.op, "name", None) == RECIPROCAL else None

    return structural_walk(body, (ir.Call, look)) is not None


def _looked_up(way: Callable[[Any, Any, int], Any]) -> Callable[[Any], Any]:
    """What replaces a load of a vector out of a table of bytes, and leaves other loads as they are."""
    from tvm import tirx

    def replaced(load: Any) -> Any:
        lanes, table, index = load.ty.dtype.lanes, load.source, load.indices[-1]
        served = _is_table(table) and 1 < lanes <= 64 and not isinstance(index, tirx.Ramp)
        return way(table, index, lanes) if served else load

    return replaced


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
