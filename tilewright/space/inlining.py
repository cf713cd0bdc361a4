"""How large a function becomes if element-wise blocks are inlined: computed where their results are used.

A polynomial reads its argument many times: that of tanh 19 times. Inlined into each other, n of them read their input
19**n times. TVM's passes, MetaSchedule's generator and the compiler visit each read. So all code that inlines asks
this module first.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm.ir import Expr, IRModule, TensorLoad, Var
    from tvm.s_tir import SBlock
    from tvm.tirx import Let, Stmt

__all__ = ["MOST_LOADS", "blocks_of", "count_loads", "multiplies", "nested_loads"]

#: The most loads of formulas that are inlined into each other. Two nested tanh have 361, two nested sigmoids 676. Three
#: tanh have 6,859: MetaSchedule's generator takes 0.6 s for them and the compiler 1.4 s, or tens of seconds if it looks
#: for common subexpressions.
MOST_LOADS = 1024
#: A block that loads no more often is a sum of a few operands, and no formula.
_SIMPLE = 8
#: Counting of loads stops here. Counts would otherwise become integers of thousands of digits.
_ENOUGH = 1 << 40


def nested_loads(module: IRModule) -> int:
    """The most loads of a block of ``main`` that nests formulas, if all blocks without a reduction were inlined.

    It is 0 where no block nests formulas, however long a single formula is, and at most 2**40. The count goes block by
    block, so it takes as long as one reading of the function.
    """
    worst = 0
    sizes: dict[Var, int] = {}
    for block in blocks_of(module):
        operands = [(count, sizes.get(source, 1)) for source, count in count_loads(block).items()]
        size = min(max(sum(count * loads for count, loads in operands), 1), _ENOUGH)
        if any(multiplies(count, loads) for count, loads in operands):
            worst = max(worst, size)
        if all(int(v.iter_type) == 0 for v in block.iter_vars):
            sizes |= {region.source: size for region in block.writes}
    return worst


def multiplies(count: int, loads: int) -> bool:
    """Whether a block nests formulas that reads another one, which has ``loads`` loads, ``count`` times."""
    return count > 1 and loads > _SIMPLE


def blocks_of(module: IRModule) -> list[SBlock]:
    """The blocks of the function ``main``, in the order in which they run. Blocks inside of others are left out."""
    from tvm.s_tir import SBlock
    from tvm_ffi import WalkResult, structural_walk

    found: list[SBlock] = []

    def look(block: SBlock) -> WalkResult:
        found.append(block)
        return WalkResult.SKIP

    # To ask a schedule takes 0.4 ms, for it analyses all blocks first.
    structural_walk(module["main"].body.block.body, (SBlock, look), order="pre")
    return found


def count_loads(block: SBlock) -> Counter[Var]:
    """How often the statement of a block, written out as a tree, loads from each buffer.

    The value that a ``let`` binds counts once for each use: TVM's simplifier looks through it each time.
    """
    return _count(block.body)[0]


def _count(node: Stmt | Expr) -> tuple[Counter[Var], Counter[Var]]:
    """How often ``node`` loads from each buffer, and how often it uses each variable."""
    from tvm.ir import TensorLoad, Var
    from tvm.tirx import Let
    from tvm_ffi import structural_visit

    loads: Counter[Var] = Counter()
    uses: Counter[Var] = Counter()

    def load(value: TensorLoad, _: object) -> None:
        loads[value.source] += 1

    def use(value: Var, _: object) -> None:
        uses[value] += 1

    def bind(value: Let, _: object) -> None:
        inner, inner_uses = _count(value.body)
        bound, bound_uses = _count(value.value)
        times = inner_uses.pop(value.var, 0)
        for total, inside, outside in ((loads, inner, bound), (uses, inner_uses, bound_uses)):
            total.update(inside)
            total.update({key: times * count for key, count in outside.items()})

    structural_visit(node, ((TensorLoad, load), (Let, bind), (Var, use)))
    return loads, uses
