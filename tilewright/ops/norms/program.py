"""Writes the programs of a layer norm in training, and of its gradient: as many rows at a time as a vector has lanes.

for part of the rows, in parallel:
    for block of rows:
        for row: add the vectors of the row to one vector
        transpose these vectors, and add them: each lane of one vector is the sum of a row
        (both steps twice: for the means, and for the variances)
        for row: compute its elements, while its data are still in the caches

The program of the gradient is similar. While it adds the vectors of rows, it also adds those of columns, in a buffer of
each part.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tilewright.ops.attention.elements import Tensors
from tilewright.ops.attention.turning import turn_square
from tilewright.ops.elementwise.float32 import number
from tilewright.ops.norms.form import NormGradient, TrainingNorm
from tilewright.ops.statements import load, make_counter, make_index, make_loop, make_sequence, store

if TYPE_CHECKING:
    from tvm.ir import Expr, Var
    from tvm.tirx import Stmt

__all__ = ["write_gradient", "write_norm"]


def write_norm(form: TrainingNorm, params: Sequence[Var], lanes: int, parts: int) -> tuple[Stmt, list[Var]]:
    """The statements of a norm, and the buffers that they need.

    Args:
        form: of the norm. The lanes divide its rows and columns.
        params: one buffer for each of ``form.shapes``.
        lanes: of a vector, a power of 2.
        parts: of the rows that run in parallel.
    """
    from tvm import tirx

    rows = _Rows(form.rows, form.columns, dict(zip(form.shapes, params, strict=True)), lanes, parts)
    data, scale, shift, out, moments = rows.params.values()
    kept = rows.tensors.allocate("moments_of_block", (2, lanes))
    mean, inverse = make_index(0), make_index(1)
    share, epsilon = rows.wide(number(1.0 / form.columns)), rows.wide(number(form.epsilon))

    def centred(row: Expr, vector: Expr) -> Expr:
        return rows.read(data, row, vector) - rows.wide(load(kept, [mean, row]))

    def square(row: Expr, vector: Expr) -> Expr:
        value = centred(row, vector)
        return value * value

    def finish(sums: Expr) -> Stmt:
        return store(kept, rows.wide(number(1.0)) / tirx.sqrt(sums * share + epsilon), [inverse, rows.lane])

    def element(row: Expr, vector: Expr) -> Stmt:
        columns = rows.columns(vector)
        value = centred(row, vector) * rows.wide(load(kept, [inverse, row]))
        value = value * load(scale, [columns]) + load(shift, [columns])
        return store(out, value, [rows.begin + row, columns])

    def copy() -> Stmt:
        row, which = make_counter("row"), make_counter("which")
        value = store(moments, load(kept, [which, row]), [rows.begin + row, which])
        return make_loop(row, lanes, make_loop(which, 2, value))

    read = functools.partial(rows.read, data)
    body = [
        *rows.reduce("mean", read, lambda sums: store(kept, sums * share, [mean, rows.lane])),
        *rows.reduce("variance", square, finish),
        copy(),
        rows.over_block(element),
    ]
    return rows.over_parts(make_sequence(body)), rows.tensors.buffers


def write_gradient(
    form: NormGradient, params: Sequence[Var], lanes: int, parts: int, together: int
) -> tuple[Stmt, list[Var]]:
    """The statements of a norm's gradient, and the buffers that they need.

    Args:
        form: of the gradient. The lanes divide its rows and columns.
        params: one buffer for each of ``form.shapes``.
        lanes: of a vector, a power of 2.
        parts: of the rows that run in parallel.
        together: rows whose sums stay in registers, a divisor of the lanes.
    """
    rows = _Rows(form.rows, form.columns, dict(zip(form.shapes, params, strict=True)), lanes, parts)
    return _Gradient(form, rows, together).write(), rows.tensors.buffers


class _Gradient:
    """Writes the statements of a norm's gradient.

    Args:
        form: of the gradient.
        rows: the loops over its rows.
        together: rows whose sums stay in registers.
    """

    def __init__(self, form: NormGradient, rows: _Rows, together: int) -> None:
        self.form, self.rows, self.together = form, rows, together
        tensors, lanes = rows.tensors, rows.lanes
        self.columns = tensors.allocate("column_sums", (rows.parts, 2, form.columns))
        self.partial = tensors.allocate("row_sums", (2, lanes, lanes))
        self.means = tensors.allocate("row_means", (2, lanes))
        self.of_rows = tensors.allocate("sums_of_rows", (2, together, lanes), "local")
        self.of_columns = tensors.allocate("sums_of_columns", (2, lanes), "local")

    def write(self) -> Stmt:
        """All statements."""
        rows = self.rows
        place, vector = make_counter("place"), make_counter("vector")
        clear = store(self.columns, rows.wide(number(0.0)), [rows.part, place, rows.columns(vector)])
        clear = make_loop(place, 2, make_loop(vector, rows.vectors, clear))
        share = rows.wide(number(1.0 / self.form.columns))
        body = [self._sum()]
        for number_of_sum in range(2):
            which = make_index(number_of_sum)
            vectors = [load(self.partial, [which, make_index(row), rows.lane]) for row in range(rows.lanes)]
            statements, total = rows.add_lanes(vectors, f"means_{number_of_sum}")
            body += [*statements, store(self.means, total * share, [which, rows.lane])]
        body.append(rows.over_block(self._element))
        whole = rows.over_parts(make_sequence(body), clear)
        place, vector = make_counter("sum"), make_counter("column")
        parts = (load(self.columns, [make_index(part), place, rows.columns(vector)]) for part in range(self.rows.parts))
        total = functools.reduce(lambda a, b: a + b, parts)
        finish = store(rows.params["sums"], total, [place, rows.columns(vector)])
        return make_sequence([whole, make_loop(place, 2, make_loop(vector, rows.vectors, finish))])

    def _normal(self, row: Expr, vector: Expr) -> Expr:
        rows, params = self.rows, self.rows.params
        mean, inverse = (rows.wide(load(params[name], [rows.begin + row])) for name in ("mean", "inverse"))
        return (rows.read(params["data"], row, vector) - mean) * inverse

    def _sum(self) -> Stmt:
        """The sums of rows, and those of columns."""
        rows, lane, zero = self.rows, self.rows.lane, make_index(0)
        group, vector = make_counter("group"), make_counter("vector")
        first, second = zero, make_index(1)

        def add(buffer: Var, value: Expr, place: list[Expr]) -> Stmt:
            return store(buffer, load(buffer, place) + value, place)

        def element(row: Expr) -> Stmt:
            at = group * self.together + row
            dy = rows.read(rows.params["gradient"], at, vector)
            scaled = dy * load(rows.params["scale"], [rows.columns(vector)])
            normal = self._normal(at, vector)
            return make_sequence(
                [
                    add(self.of_rows, scaled, [first, row, lane]),
                    add(self.of_rows, scaled * normal, [second, row, lane]),
                    add(self.of_columns, dy * normal, [first, lane]),
                    add(self.of_columns, dy, [second, lane]),
                ]
            )

        def over_sums(count: int, body: Callable[[Expr, Expr], Stmt]) -> Stmt:
            place, row = make_counter("place"), make_counter("row")
            inner = make_loop(row, count, body(place, row), rows.tensors.unrolled)
            return make_loop(place, 2, inner, rows.tensors.unrolled)

        def columns(place: Expr) -> list[Expr]:
            return [rows.part, place, rows.columns(vector)]

        row = make_counter("row")
        step = make_sequence(
            [
                over_sums(
                    1, lambda place, _: store(self.of_columns, load(self.columns, columns(place)), [place, lane])
                ),
                make_loop(row, self.together, element(row), rows.tensors.unrolled),
                over_sums(
                    1, lambda place, _: store(self.columns, load(self.of_columns, [place, lane]), columns(place))
                ),
            ]
        )
        nothing = rows.wide(number(0.0))
        body = make_sequence(
            [
                over_sums(self.together, lambda place, row: store(self.of_rows, nothing, [place, row, lane])),
                make_loop(vector, rows.vectors, step),
                over_sums(self.together, lambda place, row: self._keep(group, place, row)),
            ]
        )
        return make_loop(group, rows.lanes // self.together, body)

    def _keep(self, group: Expr, place: Expr, row: Expr) -> Stmt:
        lane = self.rows.lane
        value = load(self.of_rows, [place, row, lane])
        return store(self.partial, value, [place, group * self.together + row, lane])

    def _element(self, row: Expr, vector: Expr) -> Stmt:
        """An element of the data's gradient."""
        rows, params = self.rows, self.rows.params
        offset, slope = (rows.wide(load(self.means, [make_index(place), row])) for place in range(2))
        value = rows.read(params["gradient"], row, vector) * load(params["scale"], [rows.columns(vector)])
        value = value - offset - self._normal(row, vector) * slope
        value = value * rows.wide(load(params["inverse"], [rows.begin + row]))
        if self.form.residual:
            value = value + rows.read(params["residual"], row, vector)
        return store(params["result"], value, [rows.begin + row, rows.columns(vector)])


