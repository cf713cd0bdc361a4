"""How large a function becomes when what is element-wise is computed where it is used.

A polynomial reads its argument many times: tanh 19 times. Inlined into each other, n of them read their input 19**n
times, and TVM's passes, the generator of MetaSchedule and the compiler visit every one. So whoever inlines asks first.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm.ir import Expr, IRModule, TensorLoad, Var
    from tvm.s_tir import SBlock
    from tvm.tirx import Let, Stmt

__all__ = ["MOST_LOADS", "blocks_of", "count_loads", "multiplies", "nested_loads"]

#: The most loads that formulas may have that are inlined into each other. 2 nested tanh have 361 and 2 sigmoid 676;
#: 3 tanh have 6,859, which takes MetaSchedule's generator 0.6 s and the compiler 1.4 s, and tens of seconds where it
#: looks for common subexpressions.
MOST_LOADS = 1024
#: What loads no more often is no formula: a sum of a few operands.
_SIMPLE = 8
#: Loads are not counted beyond this: the counts would become integers of thousands of digits.
_ENOUGH = 1 << 40


def nested_loads(module: IRModule) -> int:
    """The loads of the function ``main``, written out, if every block without a reduction is inlined into its readers.

    That of the block that has most of those that nest formulas, and 0 where none does: a formula by itself may be as
    long as it is. Counted block by block, so that the time is that of reading the function once. At most 2**40.
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
    """Whether it nests formulas to read what itself has ``loads`` loads, ``count`` times."""
    return count > 1 and loads > _SIMPLE


def blocks_of(module: IRModule) -> list[SBlock]:
    """The blocks of the function ``main``, in the order in which they run."""
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    return [schedule.get(block) for block in schedule.get_child_blocks(schedule.get_sblock("root"))]


def count_loads(block: SBlock) -> Counter[Var]:
    """How often the statement of a block, written out as a tree, loads from each buffer.

    What a ``let`` binds counts as often as it is used: TVM's simplifier looks through it each time.
    """
    return _count(block.body)[0]


def _count(node: Stmt | Expr) -> tuple[Counter[Var], Counter[Var]]:
    """How often each buffer is loaded from in ``node``, and each variable used."""
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
