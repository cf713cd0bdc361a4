"""Loads and stores elements of an attention's tensors, and how its loops are arranged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tilewright.ops.attention.form import Attention, Dims, Place
from tilewright.ops.statements import load, make_index
from tilewright.ops.written import declare

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import ForKind

__all__ = ["Elements", "Nest", "Tensors"]


@dataclass(frozen=True)
class Nest:
    """How the loops of an attention are arranged.

    Attributes:
        lanes: queries in a vector of scores; at most the queries.
        vectors: vectors of queries in a block.
        keys: keys in a register tile of scores; at most the keys.
        rows: queries in a register tile of results. It divides the queries of a block.
        columns: vectors of columns in a register tile of results.
        column_lanes: columns in a vector; at most the width.
        stripe: keys in a stripe, at least ``keys``.
        unroll: steps of the product of queries and keys that are written out.
        parts: into which the blocks of a matrix are cut.
        copies: whether each part copies the keys and the values before its blocks.
        parallel: whether parts run in parallel.
        written_out: whether inner loops are vectorised and unrolled; otherwise they stay plain loops.
    """

    lanes: int
    vectors: int
    keys: int
    rows: int
    columns: int
    column_lanes: int
    stripe: int
    unroll: int = 1
    parts: int = 1
    copies: bool = False
    parallel: bool = False
    written_out: bool = True

    @classmethod
    def plain(cls, attention: Attention) -> Nest:
        """The plain loops of the function before scheduling."""
        return cls(1, 1, 1, 1, 1, 1, attention.keys, written_out=False)


class Tensors:
    """The tensors of a function that is written for a batch of matrices.

    Attributes:
        batch: the extents of the batch's parts.
        params: the parameters by name.
        buffers: the buffers besides.

    Args:
        batch: the extents of the batch's parts.
        params: the parameters by name.
        written_out: whether inner loops are vectorised and unrolled.
    """

    def __init__(self, batch: tuple[int, ...], params: Mapping[str, Var], written_out: bool) -> None:
        self.batch, self.params = batch, dict(params)
        self.buffers: list[Var] = []
        self._written_out = written_out

    def allocate(self, name: str, shape: tuple[int, ...], scope: str = "global") -> Var:
        """A new buffer of float32; ``scope`` ``local``: registers."""
        buffer = declare(name, shape, scope=scope)
        self.buffers.append(buffer)
        return buffer

    def indices(self, dims: Sequence[Place], item: Expr, **axes: Expr) -> list[Expr]:
        """The index of each dimension for a matrix of the batch."""
        found = []
        for kind, place in dims:
            if kind == "batch":
                step = math.prod(self.batch[place + 1 :])
                index = item // make_index(step) if step > 1 else item
                found.append(index % make_index(self.batch[place]) if place else index)
            else:
                found.append(make_index(place) if kind == "fixed" else axes[kind])
        return found

    def load(self, name: str, dims: Dims, item: Expr, **axes: Expr) -> Expr:
        """An element of an operand."""
        return load(self.params[name], self.indices([place for _, place in dims], item, **axes))

    @property
    def unrolled(self) -> ForKind | None:
        """The kind of a loop that is written out."""
        from tvm.tirx import ForKind

        return ForKind.UNROLLED if self._written_out else None

    @property
    def vectorized(self) -> ForKind | None:
        """The kind of a loop over the lanes of a vector."""
        from tvm.tirx import ForKind

        return ForKind.VECTORIZED if self._written_out else None


class Elements(Tensors):
    """The tensors of an attention.

    Attributes:
        copies: the copied keys and values by the names of their operands; empty if they are read where they lie.

    Args:
        attention: the operator.
        params: one buffer for each of ``attention.shapes``.
        nest: how the loops are arranged.
    """

    def __init__(self, attention: Attention, params: Sequence[Var], nest: Nest) -> None:
        super().__init__(attention.batch, dict(zip(attention.shapes, params, strict=True)), nest.written_out)
        self.attention, self.nest = attention, nest
        self.copies: dict[str, Var] = {}
        if nest.copies:
            self.copies["k"] = self.allocate("k_copy", (attention.keys, attention.depth))
            self.copies["v"] = self.allocate("v_copy", (attention.keys, attention.width))

    def read(self, name: str, item: Expr, key: Expr, column: Expr) -> Expr:
        """An element of the keys or the values."""
        if self.nest.copies:
            return load(self.copies[name], [key, column])
        axes = {"key": key, "depth" if name == "k" else "width": column}
        return self.load(name, getattr(self.attention, name), item, **axes)
