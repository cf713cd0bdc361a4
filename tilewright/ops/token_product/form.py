"""The description of a product of tokens."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from tilewright.errors import FormError

__all__ = ["KIND", "TokenProduct"]

#: The kind of the tasks.
KIND = "token_product"


@dataclass(frozen=True)
class TokenProduct:
    """The product ``left^T right``, a sum over all tokens. Perhaps also the sums of the left matrix's columns.

    Of a dense layer, the left matrix is the gradient of its result, and the right one is its data. The product is then
    the gradient of the weights, and the sums are that of the bias.

    Attributes:
        tokens: the rows of both matrices.
        left, right: the columns of each.
        sums: whether the columns of the left matrix are summed, too.
    """

    tokens: int
    left: int
    right: int
    sums: bool = False

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the operands, then those of the results, by name."""
        operands = {"left": (self.tokens, self.left), "right": (self.tokens, self.right)}
        return operands | self.results

    @property
    def results(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the results, by name."""
        product: dict[str, tuple[int, ...]] = {"product": (self.left, self.right)}
        return product | ({"sums": (self.left,)} if self.sums else {})

    @property
    def detail(self) -> str:
        """The product as a text, for a mark."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, detail: str) -> TokenProduct:
        """The product of a text that :attr:`detail` gave.

        Raises:
            FormError: the text describes no product of tokens.
        """
        try:
            fields = json.loads(detail)
            if {*fields} != {field.name for field in dataclasses.fields(cls)}:
                raise ValueError(f"its fields are {sorted(fields)}")
            tokens, left, right, sums = (fields[name] for name in ("tokens", "left", "right", "sums"))
            extents = [tokens, left, right]
            if any(type(extent) is not int or extent < 1 for extent in extents) or type(sums) is not bool:
                raise ValueError(f"its extents are {extents}, and its sums {sums!r}")
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            raise FormError(f"a product of tokens has a description of its extents, but this is none: {exc}") from exc
        return cls(tokens, left, right, sums)
