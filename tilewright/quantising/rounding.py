"""Rounds weights to bfloat16 where half of the bytes are half of the time: in products of few rows, read from memory.

The result is an ordinary model in float32. The graph finds that these weights are bfloat16 numbers, and stores them
in half as many bytes, without another change.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import ModelError, ProcessError
from tilewright.frontend.shapes import ShapeRequest, bind_shapes
from tilewright.measure.isolated_call import IsolatedCall
from tilewright.names import check_encodable
from tilewright.quantising.accuracy import OutputAccuracy, compare_outputs, run_model
from tilewright.quantising.samples import Sample, draw_samples, take_samples
from tilewright.wording import counted

if TYPE_CHECKING:
    import onnx

    from tilewright.tensor import Array

__all__ = ["Rounded", "round_array", "round_weights"]

#: How many random samples outputs are compared on, if there are none.
_SAMPLES = 2


@dataclass(frozen=True)
class Rounded:
    """A model whose weights were rounded.

    Attributes:
        products: the number of products whose weights were rounded; 0: no file was written.
        nbytes: of these weights in float32.
        outputs: how the outputs differ from the model's.
        samples: the number of samples that they were compared on.
        random: whether these are random.
    """

    products: int
    nbytes: int
    outputs: tuple[OutputAccuracy, ...] = ()
    samples: int = 0
    random: bool = True

    def __str__(self) -> str:
        """What was done and what it costs, in one line."""
        worst = max((o.largest_relative_error for o in self.outputs), default=math.nan)
        cosine = min((o.cosine for o in self.outputs), default=math.nan)
        kind = "random sample" if self.random else "sample"
        return (
            f"the weights of {counted(self.products, 'product')}, {self.nbytes / 1e6:.3g} MB in float32, are kept in "
            f"bfloat16; arithmetic is float32; on {counted(self.samples, kind)} outputs differ by at most {worst:.2g} "
            f"of their largest number from the model's (cosine {cosine:.7f})"
        )


def round_weights(model: Path, out: Path, shapes: ShapeRequest | None, cached: int, seed: int) -> Rounded:
    """Write a model whose weights are rounded where that gains, and compare its outputs with the model's.

    Args:
        model: the ONNX file.
        out: the file to write.
        shapes: what is asked of the inputs. Its samples are those that outputs are compared on.
        cached: bytes of weights that stay in a cache, so that nothing is gained by rounding them.
        seed: of random samples.

    Raises:
        ModelError: the model cannot be read, or ONNX Runtime cannot run it.
        ShapeError: samples do not fit, or a shape is not known.
    """
    try:
        with IsolatedCall(round_here, model, out, shapes, cached, seed) as call:
            return cast(Rounded, call.result())
    except ProcessError as error:
        raise ModelError(
            f"ONNX Runtime runs the model with rounded weights, but it failed: {error}; leave out --precision"
        ) from error


def round_here(path: Path, out: Path, shapes: ShapeRequest | None, cached: int, seed: int) -> Rounded:
    """As :func:`round_weights`, in this process, in which ONNX Runtime may print or crash."""
    from onnx import numpy_helper

    from tilewright.frontend.onnx.data import save_onnx
    from tilewright.frontend.onnx.file import read_proto
    from tilewright.quantising.quantiser import list_model_inputs

    model = read_proto(path)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found = _find_products(model, shapes)
    products = nbytes = 0
    for name, count in found.items():
        array = numpy_helper.to_array(weights[name])
        rounded = round_array(array)
        if array.nbytes <= cached or not np.isfinite(rounded).all():
            continue
        products, nbytes = products + count, nbytes + array.nbytes
        weights[name].CopyFrom(numpy_helper.from_array(rounded, name))
    if not products:
        return Rounded(0, 0)
    check_encodable(path.absolute(), "a model that ONNX Runtime reads", "rename it, or leave out --precision")
    save_onnx(model, out)
    inputs = list_model_inputs(model)
    given: list[Sample] = take_samples(shapes.samples, inputs) if shapes is not None else []
    samples = given or draw_samples(inputs, _SAMPLES, shapes, seed)
    names = [value.name for value in model.graph.output]
    outputs = compare_outputs(names, run_model(path, samples), run_model(out, samples))
    return Rounded(products, nbytes, tuple(outputs), len(samples), not given)


def round_array(array: Array) -> NDArray[np.float32]:
    """An array of float32 whose numbers are the nearest ones of bfloat16; halves are rounded to the even one."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    rounded: NDArray[np.float32] = ((bits + np.uint32(0x7FFF) + even) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded.reshape(array.shape)


def _find_products(model: onnx.ModelProto, shapes: ShapeRequest | None) -> dict[str, int]:
    """The weights that only products of few rows read, and how many of these read each."""
    import onnx

    from tilewright.frontend.onnx.file import copy_for_inference
    from tilewright.frontend.onnx.shapes import read_declared, set_shapes
    from tilewright.graph.token_rows import MOST_ROWS_OF_HALVES

    copy = copy_for_inference(model)
    bound = bind_shapes(shapes or ShapeRequest(), read_declared(model))[0]
    set_shapes(copy, {n: tuple(int(e or 0) for e in s) for n, s in bound.items() if s is not None and None not in s})
    graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    known = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input)
    }
    matrices = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2
    }
    uses = Counter(name for node in model.graph.node for name in node.input if name in matrices)
    found: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2 or node.input[1] not in matrices:
            continue
        turned = any(a.name == "transA" and a.i for a in node.attribute)
        rows = math.prod(known.get(node.input[0], [0])[:-1])
        if not turned and 0 < rows <= MOST_ROWS_OF_HALVES:
            found[node.input[1]] += 1
    return {name: count for name, count in found.items() if count == uses[name]}
