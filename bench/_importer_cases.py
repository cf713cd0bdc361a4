"""Cases of operators for ``bench.importer``: models of one node, with attributes and shapes of all kinds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A model of one node.

    Attributes:
        operator: the node's type.
        what: its attributes and the shapes of its inputs, for people.
        model: the model.
        feeds: its inputs by name.
    """

    operator: str
    what: str
    model: onnx.ModelProto
    feeds: dict[str, Array]


def case(
    kind: str,
    inputs: Sequence[Array | None],
    *,
    constants: Sequence[int] = (),
    outputs: int = 1,
    opset: int = 18,
    domain: str = "",
    **attributes: Any,
) -> Case:
    """A case.

    Args:
        kind: the operator.
        inputs: the inputs of its node; None: one that is absent.
        constants: which of them are initializers, by place.
        outputs: how many outputs it has.
        opset: the version of ONNX's operators.
        domain: the operator's domain.
        attributes: its attributes.
    """
    names = ["" if value is None else f"x{place}" for place, value in enumerate(inputs)]
    results = [f"y{place}" for place in range(outputs)]
    node = helper.make_node(kind, names, results, domain=domain, **attributes)
    feeds = {f"x{p}": v for p, v in enumerate(inputs) if v is not None and p not in constants}
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in feeds.items()],
        [onnx.ValueInfoProto(name=name) for name in results],
        [numpy_helper.from_array(v, f"x{p}") for p in constants if (v := inputs[p]) is not None],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    shapes = ", ".join("-" if v is None else f"{v.dtype}{list(v.shape)}" for v in inputs)
    told = " ".join(f"{name}={value}" for name, value in attributes.items())
    return Case(kind, f"opset {opset} {shapes} {told}".strip(), model, feeds)


def normal(*shape: int, dtype: Any = np.float32, scale: float = 1.0) -> Array:
    """Standard normal numbers, times ``scale``."""
    return (np.random.default_rng(sum(shape) + len(shape)).standard_normal(shape) * scale).astype(dtype)


def whole(*shape: int, low: int = -9, high: int = 10, dtype: Any = np.int64) -> Array:
    """Random integers."""
    return np.random.default_rng(sum(shape)).integers(low, high, shape).astype(dtype)


def single(values: object) -> Array:
    """An array of float32."""
    return np.asarray(values, dtype=np.float32)


def int32(values: object) -> Array:
    """An array of int32."""
    return np.asarray(values, dtype=np.int32)


def ints(*values: int) -> Array:
    """A vector of int64."""
    return np.asarray(values, dtype=np.int64)


FLOATS: tuple[Any, ...] = (np.float32, np.float64, np.float16)
INTEGERS: tuple[Any, ...] = (np.int64, np.int32, np.int8, np.uint8)
WIDE: tuple[Any, ...] = (np.int64, np.int32)


def unary() -> Iterator[Case]:
    """Operators on each element."""
    plain = [
        "Abs",
        "Ceil",
        "Exp",
        "Floor",
        "Neg",
        "Reciprocal",
        "Relu",
        "Round",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Cos",
        "Cosh",
        "Tan",
        "Tanh",
        "Atan",
        "Asinh",
        "Erf",
    ]
    plain += ["Softplus", "Softsign", "HardSwish", "Mish", "Identity"]
    for kind, dtype in itertools.product(plain, FLOATS):
        yield case(kind, [normal(3, 5, dtype=dtype, scale=3.0)])
    yield case("Round", [single([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])])
    for kind, dtype in itertools.product(["Abs", "Neg", "Sign", "Relu"], (np.int32, np.int8, np.int64)):
        yield case(kind, [whole(3, 5, dtype=dtype)])
    yield case("Sign", [np.asarray([0, 1, 255], dtype=np.uint8)])
    for dtype in FLOATS:
        near = np.linspace(-0.9, 0.9, 15).astype(dtype)
        for kind in ["Acos", "Asin", "Atanh"]:
            yield case(kind, [near])
        for kind in ["Acosh", "Log", "Sqrt"]:
            yield case(kind, [(np.abs(normal(4, 4, dtype=np.float64)) + 1.01).astype(dtype)])
    special = single([np.nan, np.inf, -np.inf, 0, 1.5])
    yield case("IsNaN", [special])
    for positive, negative in itertools.product((0, 1), repeat=2):
        yield case("IsInf", [special], detect_positive=positive, detect_negative=negative)
    yield case("Not", [np.asarray([True, False])])
    yield case("BitwiseNot", [whole(7, dtype=np.int32)])


