"""The space of recurrent operators: each program computes what NumPy does, whatever the cell and the vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels import call_kernel
from tests.targets import LANES, host_target, lack, lane_target
from tilewright.errors import FormError
from tilewright.graph.tasks import task_of
from tilewright.ops import make_space
from tilewright.ops.recurrent import Activation, Cell, RecurrentSpace, RecurrentTemplate, find_block, recurrent
from tilewright.space.configs import sample
from tilewright.space.module import task_module
from tilewright.space.recorded import check_recorded
from tilewright.target import Target
from tilewright.task import Task

Array = NDArray[Any]
_SIGMOID, _TANH = Activation("sigmoid"), Activation("tanh")
_LSTM, _GRU = (_SIGMOID, _TANH, _TANH), (_SIGMOID, _TANH)


def cell(kind: str, backward: tuple[bool, ...] = (False,), **more: Any) -> Cell:
    functions = {"lstm": _LSTM, "gru": _GRU, "rnn": (_TANH,)}[kind]
    gates = {"lstm": "iofc", "gru": "zrh", "rnn": "h"}[kind]
    sizes = {"steps": 4, "batch": 3, "hidden": 20} | more
    return Cell(kind, backward=backward, activations=(functions,) * len(backward), gates=gates, **sizes)


CELLS: dict[str, Cell] = {
    "lstm": cell("lstm", given=("bias", "initial_h", "initial_c"), outputs=("y", "y_h", "y_c")),
    "lstm of one step": cell("lstm", steps=1, batch=1, hidden=32, given=("initial_h", "initial_c"), outputs=("y_h",)),
    "lstm, torch's order": dataclasses.replace(cell("lstm", x_order="bt", y_order="btd"), gates="ifco"),
    "both directions": cell("lstm", (False, True), given=("lengths", "initial_c"), outputs=("y", "y_c"), y_order="tbd"),
    "peepholes": cell("lstm", (True,), given=("peepholes",), clip=0.5, coupled=True),
    "gru": cell("gru", (False, True), given=("bias", "initial_h"), outputs=("y", "y_h")),
    "gru, reset after": cell("gru", (True,), given=("bias", "lengths"), reset_after=True, state_order="bd"),
    "few units": cell("rnn", hidden=3, batch=1),
    "two activations": dataclasses.replace(
        cell("rnn", (False, True), batch=1, hidden=9), activations=((Activation("leakyrelu", 0.1),), (_SIGMOID,))
    ),
}


def placed(cell: Cell, lanes: int) -> Cell:
    return dataclasses.replace(cell, block=find_block(cell.hidden, lanes))


def draw(cell: Cell) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {}
    for name, shape in cell.shapes.items():
        arrays[name] = (rng.standard_normal(shape) * 0.5).astype(np.float32)
        if name in cell.outputs:
            arrays[name].fill(np.nan)
    if "lengths" in arrays:
        arrays["lengths"] = (np.arange(cell.batch, dtype=np.int32) * 3) % (cell.steps + 1)
    # A unit has the same weights in each block that it is in.
    units = list(cell.units)
    flat = arrays["r"].transpose(0, 1, 4, 2, 3).reshape(cell.directions, len(units), cell.hidden, -1)
    flat = flat[:, [units.index(unit) for unit in units]]
    blocks = flat.reshape(cell.directions, cell.blocks, cell.block, cell.hidden, -1)
    arrays["r"] = np.ascontiguousarray(blocks.transpose(0, 1, 3, 4, 2))
    return arrays


def activation(function: Activation) -> Callable[[Array], Array]:
    known: dict[str, Callable[[Array], Array]] = {
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "tanh": np.tanh,
        "leakyrelu": lambda x: np.where(x < 0, function.alpha * x, x),
    }
    return known[function.name]


def reference(cell: Cell, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The results in float64: one sequence after the other."""
    given = {name: array.astype(np.float64) for name, array in arrays.items()}
    results = {name: np.zeros(cell.shapes[name]) for name in cell.outputs}
    units = list(cell.units)
    whole = given["r"].transpose(0, 1, 4, 2, 3).reshape(cell.directions, len(units), cell.hidden, -1)
    weights = whole[:, [units.index(unit) for unit in range(cell.hidden)]]
    for d, backward in enumerate(cell.backward):
        functions = [activation(function) for function in cell.activations[d]]
        for b in range(cell.batch):
            at = tuple({"d": d, "b": b}[letter] for letter in cell.state_order)
            length = int(given["lengths"][b]) if "lengths" in given else cell.steps
            state = [
                given[n][at] * (length > 0) if n in given else np.zeros(cell.hidden) for n in ("initial_h", "initial_c")
            ]
            for step in range(length):
                t = length - 1 - step if backward else step
                where = {"t": t, "b": b, "d": d}
                x = given["x"][tuple(where[letter] for letter in cell.x_order)][d]
                gates = {letter: x[i] for i, letter in enumerate(cell.gates)}
                bias = given["bias"][d] if "bias" in given else np.zeros_like(x)
                peepholes = given["peepholes"][d] if "peepholes" in given else np.zeros((3, cell.hidden))
                state = advance(cell, gates, weights[d], bias, peepholes, functions, state)
                if "y" in results:
                    results["y"][tuple(where[letter] for letter in cell.y_order)] = state[0]
            for name, value in zip(("y_h", "y_c"), state, strict=True):
                if name in results:
                    results[name][at] = value
    return results


