"""The form of an MLP: two dense layers, and what is fused into each. Nothing else reads the rows between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.ops.contraction.form import BLOCK, find_pad, read_form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tvm.ir import Expr, IRModule, Var
    from tvm.s_tir import SBlock, Schedule

__all__ = ["KIND", "Dense", "Mlp", "read_mlp"]

#: The kind of the tasks.
KIND = "mlp"
#: The roles of the iterators of both blocks that add and multiply (:func:`tilewright.ops.contraction.form.mark_roles`).
_DENSE = "pol/r"


@dataclass(frozen=True)
class Dense:
    """A dense layer, and the element-wise functions after it, such as bias and activation.

    Attributes:
        depth: columns of the data.
        blocks, lanes: blocks of columns of the result, and columns of a block.
        data, weight: the operands.
        result: its sums, which the block of ``writes`` reads.
        writes: the block that computes these element-wise functions and writes the rows: its variables, and the block.
    """

    depth: int
    blocks: int
    lanes: int
    data: Var
    weight: Var
    result: Var
    writes: tuple[tuple[Var, ...], SBlock]

    @property
    def columns(self) -> int:
        """The columns of the result."""
        return self.blocks * self.lanes


@dataclass(frozen=True)
class Mlp:
    """An MLP: two dense layers, of which the second reads the rows that the first one gives.

    Attributes:
        rows: of the data and of the result.
        layers: both.
        module: holds the function.
    """

    rows: int
    layers: tuple[Dense, Dense]
    module: IRModule

    @property
    def work(self) -> int:
        """The number of multiply-adds."""
        return self.rows * sum(layer.depth * layer.columns for layer in self.layers)


def read_mlp(module: IRModule) -> Mlp:
    """The two dense layers in ``module``.

    Raises:
        FormError: there are no two dense layers, or the second one does not read the rows of the first one.
    """
    from tvm.s_tir import Schedule

    schedule = Schedule(module, seed=1)
    names = _names(schedule)
    sums = [name for name in names if name.startswith(BLOCK)]
    if len(sums) != 2 or find_pad(schedule, schedule.get_sblock(sums[0])) is not None:
        raise FormError(f"an MLP is two dense layers, but the blocks here are {names}")
    first, second = sums
    between = _find_hidden(schedule, first, second)
    last = _inline(schedule, [first, second, between])
    layers = (_read_layer(schedule, module, first, between), _read_layer(schedule, module, second, last))
    if not layers[1].data.same_as(layers[0].writes[1].writes[0].source):
        raise FormError("the second dense layer of an MLP reads the rows that follow the first one")
    params = list(module["main"].params)
    if not all(_is_one(operand, params) for operand in (layers[0].data, *(layer.weight for layer in layers))):
        raise FormError("the dense layers of an MLP read operands")
    for layer in layers:
        others = [r.source for r in layer.writes[1].reads if not r.source.same_as(layer.result)]
        if not all(_is_one(other, params) for other in others):
            raise FormError("the hidden rows of an MLP are read by its second dense layer alone")
    rows, _ = (int(extent) for extent in layers[0].data.ty.shape)
    return Mlp(rows, layers, schedule.mod)


def _names(schedule: Schedule) -> list[str]:
    return [str(schedule.get(b).name_hint) for b in schedule.get_child_blocks(schedule.get_sblock("root"))]


def _is_one(operand: Var, params: Sequence[Var]) -> bool:
    return any(operand.same_as(param) for param in params)


def _find_hidden(schedule: Schedule, first: str, second: str) -> str:
    """The name of the block that writes the hidden rows."""
    producers = schedule.get_producers(schedule.get_sblock(second))
    if len(producers) != 1:
        raise FormError("the second dense layer of an MLP reads one block's result")
    name = str(schedule.get(producers[0]).name_hint)
    if name == first:
        raise FormError("a dense layer writes its sums as rows")
    return name


def _inline(schedule: Schedule, kept: Sequence[str]) -> str:
    """Inline all blocks but those in ``kept`` and the last one, whose name is returned."""
    names = _names(schedule)
    last = [name for name in names if not schedule.get_consumers(schedule.get_sblock(name))]
    if len(last) != 1:
        raise FormError("an MLP has one result")
    for name in names:
        if name not in (*kept, *last):
            schedule.compute_inline(schedule.get_sblock(name))
    return last[0]


def _read_layer(schedule: Schedule, module: IRModule, name: str, writer: str) -> Dense:
    """The dense layer of the block ``name``, and what the block ``writer`` makes of its sums."""
    from tvm.tirx import BufferStore

    form = read_form(module, name, _DENSE)
    if form.together > 1 or form.nibbles or any(access.itemsize != 4 for access in form.accesses):
        raise FormError("the dense layers of an MLP are of float32")
    block, stmt = schedule.get(schedule.get_sblock(name)), schedule.get(schedule.get_sblock(writer))
    result = block.writes[0].source
    data, weight = (region.source for region in block.reads if not region.source.same_as(result))
    rows, blocks, lanes = (int(extent) for extent in result.ty.shape)
    variables = tuple(axis.var for axis in stmt.iter_vars)
    whole = [int(axis.dom.extent) for axis in stmt.iter_vars] == [rows, blocks * lanes]
    kinds = {int(axis.iter_type) for axis in stmt.iter_vars}
    body = stmt.body
    if not whole or kinds != {0} or not isinstance(body, BufferStore) or not _are_same(body.indices, variables):
        raise FormError("what follows a dense layer of an MLP is element-wise, and fills whole blocks of columns")
    row, column = variables
    if not all(_are_same(found, (row, column // lanes, column % lanes)) for found in _loads(stmt, result)):
        raise FormError("what follows a dense layer of an MLP reads each sum in its place")
    return Dense(form.extents["ri"], blocks, lanes, data, weight, result, (variables, stmt))


def _are_same(found: Sequence[Expr], wanted: Sequence[Expr]) -> bool:
    from tvm_ffi import structural_equal

    return len(found) == len(wanted) and all(map(structural_equal, found, wanted))


def _loads(stmt: SBlock, buffer: Var) -> list[Sequence[Expr]]:
    """The indices of all loads from a buffer in a block."""
    from tvm.ir import TensorLoad
    from tvm_ffi import structural_map

    found: list[Sequence[Expr]] = []

    def note(node: TensorLoad) -> TensorLoad:
        if node.source.same_as(buffer):
            found.append(list(node.indices))
        return node

    structural_map(stmt.body, (TensorLoad, note))
    return found
