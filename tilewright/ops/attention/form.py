"""The description of an attention: its sizes, how its operands lie in memory, and what is done with the scores."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from tilewright.errors import FormError

__all__ = ["KIND", "Attention", "Dims", "Matrices", "Place", "read_dims", "read_place"]

#: The kind of the tasks.
KIND = "attention"
#: Where a dimension of an operand is read: along a part of the batch ("batch", number), at ("fixed", index), or along
#: ("query", 0), ("key", 0), ("depth", 0) or ("width", 0).
Place: TypeAlias = "tuple[str, int]"
#: The extent and the place of each dimension of an operand.
Dims: TypeAlias = "tuple[tuple[int, Place], ...]"


@dataclass(frozen=True)
class Matrices:
    """The sizes of an attention, and how its matrices lie. What is computed with them, a subclass says.

    Attributes:
        batch: the extents of the batch's parts, such as sequences and heads.
        queries, keys: the rows of Q, and of K and V.
        depth, width: the columns of Q and K, and of V and the result.
        q, k, v: how the operands lie.
        out: the place of each dimension of the result.
    """

    batch: tuple[int, ...]
    queries: int
    keys: int
    depth: int
    width: int
    q: Dims
    k: Dims
    v: Dims
    out: tuple[Place, ...]

    @property
    def items(self) -> int:
        """The number of matrices in the batch."""
        return math.prod(self.batch)

    def extent(self, place: Place) -> int:
        """The elements along a place."""
        kind, number = place
        known = {"query": self.queries, "key": self.keys, "depth": self.depth, "width": self.width}
        return self.batch[number] if kind == "batch" else known[kind]

    def extents(self, places: Iterable[Place]) -> Dims:
        """The places of a tensor's dimensions, with their extents."""
        return tuple((self.extent(place), place) for place in places)

    def lies(self, dims: Dims, *kinds: str) -> bool:
        """Whether dimensions fit their places: those of the batch and of ``kinds``, each of which is there once."""
        moving = [place for _, place in dims if place[0] != "fixed"]
        wanted = [("batch", i) for i in range(len(self.batch))] + [(kind, 0) for kind in kinds]
        needed = {place for place in wanted if self.extent(place) > 1}
        return needed <= {*moving} and len({*moving}) == len(moving) and self.fits(dims)

    def fits(self, dims: Dims) -> bool:
        """Whether each dimension has the extent of its place."""
        return all(0 <= p[1] < e if p[0] == "fixed" else e == self.extent(p) for e, p in dims)


@dataclass(frozen=True)
class Attention(Matrices):
    """softmax(scale Q K^T + masks) V for a batch of matrices that are read in place.

    Attributes:
        scale: the factor of the scores.
        masks: how the operands lie that are added to the scores. A dimension of extent 1 is at ("fixed", 0).
        causal: whether query i reads the keys up to i + keys - queries alone.
        safe: whether a row that reads no key gives zeros, as in PyTorch's attention, instead of nan.
        sums: whether a second result ``(items, queries)`` has the logarithm of the sum of the exponentials of each
            query's scores, which the backward pass of training needs.
        finite: whether any row whose softmax is nan gives zeros, as in ONNX files of PyTorch's attention: a row that
            reads no key, or has a score that is nan or infinite.
    """

    scale: float = 1.0
    masks: tuple[Dims, ...] = ()
    causal: bool = False
    safe: bool = False
    sums: bool = False
    finite: bool = False

    @property
    def work(self) -> int:
        """The number of multiply-adds of both products. Of a causal attention, half of them count."""
        whole = self.items * self.queries * self.keys * (self.depth + self.width)
        return whole // 2 if self.causal else whole

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the operands, then those of the results, by name."""
        named: dict[str, Dims] = {"q": self.q, "k": self.k, "v": self.v}
        named |= {f"mask{i}": dims for i, dims in enumerate(self.masks)}
        shapes = {name: tuple(extent for extent, _ in dims) for name, dims in named.items()}
        shapes["out"] = tuple(self.extent(place) for place in self.out)
        return shapes | ({"sums": (self.items, self.queries)} if self.sums else {})

    def __str__(self) -> str:
        sizes = "x".join(map(str, (self.items, self.queries, self.keys, self.depth, self.width)))
        return f"attention {sizes}{' causal' * self.causal}{' masked' * bool(self.masks)}{' with sums' * self.sums}"

    @property
    def detail(self) -> str:
        """The attention as a text, for a mark."""
        fields = dataclasses.asdict(self)
        for name in ("sums", "finite"):
            if not fields[name]:
                del fields[name]  # as in records of versions that did not know it
        return json.dumps(fields, sort_keys=True)

    @classmethod
    def parse(cls, detail: str) -> Attention:
        """The attention of a text that :attr:`detail` gave.

        Raises:
            FormError: the text describes no attention.
        """
        try:
            fields = json.loads(detail)
            operands = {name: read_dims(fields[name]) for name in ("q", "k", "v")}
            out = tuple(read_place(place) for place in fields["out"])
            masks = tuple(read_dims(dims) for dims in fields["masks"])
            attention = cls(**(fields | operands | {"batch": tuple(fields["batch"]), "out": out, "masks": masks}))
            attention._check()
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            raise FormError(f"an attention has a description of its operands, but this is none: {exc}") from exc
        return attention

    def _check(self) -> None:
        sizes = (*self.batch, self.queries, self.keys, self.depth, self.width)
        lies, fits = self.lies, self.fits
        wanted = [
            all(isinstance(size, int) and size > 0 for size in sizes) and bool(self.batch),
            lies(self.q, "query", "depth") and lies(self.k, "key", "depth") and lies(self.v, "key", "width"),
            self.v[-1][1] == self.out[-1] == ("width", 0),
            lies(self.extents(self.out), "query", "width"),
            isinstance(self.scale, float) and math.isfinite(self.scale),
            all(fits(mask) and {p[0] for _, p in mask} <= {"batch", "query", "key", "fixed"} for mask in self.masks),
            all(isinstance(flag, bool) for flag in (self.causal, self.safe, self.sums, self.finite)),
            not self.causal or self.keys >= self.queries,
        ]
        if not all(wanted):
            raise ValueError(f"its rule number {wanted.index(False) + 1} is broken")


def read_place(found: Any) -> Place:
    """A place as JSON has it. Raises ``ValueError`` or ``TypeError`` for what is none."""
    kind, number = found
    if not isinstance(kind, str) or not isinstance(number, int):
        raise ValueError(f"a place is a kind and a number, but this is {found!r}")
    return kind, number


def read_dims(found: Any) -> Dims:
    """Extents and places as JSON has them. Raises ``ValueError`` or ``TypeError`` for what is none."""
    return tuple((int(extent), read_place(place)) for extent, place in found)
