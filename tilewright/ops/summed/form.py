"""The form of a function with sums: the function without them, and what the sums are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.ops.mark import Mark
from tilewright.ops.pixel_sums.form import BLOCK
from tilewright.space.module import task_module
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.ir import IRModule, Var
    from tvm.s_tir import SBlock
    from tvm.tirx import PrimFunc, Stmt

__all__ = ["KIND", "Summed", "make_mark", "read_summed"]

#: The kind of the tasks. The attribute of their functions, ``tilewright.summed``, is the mark of what is summed.
KIND = "summed"


@dataclass(frozen=True)
class Summed:
    """A function that gives an image, and two sums for each channel of it.

    Attributes:
        base: the task without sums. Its result is the image.
        places: for each parameter of ``base``, its place among the parameters of the whole function.
        module: the whole function.
        result: the image ``(n, blocks, h, w, x)``, a parameter.
        operands: what the second sum multiplies the image by, less the mean of each channel; None: the image itself.
        sums: the buffer ``(2, blocks, x)`` of both sums in float64.
        finish: the statement that makes the last result of these sums.
    """

    base: Task
    places: tuple[int, ...]
    module: IRModule
    result: Var
    operands: tuple[Var, Var] | None
    sums: Var
    finish: Stmt


def make_mark(summed: Mark) -> Mark:
    """The mark of a function with sums.

    Args:
        summed: of the function without them.
    """
    return Mark(KIND, f"{summed.kind};{summed.detail}")


def read_summed(task: Task) -> Summed:
    """The form of a task's function.

    Raises:
        FormError: it has no sums, or other ones.
        SpaceError: the function cannot be read.
    """
    import tvm

    module = task_module(task)
    main = module["main"]
    name = f"tilewright.{KIND}"
    if main.attrs is None or name not in main.attrs:
        raise FormError(f"a function with sums says what is summed, but {task.name!r} does not")
    kind, _, detail = str(main.attrs[name]).partition(";")
    root = main.body.block
    nests = list(root.body.seq)
    if len(nests) < 3:
        raise FormError(f"sums and their end follow what is summed, but {task.name!r} has {len(nests)} statements")
    block = _find_block(nests[-2])
    if str(block.name_hint) != BLOCK:
        raise FormError(f"the last statement but one is a block {BLOCK!r}, but that of {task.name!r} is another")
    result, operands, sums = _read_block(block, list(main.params))
    body = tvm.tirx.SeqStmt(nests[:-2]) if len(nests) > 3 else nests[0]
    used = _buffers(body)
    places = tuple(place for place, param in enumerate(main.params) if param in used)
    if not places or not main.params[places[-1]].same_as(result):
        raise FormError(f"what is summed is a result, but {task.name!r} has another")
    buffers = [buffer for buffer in root.alloc_buffers if not buffer.same_as(sums)]
    base = _make_task(task, main, [main.params[place] for place in places], body, buffers, Mark(kind, detail))
    return Summed(base, places, module, result, operands, sums, nests[-1])


def _find_block(nest: Stmt) -> SBlock:
    """The block in a nest of loops."""
    while hasattr(nest, "body"):
        nest = nest.body
    return nest.block


def _read_block(block: SBlock, params: list[Var]) -> tuple[Var, tuple[Var, Var] | None, Var]:
    """The image, the operands, and the sums of the block that adds."""
    sums = block.writes[0].source
    read = list(dict.fromkeys(region.source for region in block.reads if not region.source.same_as(sums)))
    mean = [buffer for buffer in read if len(buffer.ty.shape) == 1]
    images = [buffer for buffer in read if len(buffer.ty.shape) == 5]
    if len(sums.ty.shape) != 3 or len(images) + len(mean) != len(read) or not set(read) <= set(params):
        raise FormError("sums are made of images in blocks, and of a mean of each channel")
    if len(read) == 1 and images:
        return images[0], None, sums
    result = [image for image in images if image.same_as(params[-2])]
    others = [image for image in images if not image.same_as(params[-2])]
    if len(result) != 1 or len(others) != 1 or len(mean) != 1:
        raise FormError("products are made of the result, another image, and a mean of each channel")
    return result[0], (others[0], mean[0]), sums


def _buffers(body: Stmt) -> set[Var]:
    """The buffers that a statement reads or writes."""
    from tvm.s_tir import SBlock
    from tvm_ffi import structural_walk

    found: set[Var] = set()

    def see(block: SBlock) -> None:
        found.update(region.source for region in (*block.reads, *block.writes))

    structural_walk(body, ((SBlock, see),))
    return found


def _make_task(task: Task, main: PrimFunc, params: list[Var], body: Stmt, buffers: list[Var], mark: Mark) -> Task:
    """The task of a part of a function."""
    import tvm
    from tvm import tirx
    from tvm.s_tir import SBlock, SBlockRealize

    root = SBlock([], [], [], "root", body, None, buffers)
    always = tirx.const(True, "bool")
    function = tirx.PrimFunc(params, SBlockRealize([], always, root), main.ret_type)
    function = function.with_attr({"global_symbol": "main", "tirx.noalias": True, **mark.attributes})
    module = tvm.ir.IRModule({"main": function})
    return Task(f"{task.key}.base", task.name, mark.kind, task.flop, tvm.ir.save_json(module))
