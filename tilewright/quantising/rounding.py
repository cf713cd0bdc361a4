"""Rounds weights to bfloat16 where half of the bytes are half of the time: in products of few rows, read from memory.

The result is an ordinary model in float32. The graph finds that these weights are bfloat16 numbers, and stores them
in half as many bytes, without another change.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from tilewright.errors import ModelError, ProcessError
from tilewright.frontend.shapes import ShapeRequest, bind_shapes
from tilewright.measure.isolated_call import IsolatedCall
from tilewright.names import check_encodable
from tilewright.ops.contraction.bf16 import round_to_bf16
from tilewright.quantising.accuracy import OutputAccuracy, compare_outputs, run_model
from tilewright.quantising.samples import Sample, draw_samples, take_samples
from tilewright.wording import counted

if TYPE_CHECKING:
    import onnx

    from tilewright.tensor import Array

__all__ = [
    "Matrix",
    "Rounded",
    "find_matrices",
    "make_samples",
    "mark_products",
    "round_array",
    "round_weights",
    "write_rounded",
]

#: How many random samples outputs are compared on, if there are none. With several buckets, as many in each.
_SAMPLES = 2


@dataclass(frozen=True)
class Matrix:
    """A matrix of weights that only products of few rows read, in one bucket at least.

    Attributes:
        name: of the weight.
        rows: the numbers of rows of these products, each once, in ascending order.
        depth, outputs: the inputs and the outputs of the products.
        products: how many products read it.
        nbytes: in float32.
    """

    name: str
    rows: tuple[int, ...]
    depth: int
    outputs: int
    products: int
    nbytes: int


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
    from tilewright.frontend.onnx.file import read_proto

    model = read_proto(path)
    found = find_matrices(model, shapes, cached)
    if not found:
        return Rounded(0, 0)
    check_encodable(path.absolute(), "a model that ONNX Runtime reads", "rename it, or leave out --precision")
    write_rounded(model, {matrix.name for matrix in found}, out)
    samples, random = make_samples(model, shapes, seed)
    names = [value.name for value in model.graph.output]
    outputs = compare_outputs(names, run_model(path, samples), run_model(out, samples))
    products, nbytes = (sum(getattr(matrix, name) for matrix in found) for name in ("products", "nbytes"))
    return Rounded(products, nbytes, tuple(outputs), len(samples), random)


def find_matrices(model: onnx.ModelProto, shapes: ShapeRequest | None, cached: int) -> list[Matrix]:
    """The matrices of weights that are read from memory for few rows, and that bfloat16 can hold.

    With several buckets, a matrix is one of these if it is in one of them.

    Args:
        model: the model, with its weights.
        shapes: what is asked of the inputs.
        cached: bytes of weights that stay in a cache.
    """
    from onnx import numpy_helper

    from tilewright.frontend.onnx.shapes import read_declared

    matrices = _list_matrices(model)
    rows: dict[str, set[int]] = {}
    products: Counter[str] = Counter()
    for bound in bind_shapes(shapes or ShapeRequest(), read_declared(model)):
        for name, (few, count) in _find_products(model, bound, matrices).items():
            rows.setdefault(name, set()).update(few)
            products[name] = max(products[name], count)
    turned = {node.input[1] for node in _list_products(model) if _flag(node, "transB")}
    found = []
    for name, few in rows.items():
        tensor = matrices[name]
        nbytes = 4 * math.prod(tensor.dims)
        if nbytes <= cached or not np.isfinite(round_array(numpy_helper.to_array(tensor))).all():
            continue
        depth, outputs = reversed(tensor.dims) if name in turned else tensor.dims
        found.append(Matrix(name, tuple(sorted(few)), depth, outputs, products[name], nbytes))
    return found


def write_rounded(model: onnx.ModelProto, names: Collection[str], out: Path) -> None:
    """Write a copy of a model in which the weights ``names`` are rounded to bfloat16."""
    import onnx
    from onnx import numpy_helper

    from tilewright.frontend.onnx.data import save_onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(numpy_helper.from_array(round_array(numpy_helper.to_array(tensor)), tensor.name))
    save_onnx(made, out)


def mark_products(model: Path, out: Path) -> None:
    """Write a copy of a model whose convolutions and products with weights are to multiply bfloat16 numbers.

    Its numbers stay as they are. An entry of its metadata says what is wanted, and the graph rounds operands.

    Args:
        model: the ONNX file.
        out: the file to write.

    Raises:
        ModelError: the model cannot be read.
    """
    from tilewright.frontend.network import HALVES, PRODUCTS
    from tilewright.frontend.onnx.data import save_onnx
    from tilewright.frontend.onnx.file import read_proto

    proto = read_proto(model)
    entry = proto.metadata_props.add()
    entry.key, entry.value = PRODUCTS, HALVES
    save_onnx(proto, out)


def make_samples(model: onnx.ModelProto, shapes: ShapeRequest | None, seed: int) -> tuple[list[Sample], bool]:
    """The samples that outputs are compared on: given ones, or random ones of each bucket; and whether random."""
    from tilewright.quantising.quantiser import list_model_inputs

    inputs = list_model_inputs(model)
    given: list[Sample] = take_samples(shapes.samples, inputs) if shapes is not None else []
    if given:
        return given, False
    return draw_samples(inputs, _SAMPLES, shapes, seed, every=True), True


def round_array(array: Array) -> NDArray[np.float32]:
    """An array of float32 whose numbers are the nearest ones of bfloat16; halves are rounded to the even one."""
    rounded: NDArray[np.float32] = (round_to_bf16(array).astype(np.uint32) << np.uint32(16)).view(np.float32)
    return rounded.reshape(array.shape)


def _list_matrices(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The weights that are matrices of float32, by name."""
    import onnx

    tensors = model.graph.initializer
    return {t.name: t for t in tensors if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 2}


def _list_products(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    return (node for node in model.graph.node if node.op_type in ("MatMul", "Gemm") and len(node.input) > 1)


def _flag(node: onnx.NodeProto, name: str) -> bool:
    return any(a.name == name and a.i for a in node.attribute)


def _find_products(
    model: onnx.ModelProto, bound: dict[str, tuple[int | None, ...] | None], matrices: Collection[str]
) -> dict[str, tuple[set[int], int]]:
    """The matrices that only products of few rows read with inputs of some shapes: their rows, and how many read it."""
    import onnx

    from tilewright.frontend.onnx.file import copy_for_inference
    from tilewright.frontend.onnx.shapes import set_shapes
    from tilewright.graph.token_rows import MOST_ROWS_OF_HALVES

    copy = copy_for_inference(model)
    set_shapes(copy, {n: tuple(int(e or 0) for e in s) for n, s in bound.items() if s is not None and None not in s})
    graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    known: dict[str, Sequence[int]] = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input)
    }
    uses = Counter(name for node in model.graph.node for name in node.input if name in matrices)
    found: dict[str, list[int]] = {}
    for node in _list_products(model):
        rows = math.prod(known.get(node.input[0], [0])[:-1])
        if node.input[1] in matrices and not _flag(node, "transA") and 0 < rows <= MOST_ROWS_OF_HALVES:
            found.setdefault(node.input[1], []).append(rows)
    return {name: (set(rows), len(rows)) for name, rows in found.items() if len(rows) == uses[name]}
