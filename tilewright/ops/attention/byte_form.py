"""The description of an attention of bytes, as statically quantised networks have it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TypeAlias

from tilewright.errors import FormError
from tilewright.ops.attention.form import Dims, Matrices, read_dims, read_place
from tilewright.ops.contraction.dot_products import QUAD

__all__ = ["BYTE_KIND", "FEWEST", "ByteAttention", "Step"]

#: The kind of the tasks.
BYTE_KIND = "byte_attention"
#: The fewest queries, keys and columns: a vector holds 4 of them or more.
FEWEST = 4


@dataclass(frozen=True)
class Step:
    """What is done to scores: ``round(limit(factor * score + factors of masks * masks))``.

    Attributes:
        factor: the place of the factor in the ``scales``. Those of the masks follow, then the two limits.
        masks: the numbers of the masks that are added.
        rounded: whether there are limits, and the score is rounded. The last step, which gives softmax its operand,
            has none.
    """

    factor: int
    masks: tuple[int, ...]
    rounded: bool

    @property
    def limits(self) -> tuple[int, int]:
        """The places of both limits in the ``scales``."""
        return self.factor + len(self.masks) + 1, self.factor + len(self.masks) + 2


#: How many masks are added before each rounding of the scores, and at the end.
_Masked: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class ByteAttention(Matrices):
    """round(softmax(scores) * 255) V of bytes, for a batch of matrices that are read in place.

    Scores are Q K^T, rounded to bytes once or several times, perhaps after masks were added. Whatever differs from
    layer to layer is an operand: scales and zero points. Columns of operands lie side by side.

    Attributes:
        masked: how many masks are added before each rounding of the scores, and after the last one.
        masks: how the float32 operands lie that are added. A dimension of extent 1 is at ("fixed", 0).
        tables: whether the bytes of Q, and those of K, are looked up in a table of 256 bytes before.
        roundings: how often probabilities are rounded: by one scale after the other.
    """

    masked: _Masked
    masks: tuple[Dims, ...] = ()
    tables: tuple[bool, bool] = (False, False)
    roundings: int = 1

    @property
    def work(self) -> int:
        """The number of multiply-adds of both products."""
        return self.items * self.queries * self.keys * (self.depth + self.width)

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is done to the scores, in order. The last one gives softmax its operand."""
        found: list[Step] = []
        place = mask = 0
        for i, count in enumerate(self.masked):
            rounded = i < len(self.masked) - 1
            found.append(Step(place, tuple(range(mask, mask + count)), rounded))
            place += 1 + count + 2 * rounded
            mask += count
        return tuple(found)

    @property
    def ends(self) -> tuple[int, int]:
        """The places in the ``scales`` of the first factor of the probabilities, and of the result's factor.

        Between them are the factors by which rounded probabilities are rounded again.
        """
        last = self.steps[-1]
        place = last.factor + 1 + len(last.masks)
        return place, place + self.roundings

    @property
    def kinds(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """The shapes and the dtypes of the operands, then those of the result, by name.

        ``zeros`` are the zero points of Q, K, V and of the result.
        """
        named = {name: (tuple(extent for extent, _ in getattr(self, name)), "uint8") for name in ("q", "k", "v")}
        named |= {f"{name}_table": ((256,), "uint8") for name, has in zip("qk", self.tables, strict=True) if has}
        named |= {f"mask{i}": (tuple(e for e, _ in dims), "float32") for i, dims in enumerate(self.masks)}
        out = tuple(self.extent(place) for place in self.out)
        return named | {"scales": ((self.ends[1] + 1,), "float32"), "zeros": ((4,), "int32"), "out": (out, "uint8")}

    def __str__(self) -> str:
        sizes = "x".join(map(str, (self.items, self.queries, self.keys, self.depth, self.width)))
        return f"byte attention {sizes}{' masked' * bool(self.masks)}"

    @property
    def detail(self) -> str:
        """The attention as a text, for a mark."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, detail: str) -> ByteAttention:
        """The attention of a text that :attr:`detail` gave.

        Raises:
            FormError: the text describes no attention of bytes.
        """
        try:
            fields = json.loads(detail)
            operands = {name: read_dims(fields[name]) for name in ("q", "k", "v")}
            lists = {name: tuple(fields[name]) for name in ("batch", "masked", "tables")}
            places = {"out": tuple(read_place(place) for place in fields["out"])}
            masks = {"masks": tuple(read_dims(dims) for dims in fields["masks"])}
            attention = cls(**(fields | operands | lists | places | masks))
            attention._check()
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            raise FormError(f"an attention of bytes has a description, but this is none: {exc}") from exc
        return attention

    def _check(self) -> None:
        sizes = (*self.batch, self.queries, self.keys, self.depth, self.width)
        fits = self.fits

        def lies(dims: Dims, row: str, column: str) -> bool:
            """Whether the dimensions fit their places, the columns last."""
            return self.lies(dims, row, column) and dims[-1][1] == (column, 0)

        wanted = [
            all(isinstance(size, int) and size > 0 for size in sizes) and bool(self.batch),
            min(self.queries, self.keys, self.depth, self.width) >= FEWEST and self.depth % QUAD == 0,
            lies(self.q, "query", "depth") and lies(self.k, "key", "depth") and lies(self.v, "key", "width"),
            lies(self.extents(self.out), "query", "width"),
            all(fits(mask) and {p[0] for _, p in mask} <= {"batch", "query", "key", "fixed"} for mask in self.masks),
            all(isinstance(count, int) and count >= 0 for count in self.masked) and bool(self.masked),
            sum(self.masked) == len(self.masks),
            isinstance(self.roundings, int) and self.roundings > 0,
            len(self.tables) == 2 and all(isinstance(flag, bool) for flag in self.tables),
        ]
        if not all(wanted):
            raise ValueError(f"its rule number {wanted.index(False) + 1} is broken")
