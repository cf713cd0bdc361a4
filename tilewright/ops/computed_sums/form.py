"""The form of a function that computes an image and sums over its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.ops.mark import Mark
from tilewright.ops.pixel_sums.form import BLOCK, COMPUTED, PAD
from tilewright.ops.pixel_sums.form import KIND as SUMS
from tilewright.space.module import task_module
from tilewright.task import Task

if TYPE_CHECKING:
    from tvm.ir import Var
    from tvm.s_tir import SBlock
    from tvm.tirx import PrimFunc

__all__ = ["KIND", "Computed", "make_mark", "read_computed", "write_image"]

#: The kind of the tasks. The attribute of their functions, ``tilewright.computed_sums``, has the roles of the sums.
KIND = "computed_sums"


@dataclass(frozen=True)
class Computed:
    """A function that computes an image, and sums over its pixels. The image may be its first result.

    Attributes:
        base: the task whose result is the sums alone. The image is a buffer in it.
        function: the whole one.
        keeps: whether the function keeps the image for itself, so that only the sums are a result.
    """

    base: Task
    function: PrimFunc
    keeps: bool


def make_mark(sums: Mark) -> Mark:
    """The mark of a function that also computes the image.

    Args:
        sums: the mark of the sums alone.
    """
    return Mark(KIND, sums.detail)


def read_computed(task: Task) -> Computed:
    """The form of a task's function.

    Raises:
        FormError: the second of two images that the sums are made of is not computed in the function.
        SpaceError: the function cannot be read.
    """
    import tvm
    from tvm import tirx
    from tvm.s_tir import SBlock, SBlockRealize

    main = task_module(task)["main"]
    name = f"tilewright.{KIND}"
    if main.attrs is None or name not in main.attrs:
        raise FormError(f"the function says which sums it computes, but {task.name!r} does not")
    root, blocks = main.body.block, _blocks(main)
    image = _find_image(blocks, task.name)
    writers = [block for block in blocks if any(region.source.same_as(image) for region in block.writes)]
    keeps = not any(image.same_as(param) for param in main.params)
    if len(writers) != 1 or not (keeps or image.same_as(main.params[-2])):
        raise FormError(f"one block computes the image, but {task.name!r} has {len(writers)}")
    *others, sums = [param for param in main.params if not param.same_as(image)]
    buffers = [*root.alloc_buffers, *([] if keeps else [image])]
    block = SBlock([], [], [], "root", root.body, None, buffers)
    function = tirx.PrimFunc([*others, sums], SBlockRealize([], tirx.const(True, "bool"), block), main.ret_type)
    detail, computed = str(main.attrs[name]), str(writers[0].name_hint)
    attributes = {"global_symbol": "main", "tirx.noalias": True, COMPUTED: computed, f"tilewright.{SUMS}": detail}
    text = tvm.ir.save_json(tvm.ir.IRModule({"main": function.with_attr(attributes)}))
    return Computed(Task(f"{task.key}.base", task.name, SUMS, task.flop, text), main, keeps)


def write_image(form: Computed, scheduled: PrimFunc) -> PrimFunc:
    """The whole function, of the scheduled one that keeps the image to itself.

    Args:
        form: of the function.
        scheduled: the program of ``form.base``.
    """
    from tvm import tirx
    from tvm.s_tir import SBlock, SBlockRealize

    name = str(scheduled.attrs[COMPUTED])
    root = scheduled.body.block
    (image,) = {region.source for block in _blocks(scheduled) if block.name_hint == name for region in block.writes}
    attributes = dict(form.function.attrs.items())
    if form.keeps:
        return tirx.PrimFunc(list(scheduled.params), scheduled.body, scheduled.ret_type).with_attr(attributes)
    buffers = [buffer for buffer in root.alloc_buffers if not buffer.same_as(image)]
    if len(buffers) == len(root.alloc_buffers):
        raise FormError("the image is a buffer of the whole program")
    block = SBlock([], [], [], "root", root.body, None, buffers)
    *others, sums = scheduled.params
    params: list[Var] = [*others, image, sums]
    made = tirx.PrimFunc(params, SBlockRealize([], tirx.const(True, "bool"), block), scheduled.ret_type)
    return made.with_attr(attributes)


def _find_image(blocks: list[SBlock], name: str) -> Var:
    """The gradient of a convolution's result, which the block that sums reads besides the data and the sums."""
    block = next((block for block in blocks if block.name_hint == BLOCK), None)
    if block is None:
        raise FormError(f"the function sums over pixels, but {name!r} does not")
    sums = block.writes[0].source
    read = list(dict.fromkeys(region.source for region in block.reads if not region.source.same_as(sums)))
    written = {region.source for other in blocks for region in other.writes if not other.name_hint.startswith(PAD)}
    found = [buffer for buffer in read if buffer in written]
    if len(found) != 1:
        raise FormError(f"one of the images that are summed is computed, but {name!r} has {len(found)}")
    return found[0]


def _blocks(function: PrimFunc) -> list[SBlock]:
    """All blocks of a function."""
    from tvm.s_tir import SBlock
    from tvm_ffi import structural_walk

    found: list[SBlock] = []
    structural_walk(function.body, ((SBlock, found.append),))
    return found