class _Rows:
    """The loops over rows, cut into parts, and into blocks of as many rows as a vector has lanes.

    Attributes:
        params: the parameters by name.
        tensors: of the function.
        lanes, parts: of a vector, and of the rows.
        vectors: in a row.
        part: the number of the part.
        begin: the first row of the block.
        lane: the indices of a vector's lanes.
    """

    def __init__(self, rows: int, columns: int, params: Mapping[str, Var], lanes: int, parts: int) -> None:
        self.params, self.tensors = dict(params), Tensors((), params, True)
        self.lanes, self.parts, self.vectors = lanes, parts, columns // lanes
        self._blocks = rows // lanes
        self.part, self._block = make_counter("part"), make_counter("block")
        self._first = self.part * self._blocks // make_index(parts) if parts > 1 else make_index(0)
        self._end = (self.part + 1) * self._blocks // make_index(parts) if parts > 1 else make_index(self._blocks)
        self.begin = (self._first + self._block) * lanes
        self.lane = self.span(make_index(0))

    def span(self, first: Expr) -> Expr:
        """The indices of as many neighbours as a vector has lanes."""
        from tvm import tirx

        return tirx.Ramp(first, make_index(1), self.lanes)

    def wide(self, value: Expr) -> Expr:
        """A vector of the same number."""
        from tvm import tirx

        return tirx.Broadcast(value, self.lanes)

    def columns(self, vector: Expr) -> Expr:
        """The columns of a vector."""
        return self.span(vector * self.lanes)

    def read(self, buffer: Var, row: Expr, vector: Expr) -> Expr:
        """A vector of a row of the block."""
        return load(buffer, [self.begin + row, self.columns(vector)])

    def over_parts(self, body: Stmt, before: Stmt | None = None) -> Stmt:
        """The statement at each block of each part, and ``before`` at the beginning of each part."""
        from tvm import tirx

        blocks = tirx.For(self._block, make_index(0), self._end - self._first, tirx.ForKind.SERIAL, body)
        body = blocks if before is None else make_sequence([before, blocks])
        return make_loop(self.part, self.parts, body, tirx.ForKind.PARALLEL if self.parts > 1 else None)

    def over_block(self, element: Callable[[Expr, Expr], Stmt]) -> Stmt:
        """The statement at each vector of each row of a block."""
        row, vector = make_counter("row"), make_counter("vector")
        return make_loop(row, self.lanes, make_loop(vector, self.vectors, element(row, vector)))

    def reduce(self, name: str, element: Callable[[Expr, Expr], Expr], finish: Callable[[Expr], Stmt]) -> list[Stmt]:
        """Add the vectors of each row of a block; ``finish`` takes the vector of all rows' sums."""
        partial = self.tensors.allocate(f"{name}_parts", (self.lanes, self.lanes))
        total = self.tensors.allocate(f"{name}_total", (1, self.lanes), "local")
        row, vector, zero = make_counter("row"), make_counter("vector"), make_index(0)
        place = [zero, self.lane]
        add = store(total, load(total, place) + element(row, vector), place)
        body = [
            store(total, self.wide(number(0.0)), place),
            make_loop(vector, self.vectors, add),
            store(partial, load(total, place), [row, self.lane]),
        ]
        vectors = [load(partial, [make_index(number_of_row), self.lane]) for number_of_row in range(self.lanes)]
        statements, sums = self.add_lanes(vectors, name)
        return [make_loop(row, self.lanes, make_sequence(body)), *statements, finish(sums)]

    def add_lanes(self, vectors: Sequence[Expr], name: str) -> tuple[list[Stmt], Expr]:
        """Transpose as many vectors as a vector has lanes, and add them: the sum of the lanes of each."""
        statements, found = turn_square(self.tensors, vectors, f"{name}_square")
        while len(found) > 1:
            found = [a + b for a, b in zip(found[::2], found[1::2], strict=True)]
        return statements, found[0]