def activations() -> Iterator[Case]:
    """Operators on each element that have attributes."""
    for dtype, alpha in itertools.product(FLOATS, (0.3, 2.0)):
        x = normal(3, 6, dtype=dtype, scale=2.0)
        for kind in ["Elu", "LeakyRelu", "ThresholdedRelu", "Celu", "HardSigmoid"]:
            if kind == "Celu" and dtype != np.float32:
                continue
            yield case(kind, [x], alpha=alpha)
        yield case("Selu", [x], alpha=alpha, gamma=1.3)
        yield case("Shrink", [x], lambd=alpha, bias=0.2)
    yield case("Shrink", [whole(9, dtype=np.int32)], lambd=1.5, bias=1.0)
    yield case("ThresholdedRelu", [single([-np.inf, np.inf, 0.5, 2])], alpha=1.0)
    for approximate, dtype in itertools.product(("none", "tanh"), FLOATS):
        yield case("Gelu", [normal(4, 8, dtype=dtype)], opset=20, approximate=approximate)
    for slope in ((1,), (5,), (3, 1), (3, 5), (2, 3, 5), (2, 1, 1), ()):
        yield case("PRelu", [normal(2, 3, 5), normal(*slope)])
    for low, high in ((None, 1.0), (-0.5, None), (-0.5, 0.7), (None, None), (0.9, 0.1)):
        for dtype in (np.float32, np.float64):
            bounds = [None if v is None else np.asarray(v, dtype=dtype) for v in (low, high)]
            given = [p for p, v in enumerate(bounds, 1) if v is not None]
            yield case("Clip", [normal(4, 4, dtype=dtype), *bounds], constants=given)
            yield case("Clip", [normal(4, 4, dtype=dtype), *bounds])
    for dtype in INTEGERS:
        yield case("Clip", [whole(9, low=0, high=20, dtype=dtype), np.asarray(3, dtype), np.asarray(9, dtype)])
    yield case("Clip", [normal(4, 4)], opset=6, min=-0.3, max=0.4)


