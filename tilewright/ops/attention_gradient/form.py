"""The description of an attention's gradient: the attention, and how gradients lie in memory."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from tilewright.errors import FormError
from tilewright.ops.attention.form import Attention, Dims, read_dims

__all__ = ["KIND", "AttentionGradient"]

#: The kind of the tasks.
KIND = "attention_gradient"


@dataclass(frozen=True)
class AttentionGradient:
    """The gradients of queries, keys and values, all read and written in place.

    Attributes:
        attention: the attention. It gave its result and the logarithms of sums, which are operands here.
        gradient: how the gradient of the result lies.
        dq, dk, dv: how the gradients of queries, keys and values lie.
        joined: whether they are the three parts of one result.
    """

    attention: Attention
    gradient: Dims
    dq: Dims
    dk: Dims
    dv: Dims
    joined: bool = False

    @property
    def work(self) -> int:
        """The number of multiply-adds of the five products. Of a causal attention, half of them count."""
        form = self.attention
        whole = form.items * form.queries * form.keys * (3 * form.depth + 2 * form.width)
        return whole // 2 if form.causal else whole

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the operands, then those of the results, by name."""
        operands = {"gradient": tuple(extent for extent, _ in self.gradient)} | self.attention.shapes
        return operands | {name: tuple(extent for extent, _ in dims) for name, dims in self.results.items()}

    @property
    def results(self) -> dict[str, Dims]:
        """How the results lie, by name. What is joined is called ``dqkv``."""
        return {"dqkv": self.dq} if self.joined else {"dq": self.dq, "dk": self.dk, "dv": self.dv}

    def result_of(self, part: str) -> str:
        """The name of the result that has ``dq``, ``dk`` or ``dv``."""
        return "dqkv" if self.joined else part

    def __str__(self) -> str:
        form = self.attention
        sizes = "x".join(map(str, (form.items, form.queries, form.keys, form.depth, form.width)))
        return f"attention_gradient {sizes}{' causal' * form.causal}"

    @property
    def detail(self) -> str:
        """The gradient as a text, for a mark."""
        fields = {name: getattr(self, name) for name in ("gradient", "dq", "dk", "dv", "joined")}
        return json.dumps(fields | {"attention": self.attention.detail}, sort_keys=True)

    @classmethod
    def parse(cls, detail: str) -> AttentionGradient:
        """The gradient of a text that :attr:`detail` gave.

        Raises:
            FormError: the text describes no gradient of an attention.
        """
        try:
            fields = json.loads(detail)
            if {*fields} != {field.name for field in dataclasses.fields(cls)}:
                raise ValueError(f"its fields are {sorted(fields)}")
            dy, dq, dk, dv = (read_dims(fields[name]) for name in ("gradient", "dq", "dk", "dv"))
            gradient = cls(Attention.parse(fields["attention"]), dy, dq, dk, dv, bool(fields["joined"]))
            gradient._check()
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            raise FormError(
                f"the gradient of an attention has a description of its operands, but this is none: {exc}"
            ) from exc
        return gradient

    def _check(self) -> None:
        form = self.attention
        depth, width = ("depth", 0), ("width", 0)
        wanted = [
            form.sums and not form.masks and not form.safe,
            form.lies(self.gradient, "query", "width") and form.lies(self.dq, "query", "depth"),
            form.lies(self.dk, "key", "depth") and form.lies(self.dv, "key", "width"),
            self.gradient[-1][1] == self.dv[-1][1] == width,
            form.q[-1][1] == form.k[-1][1] == self.dq[-1][1] == self.dk[-1][1] == depth,
            self.complete,
        ]
        if not all(wanted):
            raise ValueError(f"its rule number {wanted.index(False) + 1} is broken")

    @property
    def complete(self) -> bool:
        """Whether each element of the results is that of a gradient."""
        parts = [self.dq, self.dk, self.dv]
        fixed = [[(at, extent, p[1]) for at, (extent, p) in enumerate(dims) if p[0] == "fixed"] for dims in parts]
        if not self.joined:
            return not any(fixed)
        alike = len({tuple(extent for extent, _ in dims) for dims in parts}) == 1
        return alike and len(fixed[0]) == 1 and fixed == [[(fixed[0][0][0], 3, index)] for index in range(3)]
