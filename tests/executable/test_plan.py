"""Plans: tensors alive at the same time do not overlap, and concatenations are written in place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.models import LIGHT, TARGET, agrees, built, normal, read, save
from tests.targets import lane_target
from tilewright.errors import ShapeError
from tilewright.executable.buffers import ALIGNMENT
from tilewright.executable.plan import ARENA, Plan
from tilewright.graph.tasks import extract


def expand(path: Path, batch: int = 1, *, outer: bool = False) -> Path:
    """A model that joins two convolutions of one tensor; with ``outer``, it joins the result with the tensor, too."""
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["t"], name="squeeze"),
        helper.make_node("Conv", ["t", "a"], ["p"], name="left"),
        helper.make_node("Conv", ["t", "b"], ["q"], name="right", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["q"], ["r"]),
        helper.make_node("Concat", ["p", "r"], ["j"], axis=1),
    ]
    channels = 40
    last = "j"
    if outer:
        nodes += [helper.make_node("Concat", ["j", "t", "p"], ["k"], axis=1)]
        last, channels = "k", 64 + 8
    nodes += [helper.make_node("Conv", [last, "c"], ["y"], name="last")]
    return save(
        path,
        nodes,
        {"x": [batch, 8, 9, 9]},
        [batch, 8, 9, 9],
        v=normal(16, 8, 1, 1),
        a=normal(16, 16, 1, 1),
        b=normal(24, 16, 3, 3),
        c=normal(8, channels, 1, 1),
    )


def test_a_concatenation_is_written_in_place(tmp_path: Path) -> None:
    extraction = agrees(expand(tmp_path / "m.onnx"), tmp_path / "out")
    assert extraction.plan is not None
    assert all(call.kernel and "concatenate" not in call.kernel for call in extraction.plan.calls)
    assert not any("concatenate" in use.task.name for use in extraction.uses)


def test_a_tensor_in_two_concatenations_is_copied_into_the_second(tmp_path: Path) -> None:
    extraction = agrees(expand(tmp_path / "m.onnx", outer=True), tmp_path / "out", lane_target(8))
    assert extraction.plan is not None
    assert [call.kernel for call in extraction.plan.calls].count("") == 1


def test_a_batch_is_joined_by_a_kernel(tmp_path: Path) -> None:
    extraction = agrees(expand(tmp_path / "m.onnx", batch=4, outer=True), tmp_path / "out")
    assert extraction.plan is not None
    assert sum("concatenate" in call.kernel for call in extraction.plan.calls) == 2


def halves(path: Path, batch: int = 1, cut: int = 16) -> Path:
    """A model that joins both parts of a tensor, and what is computed of the second."""
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["t"]),
        helper.make_node("Split", ["t", "sizes"], ["p", "q"], axis=1),
        helper.make_node("Conv", ["q", "a"], ["r"], pads=[1, 1, 1, 1]),
        helper.make_node("Concat", ["p", "q", "r"], ["j"], axis=1),
        helper.make_node("Conv", ["j", "c"], ["y"]),
    ]
    weights = {"v": normal(32, 8, 1, 1), "a": normal(16, 32 - cut, 3, 3), "c": normal(8, 48, 1, 1)}
    return save(path, nodes, {"x": [batch, 8, 9, 9]}, [batch, 8, 9, 9], sizes=np.array([cut, 32 - cut]), **weights)


def test_parts_that_lie_in_one_piece_are_not_copied(tmp_path: Path) -> None:
    extraction = agrees(halves(tmp_path / "m.onnx"), tmp_path / "out", lane_target(8))
    assert extraction.plan is not None
    assert all(call.kernel for call in extraction.plan.calls)
    assert not any("slice" in call.kernel or "concat" in call.kernel for call in extraction.plan.calls)


@pytest.mark.parametrize(("batch", "cut"), [(3, 16), (1, 13)])
def test_parts_in_several_pieces_are_copied(batch: int, cut: int, tmp_path: Path) -> None:
    agrees(halves(tmp_path / "m.onnx", batch, cut), tmp_path / "out", lane_target(8))


@pytest.mark.parametrize(("begin", "calls"), [(2, 0), (1, 1)])
def test_a_part_of_the_input_is_the_result(begin: int, calls: int, tmp_path: Path) -> None:
    """Without a call where it begins at a whole vector, which 12 floats are not."""
    node = helper.make_node("Slice", ["x", "begin", "end", "axis"], ["y"])
    numbers = {"begin": np.array([begin]), "end": np.array([4]), "axis": np.array([1])}
    path = save(tmp_path / "m.onnx", [node], {"x": [1, 4, 3, 4]}, [1, 4 - begin, 3, 4], **numbers)
    extraction = agrees(path, tmp_path / "out", lane_target(8))
    assert extraction.plan is not None
    assert len(extraction.plan.calls) == calls


@pytest.mark.parametrize("name", ["squeezenet", "densenet121", "shufflenet", "inception_v1"])
def test_what_is_alive_does_not_overlap(name: str) -> None:
    plan = extract(read(LIGHT / f"light_{name}.onnx"), TARGET).plan
    assert plan is not None
    memory = np.full(plan.arena_bytes // 4, -1, dtype=np.int64)
    written: dict[int, int] = {}

    def part(number: int) -> slice:
        tensor = plan.tensors[number]
        assert tensor.place % 32 == 0
        assert tensor.place + tensor.bytes <= plan.arena_bytes
        return slice(tensor.place // 4, (tensor.place + tensor.bytes) // 4)

    for number in plan.inputs:
        memory[part(number)] = -2
    for now, call in enumerate(plan.calls):
        *sources, target = call.tensors if call.kernel else tuple(reversed(call.tensors))
        for source in sources:
            if plan.tensors[source].region == ARENA:
                # The last call that wrote the memory of the input wrote all of it, or a part that was joined. Another
                # call in between would have left memory that sticks out, or a hole.
                assert (memory[part(source)] != -1).all()
                for writer in set(memory[part(source)].tolist()) - {-2}:
                    place, last = part(source), part(written[writer])
                    inside = place.start <= last.start and last.stop <= place.stop
                    assert inside or (last.start <= place.start and place.stop <= last.stop)
                assert part(source).stop <= part(target).start or part(target).stop <= part(source).start
        memory[part(target)] = now
        written[now] = target
    for number in plan.outputs:
        assert (memory[part(number)] >= 0).all()


def test_round_trip(tmp_path: Path) -> None:
    plan = extract(read(expand(tmp_path / "m.onnx")), TARGET).plan
    assert plan is not None
    assert Plan.from_json(plan.to_json()) == plan
    assert ALIGNMENT % (4 * TARGET.lanes) == 0


def test_a_network_that_calls_a_library_runs_on_the_machine(tmp_path: Path) -> None:
    from tvm import relax

    builder = relax.BlockBuilder()
    data = relax.Var("x", relax.TensorType([2, 50], "float32"))
    with builder.function("main", [data]):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(relax.op.topk(data, 3, ret_type="values")))
        builder.emit_func_output(result)
    extraction, executable = built(builder.finalize(), tmp_path / "out")
    assert extraction.plan is None
    x = np.random.default_rng(0).standard_normal((2, 50)).astype(np.float32)
    np.testing.assert_array_equal(executable(x)[0], -np.sort(-x, axis=1)[:, :3])
    assert executable.overhead(3) is None
    assert executable.profile([x], 3) is None
    assert executable.contest([x], {"kernel": ["kernel"]}, 0.0) == {}


def test_an_executable_runs_without_a_compiler(tmp_path: Path) -> None:
    built(expand(tmp_path / "m.onnx"), tmp_path / "out", lean=False)
    program = (
        "import sys, numpy, tilewright\n"
        f"executable = tilewright.load_executable({str(tmp_path / 'out')!r})\n"
        "executable(*(numpy.zeros(s.shape, s.dtype) for s in executable.inputs))\n"
        "print([n for n in ('tvm', 'tvm_ffi', 'onnx', 'onnxruntime', 'xgboost') if n in sys.modules])"
    )
    environment = {"PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_outputs_are_not_overwritten_by_the_next_call(tmp_path: Path) -> None:
    _, executable = built(expand(tmp_path / "m.onnx"), tmp_path / "out")
    x = normal(1, 8, 9, 9)
    first = executable(x)[0]
    kept = first.copy()
    executable(2 * x)
    np.testing.assert_array_equal(first, kept)
    assert executable.overhead(5) is not None


def test_each_kernel_is_timed_in_its_place(tmp_path: Path) -> None:
    _, executable = built(expand(tmp_path / "m.onnx"), tmp_path / "out")
    x = normal(1, 8, 9, 9)
    want = executable(x)[0]
    profile = executable.profile([x], 3, 2)
    plan = executable.manifest["plan"]
    assert profile is not None
    assert plan is not None
    assert [part.kernel for part in profile] == [kernel for kernel, _ in plan["calls"]]
    assert all(len(part.seconds) == 3 and min(part.seconds) > 0 for part in profile)
    np.testing.assert_array_equal(executable(x)[0], want)
    with pytest.raises(ShapeError):
        executable.profile([x[:, :4]], 1)