def advance(
    cell: Cell,
    x: Mapping[str, Array],
    r: Array,
    bias: Array,
    peepholes: Array,
    functions: list[Callable[[Array], Array]],
    state: list[Array],
) -> list[Array]:
    """The state after one step."""
    h, c = state
    number = cell.gates.index

    def bound(value: Array) -> Array:
        return np.clip(value, -cell.clip, cell.clip) if cell.clip else value

    def product(gate: str, source: Array) -> Array:
        return np.asarray(r[:, :, number(gate)] @ source + bias[number(gate)])

    if cell.kind == "rnn":
        return [functions[0](bound(x["h"] + product("h", h))), c]
    if cell.kind == "gru":
        z, reset = (functions[0](bound(x[gate] + product(gate, h))) for gate in "zr")
        part = reset * product("h", h) if cell.reset_after else product("h", reset * h)
        return [(1 - z) * functions[1](bound(x["h"] + part)) + z * h, c]
    f, g, last = functions
    i = f(bound(x["i"] + product("i", h) + peepholes[0] * c))
    forget = 1 - i if cell.coupled else f(bound(x["f"] + product("f", h) + peepholes[2] * c))
    c = forget * c + i * g(bound(x["c"] + product("c", h)))
    o = f(bound(x["o"] + product("o", h) + peepholes[1] * c))
    return [o * last(c), c]


def run(module: Any, target: Target, cell: Cell, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The results of a compiled function."""
    import tvm

    tensors = {name: tvm.runtime.tensor(array) for name, array in arrays.items()}
    call_kernel(module, target, *tensors.values())
    return {name: tensors[name].numpy() for name in cell.outputs}


def agree(found: Mapping[str, Array], wanted: Mapping[str, Array], what: object) -> None:
    assert found.keys() == wanted.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, wanted[name], rtol=0, atol=2e-5, err_msg=f"{what}: {name}")


def space_of(cell: Cell, target: Target) -> RecurrentSpace:
    space = make_space(task_of("cell", recurrent(cell)), target)
    assert isinstance(space, RecurrentSpace)
    return space


@pytest.mark.skipif(bool(lack(host_target())), reason=lack(host_target()))
@pytest.mark.parametrize("name", CELLS)
def test_programs_compute_what_numpy_does(name: str) -> None:
    target = host_target()
    cell = placed(CELLS[name], target.lanes)
    space, arrays = space_of(cell, target), draw(cell)
    wanted = reference(cell, arrays)
    agree(run(task_module(space.task), target, cell, arrays), wanted, "the expression")
    for config in [space.default(), *sample(space, np.random.default_rng(1), 1)]:
        agree(run(space.schedule(config).mod, target, cell, arrays), wanted, config)


@pytest.mark.parametrize("lanes", [lanes for lanes in LANES if lanes != host_target().lanes])
def test_programs_for_other_vectors(lanes: int) -> None:
    target = lane_target(lanes)
    cell = placed(CELLS["both directions"], lanes)
    if not lack(target):
        arrays, space = draw(cell), space_of(cell, target)
        agree(run(space.schedule(space.default()).mod, target, cell, arrays), reference(cell, arrays), lanes)


@pytest.mark.parametrize("lanes", LANES)
def test_a_tile_fits_the_registers(lanes: int) -> None:
    target = lane_target(lanes)
    for cell in CELLS.values():
        space = space_of(placed(cell, lanes), target)
        gates = max(len(some) for some in cell.phases)
        assert all(r * v * gates < target.registers for r, v in space.knobs[0].choices)
        assert space.valid(space.default()[None]).all()


def test_arithmetic_is_counted() -> None:
    cell = placed(CELLS["lstm"], 16)
    products = 2 * cell.work
    assert products <= task_of("cell", recurrent(cell)).flop <= 4 * products


def test_a_cell_survives_its_description() -> None:
    for cell in CELLS.values():
        assert Cell.parse(cell.detail) == cell


@pytest.mark.parametrize("detail", ["", "{}", "[1]", '{"kind": "lstm"}'])
def test_a_description_of_no_cell_is_refused(detail: str) -> None:
    with pytest.raises(FormError, match="description of its cell"):
        Cell.parse(detail)


def test_an_inconsistent_description_is_refused() -> None:
    good = CELLS["lstm"]
    for changes in ({"block": 21}, {"gates": "iof"}, {"outputs": ()}, {"x_order": "tt"}, {"steps": 0}):
        with pytest.raises(FormError, match="rule number"):
            Cell.parse(dataclasses.replace(good, **changes).detail)


def test_a_function_of_another_cell_is_refused() -> None:
    """The description must be that of the function."""
    one, other = (task_of("cell", recurrent(CELLS[name])) for name in ("lstm", "gru"))
    lied = Task(one.key, one.name, one.kind, one.flop, one.ir.replace('"hidden\\": 20', '"hidden\\": 19'))
    assert lied.ir != one.ir
    template = RecurrentTemplate()
    assert template.serves(one, host_target())
    assert template.serves(other, host_target())
    assert not template.serves(lied, host_target())
    with pytest.raises(FormError, match="another than that of the 'recurrent'"):
        template.space(lied, host_target())


def test_a_recorded_function_is_accepted() -> None:
    for cell in CELLS.values():
        check_recorded(task_of("cell", recurrent(cell)))