def binary() -> Iterator[Case]:
    """Operators on two tensors that are broadcast."""
    shapes = (((3, 4), (3, 4)), ((2, 3, 4), (4,)), ((3, 1), (2, 1, 4)), ((), (3,)))
    for kind, (a, b) in itertools.product(["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"], shapes):
        yield case(kind, [np.abs(normal(*a)) + 0.1, normal(*b)])
    for kind, dtype in itertools.product(["Add", "Sub", "Mul", "Div", "Max", "Min"], WIDE):
        divisor = np.where(whole(3, 4, dtype=dtype) == 0, 3, whole(3, 4, dtype=dtype)).astype(dtype)
        yield case(kind, [whole(2, 3, 4, dtype=dtype), divisor])
    for kind, dtype in itertools.product(
        ["Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"], (np.float32, np.int64)
    ):
        yield case(kind, [whole(5, 5).astype(dtype), whole(1, 5).astype(dtype)])
    for kind in ["And", "Or", "Xor", "Equal"]:
        yield case(kind, [normal(4, 3) > 0, normal(3) > 0])
    for kind, dtype in itertools.product(["BitwiseAnd", "BitwiseOr", "BitwiseXor"], (np.int32, np.uint8, np.int64)):
        yield case(kind, [whole(4, 3, low=0, high=99, dtype=dtype), whole(3, low=0, high=99, dtype=dtype)])
    for direction in ("LEFT", "RIGHT"):
        yield case("BitShift", [whole(5, dtype=np.int32), int32([0, 3, 31, 32, -1])], opset=28, direction=direction)
    for mode in ("DCR", "CRD"):
        yield case("SpaceToDepth", [normal(2, 3, 4, 6)], opset=28, blocksize=2, mode=mode)
    for direction, dtype in itertools.product(("LEFT", "RIGHT"), (np.uint8, np.uint32, np.uint64)):
        shifted = whole(9, low=0, high=200, dtype=dtype)
        yield case("BitShift", [shifted, whole(9, low=0, high=4, dtype=dtype)], direction=direction)
    for dtype, fmod in itertools.product((np.int64, np.int32, np.float32), (0, 1)):
        if dtype is not np.float32 or fmod:
            yield case("Mod", [whole(12, low=-20, high=20, dtype=dtype), np.asarray([3, -3] * 6, dtype)], fmod=fmod)
    for base, exponent in ((np.int64, 2), (np.int32, 3), (np.int64, 5), (np.float32, 2), (np.float32, -3)):
        yield case("Pow", [whole(6, low=1, high=9).astype(base), np.asarray(exponent)], constants=[1])
        yield case("Pow", [whole(6, low=1, high=9).astype(base), np.full(6, abs(exponent), np.float32)])
    for kind, count in itertools.product(["Max", "Min", "Mean", "Sum"], (1, 2, 3, 4)):
        yield case(kind, [normal(3, 4), normal(4), normal(2, 3, 4), normal(1)][:count])
    for condition in ((3, 4), (4,), (3, 1)):
        yield case("Where", [normal(*condition) > 0, normal(3, 4), normal(1)])
    for source, target in itertools.product((np.float32, np.int32, np.bool_, np.uint8, np.float64), repeat=2):
        x = normal(12, scale=3.0) if source in (np.float32, np.float64) else whole(12, low=0, high=5)
        yield case("Cast", [x.astype(source)], to=helper.np_dtype_to_tensor_dtype(np.dtype(target)))


