"""How the loops of a product of tokens are arranged."""

from __future__ import annotations

from dataclasses import dataclass

from tilewright.ops.token_product.form import TokenProduct
from tilewright.space.knob import divisors

__all__ = ["Nest"]

#: Most columns of the left matrix that are packed side by side.
_WIDEST = 48
#: Elements of the longest vector that packing copies.
_VECTOR = 16
#: Most tokens that are written out in the innermost loop.
_TOKENS = 8


@dataclass(frozen=True)
class Nest:
    """How the loops of a product of tokens are arranged.

    Attributes:
        form: the product.
        lanes: columns of the right matrix in a vector, a divisor of them.
        rows: columns of the left matrix in a register tile, a divisor of them: rows of the product.
        columns: vectors of columns of the right matrix in a register tile. They divide its vectors.
        chunk: about how many tokens are summed at a time.
        parts: into which tokens, left and right panels are cut. Each part runs in parallel.
        packs_right: whether the right matrix is packed, too.
        ahead: whether the next chunk, and the sums so far, are fetched meanwhile.
    """

    form: TokenProduct
    lanes: int
    rows: int
    columns: int
    chunk: int
    parts: tuple[int, int, int] = (1, 1, 1)
    packs_right: bool = False
    ahead: bool = False

    @property
    def step(self) -> int:
        """Tokens that are written out."""
        return max(d for d in divisors(self.form.tokens) if d <= _TOKENS)

    @property
    def units(self) -> int:
        """Steps of all tokens."""
        return self.form.tokens // self.step

    @property
    def chunks(self) -> int:
        """Chunks of all tokens, of about equal length."""
        wanted = max(self.parts[0], round(self.form.tokens / self.chunk), 1)
        return min(wanted, self.units)

    @property
    def most(self) -> int:
        """Tokens of the longest chunk."""
        return self.step * -(-self.units // self.chunks)

    @property
    def side(self) -> int:
        """Columns of the left matrix that are packed side by side: whole register tiles, and best whole vectors."""
        tiles = divisors(self.form.left // self.rows)
        sides = [n * self.rows for n in tiles if n == 1 or n * self.rows <= _WIDEST]
        return max(sides, key=lambda side: (_copied(side), side))

    @property
    def copied(self) -> int:
        """Elements of a vector that packing copies."""
        return _copied(self.side)

    @property
    def width(self) -> int:
        """Columns of the right matrix in a panel."""
        return self.columns * self.lanes

    @property
    def panels(self) -> tuple[int, int]:
        """Panels of the left and of the right matrix."""
        return self.form.left // self.side, self.form.right // self.width

    @property
    def tiles(self) -> int:
        """Register tiles in a left panel."""
        return self.side // self.rows


def _copied(side: int) -> int:
    return max(d for d in divisors(side) if d <= _VECTOR)
