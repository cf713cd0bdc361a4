"""The form of a sum over the batch and all pixels: its axes, their extents, and what it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.errors import FormError
from tilewright.ops.mark import Mark
from tilewright.space.loops import REDUCTION, SPATIAL

if TYPE_CHECKING:
    from tvm.ir import IRModule

__all__ = ["AXES", "BLOCK", "COMPUTED", "KIND", "PAD", "TILED", "Form", "mark_roles", "read_form"]

#: The kind of the tasks. The attribute of their functions, ``tilewright.pixel_sums``, tells the roles of iterators.
KIND = "pixel_sums"
#: All axes of results: groups, blocks of inputs, blocks of outputs, terms, rows and columns of a kernel, inputs of a
#: block, lanes. The blocks of a function without weights count as blocks of inputs. A missing axis has extent 1.
AXES = "gcotyxul"
#: The axes of which a register tile may hold several steps.
TILED = "oyxu"
#: The names of the blocks that add, and that pad the data.
BLOCK, PAD = "pixel_sum", "pad"
#: The attribute of functions that compute what they sum. It names the block that does.
COMPUTED = "tilewright.computed"


@dataclass(frozen=True)
class Form:
    """A sum ``S[g, c, o, t, y, x, u, l] += F(pixel (n, i, j))``, or one with fewer axes.

    Attributes:
        roles: the axis of each spatial iterator of the block, in the block's order; the lanes come last.
        extents: extent of each of ``AXES``.
        batch, rows, cols: extents of the sum.
        padded: whether a block in the function pads the data.
        row_bytes: bytes that a row of pixels has in one block of all tensors that are read.
        computed: the block that computes the gradient of a convolution's result, chunk by chunk; "": that is an
            operand, or computed where it is read.
        alone: whether the sums are the function's result. Otherwise another block writes it.
    """

    roles: str
    extents: dict[str, int]
    batch: int
    rows: int
    cols: int
    padded: bool
    row_bytes: int
    alone: bool
    computed: str = ""

    @property
    def depthwise(self) -> bool:
        """Whether vectors are multiplied by vectors, instead of by one number."""
        return "u" not in self.roles

    @property
    def is_column_sum(self) -> bool:
        """Whether it sums the columns of a matrix: nothing is multiplied by a matrix, and columns lie side by side."""
        return "o" in self.roles and not set("guyx") & set(self.roles)

    @property
    def is_dense(self) -> bool:
        """Whether every input meets every output, as in a product of matrices."""
        return {"o", "u"} <= set(self.roles)


def mark_roles(roles: str) -> dict[str, str]:
    """The annotations of the block.

    Args:
        roles: letters of ``AXES``, one for each spatial iterator. The sum goes over batch, rows, columns.
    """
    return Mark(KIND, roles).annotations


def read_form(module: IRModule) -> Form:
    """The form of the sum in ``module``.

    Raises:
        FormError: it holds no such sum, or one of another form.
    """
    from tvm.s_tir import Schedule

    attributes = module["main"].attrs
    name = f"tilewright.{KIND}"
    roles = str(attributes[name]) if attributes is not None and name in attributes else ""
    if not roles.endswith("l") or "c" not in roles or len(set(roles)) != len(roles) or not set(roles) <= set(AXES):
        raise FormError(f"the roles of a sum over pixels are such as 'gcoyxul', but these are {roles!r}")
    schedule = Schedule(module)
    names = [str(schedule.get(b).name_hint) for b in schedule.get_child_blocks(schedule.get_sblock("root"))]
    if BLOCK not in names:
        raise FormError(f"a sum over pixels has a block {BLOCK!r}, but this function has {', '.join(names)}")
    block = schedule.get_sblock(BLOCK)
    statement = schedule.get(block)
    kinds = [int(v.iter_type) for v in statement.iter_vars]
    if kinds != [SPATIAL] * len(roles) + [REDUCTION] * 3:
        raise FormError(f"the block's iterators are not those of its roles {roles!r}, and batch, rows, columns")
    found = [_integer(v.dom.extent) for v in statement.iter_vars]
    extents = dict.fromkeys(AXES, 1) | dict(zip(roles, found, strict=False))
    batch, rows, cols = found[-3:]
    producers = [str(schedule.get(p).name_hint) for p in schedule.get_producers(block)]
    row_bytes = 4 * cols * (extents["l"] + extents["u"] * ("u" in roles))
    alone = not schedule.get_consumers(block)
    computed = str(attributes[COMPUTED]) if attributes is not None and COMPUTED in attributes else ""
    return Form(roles, extents, batch, rows, cols, PAD in producers, row_bytes, alone, computed)


def _integer(value: object) -> int:
    number = getattr(value, "value", value)
    if not isinstance(number, int):
        raise FormError(f"a sum over pixels has known extents, but one of these is {value}")
    return number