def reductions() -> Iterator[Case]:
    """Operators that reduce axes."""
    kinds = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
    for kind, keepdims, axes in itertools.product(kinds, (0, 1), (None, (1,), (-1,), (0, 2), (0, 1, 2), ())):
        x = np.abs(normal(3, 4, 5)) + 0.1
        operand = [] if axes is None else [ints(*axes)]
        yield case(f"Reduce{kind}", [x, *operand], constants=[1] if operand else [], keepdims=keepdims)
        if not axes:
            yield case(f"Reduce{kind}", [x, *operand], constants=[1] if operand else [], noop_with_empty_axes=1)
        attributes: dict[str, Any] = {} if axes is None else {"axes": list(axes)}
        if axes != ():
            yield case(f"Reduce{kind}", [x], opset=11, keepdims=keepdims, **attributes)
    for kind, dtype in itertools.product(
        ["L1", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"], (np.int32, np.int64, np.float64)
    ):
        yield case(f"Reduce{kind}", [whole(3, 4, low=1, high=5).astype(dtype), ints(1)], constants=[1])
    for kind, axis, keepdims, last in itertools.product(("ArgMax", "ArgMin"), (0, 1, -1), (0, 1), (0, 1)):
        x = whole(4, 5, low=0, high=3).astype(np.float32)
        yield case(kind, [x], axis=axis, keepdims=keepdims, select_last_index=last)
    for exclusive, reverse, axis in itertools.product((0, 1), (0, 1), (0, 1, -1)):
        yield case("CumSum", [normal(3, 4), np.asarray(axis)], constants=[1], exclusive=exclusive, reverse=reverse)
    for largest, axis in itertools.product((0, 1), (0, -1)):  # without an order there is no right result
        x = np.random.default_rng(5).permutation(24).reshape(4, 6).astype(np.float32)
        yield case("TopK", [x, ints(3)], constants=[1], outputs=2, largest=largest, axis=axis)


def normalisations() -> Iterator[Case]:
    """Normalisations, and softmax."""
    for shape, dtype in itertools.product(((2, 4, 6), (2, 4, 5, 3), (2, 4, 3, 2, 3)), (np.float32, np.float64)):
        x, scale, bias = normal(*shape, dtype=dtype), normal(4, dtype=dtype), normal(4, dtype=dtype)
        yield case("InstanceNormalization", [x, scale, bias], epsilon=1e-3)
        if dtype == np.float32:
            yield case("GroupNormalization", [x, scale, bias], opset=21, num_groups=2)
            yield case("GroupNormalization", [x, scale[:2], bias[:2]], opset=18, num_groups=2)
            yield case("MeanVarianceNormalization", [x], axes=[0, 2])
        for opset in (7, 9, 14, 15):
            parameters = [scale, bias, normal(4, dtype=dtype), np.abs(normal(4, dtype=dtype)) + 0.5]
            yield case("BatchNormalization", [x, *parameters], opset=opset, epsilon=1e-2)
            yield case("BatchNormalization", [x, *parameters], opset=opset, constants=[1, 2, 3, 4])
    for axis, dtype in itertools.product((-1, 1, 2, 0), (np.float32, np.float64, np.float16)):
        x = normal(2, 3, 8, dtype=dtype)
        shape = x.shape[axis % 3 :]
        for outputs in (1, 3) if dtype == np.float32 else (1,):
            yield case("LayerNormalization", [x, normal(*shape, dtype=dtype)], axis=axis, opset=17, outputs=outputs)
            operands = [x, normal(*shape, dtype=dtype), normal(*shape, dtype=dtype)]
            yield case("LayerNormalization", operands, axis=axis, opset=17, epsilon=1e-2, outputs=outputs)
        yield case("RMSNormalization", [x, normal(*shape, dtype=dtype)], axis=axis, opset=23)
    yield case("LayerNormalization", [normal(2, 3, 8), normal(8), normal(8)], axis=1, opset=17)
    for order, axis in itertools.product((1, 2), (-1, 0, 1)):
        yield case("LpNormalization", [normal(3, 4, 5)], p=order, axis=axis)
    for kind, axis, opset in itertools.product(("Softmax", "LogSoftmax", "Hardmax"), (0, 1, -1, 2), (7, 11, 13)):
        if axis >= 0 or opset > 7:
            yield case(kind, [normal(2, 3, 4)], axis=axis, opset=opset)
    for dtype in (np.float64, np.float16):
        yield case("Softmax", [normal(3, 5, dtype=dtype)], axis=-1)
    for size, added in itertools.product((1, 3, 5), (1.0, 2.0)):
        yield case("LRN", [normal(2, 6, 4, 4)], size=size, bias=added, alpha=0.1, beta=0.6)


def attention() -> Iterator[Case]:
    """Attention and rotary embeddings."""
    for heads, causal, cap in itertools.product(((4, 4), (4, 2), (6, 1)), (0, 1), (0.0, 2.0)):
        q, k, v = normal(2, heads[0], 3, 8), normal(2, heads[1], 5, 8), normal(2, heads[1], 5, 6)
        yield case("Attention", [q, k, v], opset=23, is_causal=causal, softcap=cap)
        yield case("Attention", [q, k, v, normal(3, 5)], opset=23, is_causal=causal, scale=0.3)
        past = [normal(2, heads[1], 4, 8), normal(2, heads[1], 4, 6)]
        yield case("Attention", [q, k, v, normal(2, 1, 3, 9), *past], opset=23, outputs=3, is_causal=causal)
    mask = np.asarray([[1, 0, 1, 1, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).astype(bool)
    q, k, v = normal(2, 3, 16), normal(2, 5, 8), normal(2, 5, 8)
    yield case("Attention", [q, k, v, mask], opset=23, q_num_heads=4, kv_num_heads=2)
    for mode in (0, 1, 2, 3):
        operands = [normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 4), normal(3, 5)]
        yield case("Attention", operands, opset=23, outputs=4, qk_matmul_output_mode=mode, softcap=1.5)
    for interleaved, size in itertools.product((0, 1), (0, 4)):
        half = (size or 8) // 2
        tables = [normal(20, half), normal(20, half), whole(2, 3, low=0, high=20)]
        yield case("RotaryEmbedding", [normal(2, 4, 3, 8), *tables], opset=23, **_rotation(interleaved, size))
        yield case(
            "RotaryEmbedding", [normal(2, 3, 32), *tables], opset=23, num_heads=4, **_rotation(interleaved, size)
        )


def _rotation(interleaved: int, size: int) -> dict[str, Any]:
    return {"interleaved": interleaved, "rotary_embedding_dim": size}


def products() -> Iterator[Case]:
    """Products of matrices."""
    for one, other in (
        ((3, 4), (4, 5)),
        ((2, 3, 4), (4, 5)),
        ((2, 1, 3, 4), (5, 4, 2)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((4,), (4,)),
    ):
        for dtype in (np.float32, np.float64, np.int32):
            yield case("MatMul", [normal(*one, scale=3).astype(dtype), normal(*other, scale=3).astype(dtype)])
    for first, second, alpha, beta in itertools.product((0, 1), (0, 1), (1.0, 0.5), (1.0, 0.25)):
        a, b = normal(3, 4), normal(4, 5)
        for extents in (None, (5,), (3, 1), (), (3, 5)):
            operands = [a.T.copy() if first else a, b.T.copy() if second else b]
            operands += [] if extents is None else [normal(*extents)]
            yield case("Gemm", operands, transA=first, transB=second, alpha=alpha, beta=beta)
    equations = {
        "ij,jk->ik": ((3, 4), (4, 5)),
        "bij,bjk->bik": ((2, 3, 4), (2, 4, 5)),
        "bhid,bhjd->bhij": ((2, 2, 3, 4), (2, 2, 5, 4)),
        "i,j->ij": ((3,), (4,)),
        "ij->ji": ((3, 4),),
        "ij->": ((3, 4),),
        "ii->i": ((4, 4),),
        "ii": ((4, 4),),
        "...ij,...jk->...ik": ((2, 3, 4), (4, 5)),
        "ij,kj,lj->ikl": ((2, 3), (4, 3), (5, 3)),
        "abc,cd": ((2, 3, 4), (4, 5)),
        "bn,anm,bm->ba": ((2, 3), (4, 3, 5), (2, 5)),
        "ij,ij->ij": ((3, 4), (3, 4)),
    }
    for equation, shapes in equations.items():
        yield case("Einsum", [normal(*shape) for shape in shapes], equation=equation)


def movements() -> Iterator[Case]:
    """Operators that move elements, with their parameters as inputs and as attributes."""
    x = normal(2, 3, 4)
    for target, zero in (((6, 4), 0), ((-1,), 0), ((0, -1), 0), ((2, 0, 2, 2), 0), ((4, 3, 2), 1)):
        yield case("Reshape", [x, ints(*target)], constants=[1], allowzero=zero)
        yield case("Reshape", [x, ints(*target)], constants=[1], opset=13)
    for axis in (0, 1, 2, 3, -1):
        yield case("Flatten", [x], axis=axis)
    for axes in ((0,), (1, -1), (0, 3)):
        yield case("Unsqueeze", [x, ints(*axes)], constants=[1])
        yield case("Unsqueeze", [x], opset=11, axes=list(axes))
    for axes in ((0,), (0, 2), (-2,)):
        yield case("Squeeze", [normal(1, 3, 1, 4), ints(*axes)], constants=[1])
        yield case("Squeeze", [normal(1, 3, 1, 4)], opset=11, axes=list(axes))
    yield case("Squeeze", [normal(1, 3, 1, 4)])
    for starts, ends, axes, steps in (
        ((1,), (3,), (1,), (1,)),
        ((-2,), (99,), (-1,), (1,)),
        ((3,), (-99,), (2,), (-1,)),
        ((0, 1), (2, 4), (0, 2), (1, 2)),
        ((5,), (9,), (2,), (1,)),
    ):
        yield case("Slice", [x, ints(*starts), ints(*ends), ints(*axes), ints(*steps)], constants=[1, 2, 3, 4])
        if steps == (1,):
            yield case("Slice", [x], opset=9, starts=list(starts), ends=list(ends), axes=list(axes))
    for sizes, axis in (((1, 2), 1), ((2, 2), 2), ((1, 1), 0)):
        yield case("Split", [x, ints(*sizes)], constants=[1], outputs=2, axis=axis)
        yield case("Split", [x], opset=11, outputs=2, axis=axis, split=list(sizes))
    yield case("Split", [normal(7, 2)], outputs=3, axis=0, num_outputs=3)
    yield case("Split", [normal(6, 2)], outputs=3, opset=11, axis=0)
    for mode, pads in itertools.product(("constant", "edge", "reflect"), ((0, 1, 1, 0, 0, 2), (0, -1, 0, 0, 0, -1))):
        if mode == "constant" or min(pads) >= 0:
            yield case("Pad", [x, ints(*pads)], constants=[1], mode=mode)
            yield case("Pad", [x, ints(*pads), single(2.5)], constants=[1, 2], mode=mode)
            yield case("Pad", [x], opset=10, mode=mode, pads=list(pads))
    yield case("Pad", [x, ints(1, 2), None, ints(-1)], constants=[1, 3])
    yield case("Pad", [x, ints(0, 1, 1, 0, 0, 2)], constants=[1], opset=19, mode="wrap")
    for repeats in ((1, 2, 3), (2, 1, 1)):
        yield case("Tile", [x, ints(*repeats)], constants=[1])
    yield case("Tile", [normal(2, 3, 4, 5), ints(2, 2, 4, 2)], constants=[1])
    yield case("Tile", [normal(2, 3, 4, 5), ints(2, 2, 4, 2)])
    for shape in ((2, 3, 4), (5, 1, 3, 1), (3, 4), (1,)):
        yield case("Expand", [normal(3, 1), ints(*shape)], constants=[1])
    yield case("Transpose", [x])
    yield case("Transpose", [x], perm=[2, 0, 1])
    for axis in (0, 1, -1):
        yield case("Concat", [x, x, x], axis=axis)
        yield case(
            "OneHot", [whole(2, 3, low=-4, high=4), np.asarray(4), single([0.5, 2])], constants=[1, 2], axis=axis
        )
        yield case(
            "OneHot", [whole(2, 3, low=0, high=4, dtype=np.int32), np.asarray(4), ints(3, 7)], constants=[1], axis=axis
        )
    for upper, k in itertools.product((0, 1), (-1, 0, 2)):
        yield case("Trilu", [x, np.asarray(k)], constants=[1], upper=upper)
        yield case("Trilu", [whole(4, 5), np.asarray(k)], constants=[1], upper=upper)
    for k, dtype in itertools.product((-1, 0, 2), (1, 7, 11)):
        yield case("EyeLike", [normal(3, 4)], k=k, dtype=dtype)
    yield case("Range", [single(1), single(9), single(1.5)], constants=[0, 1, 2], opset=11)
    yield case("Compress", [x, np.asarray([False, True, True])], constants=[1], axis=1)
    yield case("Compress", [x, np.asarray([False, True, True])], constants=[1])
    yield case("Dropout", [x], opset=10, ratio=0.4, outputs=2)
    yield case("Shape", [x], start=1)
    yield case("Size", [x])
    for mode in ("DCR", "CRD"):
        yield case("DepthToSpace", [normal(2, 8, 3, 2)], blocksize=2, mode=mode)
    yield case("SpaceToDepth", [normal(2, 3, 4, 6)], blocksize=2)


#: The families by name.
FAMILIES = {
    "unary": unary,
    "activations": activations,
    "binary": binary,
    "reductions": reductions,
    "normalisations": normalisations,
    "attention": attention,
    "products": products,
    "movements": movements,
}
