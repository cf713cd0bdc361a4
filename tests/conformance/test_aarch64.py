"""Conformance of every template's code for 64-bit Arm: one library of many kernels, run once by QEMU."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import compose

from tests.agreement import one_thread
from tests.conformance.lane_cases import CASES
from tests.foreign import arm_target, export_foreign, export_kernels, needs_arm, run_network
from tests.models import design_space, read
from tests.ops.pixel_sums.test_space import CASES as GRADIENTS
from tests.ops.pixel_sums.test_space import block, exact
from tilewright.graph.convolution import Algorithm
from tilewright.graph.tasks import extract, task_of
from tilewright.ops import pixel_sums
from tilewright.ops.registry import make_space
from tilewright.space.configs import sample

pytestmark = needs_arm

#: The cases of which the network is made. Between them they have all templates of networks.
CHOSEN = (
    *("convolution of odd channels", "convolution of an image", "depthwise", "groups, channels last", "residual"),
    *("pooling of odd channels", "local response", "dense of 17", "short rows", "narrow heads", "recurrence", "auto"),
    *("winograd4", "fused_winograd2"),
)
TEMPLATES = {
    *("contraction", "depthwise", "rows", "window", "recurrent", "elementwise"),
    *("winograd", "winograd_transform", "auto"),
}


def join(names: tuple[str, ...], folder: Path) -> Path:
    """One model of several cases side by side, each with its own inputs and outputs."""
    models = [onnx.load(CASES[name].write(folder / f"{number}.onnx")) for number, name in enumerate(names)]
    models = [compose.add_prefix(model, f"m{number}_") for number, model in enumerate(models)]
    joined = functools.reduce(lambda one, other: compose.merge_models(one, other, io_map=[]), models)
    onnx.save(joined, folder / "joined.onnx")
    return folder / "joined.onnx"


def test_programs_of_every_template_are_right(tmp_path: Path) -> None:
    path = join(CHOSEN, tmp_path)
    network, target = read(path), arm_target()
    first = extract(network, target)
    # Each 3x3 convolution that has a choice is computed by the next algorithm in turn.
    algorithms: tuple[Algorithm, ...] = ("winograd4", "fused_winograd2", "winograd2", "fused_winograd4", "direct")
    convolutions = [convolution for convolution, _ in first.rewritten.convolutions]
    chosen = {conv: algorithms[i % len(algorithms)] for i, conv in enumerate(convolutions)}
    extraction = extract(network, target, chosen)
    functions, templates, rng = {}, set(), np.random.default_rng(0)
    for use in extraction.uses:
        space = design_space(use.task, target)
        templates.add(space.template.partition("/")[0])
        config = next(iter(sample(space, rng, 1)), space.default())
        functions[use.task.key] = space.schedule(config).mod["main"]
    assert templates >= TEMPLATES
    inputs = network.random_inputs(0)
    found = run_network(extraction.network.outputs, export_foreign(extraction, tmp_path, functions), inputs)
    session = onnxruntime.InferenceSession(str(path), one_thread(), providers=["CPUExecutionProvider"])
    wanted = session.run(None, {spec.name: x for spec, x in zip(network.inputs, inputs, strict=True)})
    for spec, ours, theirs in zip(network.outputs, found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max(), rtol=1e-4, err_msg=spec.name)


def test_gradients_of_weights_are_right(tmp_path: Path) -> None:
    """No model has them: they belong to steps of training."""
    functions: dict[str, Any] = {}
    inputs, wanted, rng = [], [], np.random.default_rng(0)
    for number, name in enumerate(("3x3", "groups", "depthwise")):
        gradient, *lengths = GRADIENTS[name]
        arrays = [rng.standard_normal(shape).astype(np.float32) for shape in (gradient.data, gradient.output)]
        blocked = [block(array, length) for array, length in zip(arrays, lengths, strict=True)]
        if name == "depthwise":
            function = pixel_sums.depthwise_gradient(gradient, blocked[0].shape)
        else:
            function = pixel_sums.weight_gradient(gradient, blocked[0].shape, blocked[1].shape)
        space = make_space(task_of(name, function), arm_target())
        assert space.template.startswith("pixel_sums/")
        configs = (space.default(), *sample(space, rng, 1))
        for config in configs:
            functions[f"gradient{number}_{len(functions)}"] = space.schedule(config).mod["main"]
            inputs += blocked
            wanted.append(exact(gradient, *arrays))
    prefix, outputs = export_kernels(functions, arm_target(), tmp_path)
    for ours, theirs in zip(run_network(outputs, prefix, inputs), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())
