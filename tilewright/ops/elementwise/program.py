"""Writes the program of an element-wise function: one pass over its results."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from tilewright.ops.elementwise.form import Form, Step
from tilewright.ops.statements import bound_index, make_counter, make_index, make_loop, make_sequence

if TYPE_CHECKING:
    from tvm.ir import Expr, IRModule, TensorLoad, Var
    from tvm.tirx import Let, Stmt
    from tvm_ffi import StructuralMutator

__all__ = ["make_program"]

#: Most steps and loads of one expression: passes of TVM are recursive. Up to it, a step that is read once is computed
#: where it is read.
_LONGEST = 64


def make_program(module: IRModule, form: Form, pieces: int, vector: int, unroll: int) -> IRModule:
    """The element-wise function ``main`` of a module as one pass over its results.

    Args:
        module: the function.
        form: its form, as ``read_form`` gives it.
        pieces: pieces of the results that run in parallel.
        vector: elements of a vector; at most those of a row.
        unroll: vectors that are computed side by side; at most those of a row.
    """
    import tvm
    from tvm import tirx
    from tvm.s_tir import SBlock, SBlockRealize

    nest = _Nest(form, pieces, vector, unroll)
    body = _Body(form, nest)
    statement = nest.around(body.statements())
    root = SBlock([], [], [], "root", tirx.SeqStmt([*body.views, statement]), None, list(body.kept.values()))
    main = module["main"].with_body(SBlockRealize([], tirx.const(True, "bool"), root))
    return tvm.ir.IRModule({"main": main})


class _Nest:
    """The loops over pieces, rows, and the steps of a row, each of which computes a few vectors.

    The longer of the loops over rows and steps is cut into pieces. If its extent is no multiple of the pieces, the last
    piece computes its last rows or steps more than once.

    Attributes:
        lanes: elements of a vector.
        width: elements that a step computes.
        row: the number of the row.
        start: the place in the row of the step's first element.
    """

    def __init__(self, form: Form, pieces: int, vector: int, unroll: int) -> None:
        length = form.axes[-1].extent if form.axes else 1
        rows = math.prod(axis.extent for axis in form.axes[:-1])
        self.lanes, self.width = vector, vector * unroll
        steps = -(-length // self.width)
        cut = max(rows, steps)
        each = -(-cut // pieces)
        self._pieces = -(-cut // each)
        self._piece, self._row, self._step = (make_counter(name) for name in ("piece", "row", "step"))
        row, step = self._row, self._step
        if rows >= steps:
            self._extents = (each, steps)
            row, most = self._piece * each + row, (self._pieces * each, steps)
        else:
            self._extents = (rows, each)
            step, most = self._piece * each + step, (rows, self._pieces * each)
        self.row = row if most[0] <= rows else bound_index(row, rows - 1)
        start = step * self.width
        self.start = start if most[1] * self.width <= length else bound_index(start, length - self.width)

    def around(self, body: Stmt) -> Stmt:
        """The loops around the body of a step."""
        from tvm import tirx

        for variable, extent in ((self._step, self._extents[1]), (self._row, self._extents[0])):
            body = make_loop(variable, extent, body)
        return make_loop(self._piece, self._pieces, body, tirx.ForKind.PARALLEL if self._pieces > 1 else None)


class _Body:
    """The statements inside the loops.

    Attributes:
        views: declarations of the parameters as vectors of all of their elements.
        kept: for each buffer that later steps read, the registers that hold its elements.
    """

    def __init__(self, form: Form, nest: _Nest) -> None:
        self._form, self._nest = form, nest
        self.views: list[Stmt] = []
        self.kept: dict[Var, Var] = {}
        self._inlined: dict[Var, Step] = {}
        self._flat = {param: self._view(param) for param in form.params if param in form.places}

    def _view(self, param: Var) -> Var:
        from tvm import tirx

        size = math.prod(int(extent) for extent in param.ty.shape)
        view = tirx.decl_buffer((size,), str(param.ty.dtype), name=f"{param.name}_flat")
        self.views.append(tirx.DeclBuffer(view, data=param.data))
        return view

    def statements(self) -> Stmt:
        """The steps, except those that are computed where they are read."""
        reads: Counter[Var] = Counter()
        for step in self._form.steps:
            reads.update(step.loads)
        weights: dict[Var, int] = {}
        found = []
        for step in self._form.steps:
            weight = 1 + sum(count * weights.get(source, 1) for source, count in step.loads.items())
            if step.buffer not in self._flat and reads[step.buffer] == 1 and weight <= _LONGEST:
                self._inlined[step.buffer], weights[step.buffer] = step, weight
            else:
                found.append(self._computed(step, reads[step.buffer] > 0))
        return make_sequence(found)

    def _computed(self, step: Step, read: bool) -> Stmt:
        """The statement that computes a step. It keeps elements that other steps read, and stores those of results."""
        from tvm import tirx

        vector, lane = make_counter("vector"), make_counter("lane")
        inside = vector * self._nest.lanes + lane
        value = self._value(step, inside)
        stores = []
        if read:
            dtype, name = str(step.buffer.ty.dtype), f"{step.buffer.name}_kept"
            own = self.kept[step.buffer] = tirx.decl_buffer((self._nest.width,), dtype, name=name, scope="local")
            stores.append(tirx.BufferStore(own, value, [inside]))
            value = tirx.BufferLoad(own, [inside])
        if step.buffer in self._flat:
            stores.append(tirx.BufferStore(self._flat[step.buffer], value, [self._offset(step.buffer, inside)]))
        lanes = self._nest.lanes
        body = make_loop(lane, lanes, make_sequence(stores), tirx.ForKind.VECTORIZED if lanes > 1 else None)
        return make_loop(vector, self._nest.width // lanes, body, tirx.ForKind.UNROLLED)

    def _value(self, step: Step, inside: Expr) -> Expr:
        """The value of a step for the element ``inside``, counted from the first one of the iteration."""
        from tvm import tirx
        from tvm.ir import TensorLoad, Var
        from tvm_ffi import structural_mutate

        dims = dict(zip(step.variables, self._form.places[step.buffer], strict=True))
        bound: dict[Var, Var] = {}

        def load(node: TensorLoad, _: object) -> Expr:
            source = node.source
            if source in self._inlined:
                return self._value(self._inlined[source], inside)
            if source in self.kept:
                return tirx.BufferLoad(self.kept[source], [inside])
            return tirx.BufferLoad(self._flat[source], [self._offset(source, inside)])

        def bind(node: Let, mutator: StructuralMutator) -> Expr:
            # Copies of a formula need variables of their own: TVM's analysis refuses a variable that is bound twice.
            value = mutator.mutate(node.value)
            bound[node.var] = tirx.Var(node.var.name, str(node.var.ty.dtype))
            return tirx.Let(bound[node.var], value, mutator.mutate(node.body))

        def variable(node: Var, _: object) -> Expr:
            if node not in dims:
                return bound.get(node, node)
            place = dims[node]
            index = make_index(0) if place is None else self._index(place, inside)
            return tirx.Cast(str(node.ty.dtype), index)

        return structural_mutate(step.value, ((TensorLoad, load), (tirx.Let, bind), (Var, variable)))

    def _offset(self, buffer: Var, inside: Expr) -> Expr:
        """The place of the element in a parameter."""
        axes, places = self._form.axes, self._form.places[buffer]
        total, stride = make_index(0), 1
        for number in reversed(range(len(axes))):
            if axes[number].dims[0] in places:
                total = total + self._along(number, inside) * stride
                stride *= axes[number].extent
        return total

    def _index(self, dim: int, inside: Expr) -> Expr:
        """The element's index in a dimension of the results."""
        number = next(n for n, axis in enumerate(self._form.axes) if dim in axis.dims)
        within = math.prod(self._form.shape[d] for d in self._form.axes[number].dims if d > dim)
        return self._along(number, inside) // within % self._form.shape[dim]

    def _along(self, number: int, inside: Expr) -> Expr:
        """The element's index along an axis."""
        axes = self._form.axes
        if number == len(axes) - 1:
            return self._nest.start + inside
        within = math.prod(axis.extent for axis in axes[number + 1 : -1])
        return self._nest.row // within % axes[number].extent
