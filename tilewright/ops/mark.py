"""The mark by which an expression says which template serves it.

A function of a network is fused of several expressions, and fusion drops the attributes of functions. It keeps the
annotations of their blocks. So an expression marks its main block, and whoever cuts a network into tasks takes the
mark off:

    block "contraction" {"tilewright.template": "contraction", "tilewright.detail": "pol/r"}
    -->
    block "contraction" {}, and Mark("contraction", "pol/r")

The block without its mark is what tasks have always been made of. So the keys of tasks and all records stay valid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm.ir import IRModule
    from tvm.s_tir import SBlock
    from tvm.tirx import PrimFunc

__all__ = ["UNMARKED", "Mark", "take_mark", "take_marks"]

_TEMPLATE, _DETAIL = "tilewright.template", "tilewright.detail"


@dataclass(frozen=True)
class Mark:
    """What an expression says of itself: ``te.compute(..., attrs=Mark("rows").annotations)``.

    Attributes:
        kind: the kind of the task, by which templates know their own (``Task.kind``).
        detail: what the template must know besides, such as the roles of iterators; "" for nothing.
    """

    kind: str
    detail: str = ""

    @property
    def annotations(self) -> dict[str, str]:
        """The mark as annotations of a block."""
        return {_TEMPLATE: self.kind} | ({_DETAIL: self.detail} if self.detail else {})

    @property
    def attributes(self) -> dict[str, str]:
        """The detail as an attribute of the task's function, such as ``tilewright.contraction``; empty without one."""
        return {f"tilewright.{self.kind}": self.detail} if self.detail else {}


#: The mark of a function without any: templates that look at the function itself may serve it.
UNMARKED = Mark("auto")


def take_marks(module: IRModule) -> tuple[IRModule, dict[str, Mark]]:
    """The module without marks, and the mark of each of its TIR functions by name."""
    from tvm.tirx import PrimFunc

    marks: dict[str, Mark] = {}
    for var, function in module.functions_items():
        if isinstance(function, PrimFunc):
            bare, marks[var.name_hint] = take_mark(function)
            if not bare.same_as(function):
                module.update_func(var, bare)
    return module, marks


def take_mark(function: PrimFunc) -> tuple[PrimFunc, Mark]:
    """The function without marks, and the mark of its first block that has one; :data:`UNMARKED` where none has."""
    import tvm
    from tvm.s_tir import SBlock, Schedule
    from tvm_ffi import structural_walk

    marked: list[SBlock] = []

    def see(block: SBlock) -> None:
        if _TEMPLATE in block.annotations:
            marked.append(block)

    structural_walk(function.body, ((SBlock, see),))
    if not marked:
        return function, UNMARKED
    # A schedule replaces the block and nothing else; rebuilt in any other way, the function's JSON is another one.
    schedule = Schedule(tvm.ir.IRModule({"main": function}))
    for block in marked:
        handle = schedule.get_sblock(block.name_hint)
        for name in (_TEMPLATE, _DETAIL):
            if name in block.annotations:
                schedule.unannotate(handle, name)
    first = marked[0].annotations
    mark = Mark(str(first[_TEMPLATE]), str(first[_DETAIL]) if _DETAIL in first else "")
    return schedule.mod["main"], mark
