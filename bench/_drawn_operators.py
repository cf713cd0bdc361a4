"""Random nodes by operator: attributes, shapes and inputs are drawn, and what ONNX Runtime refuses is drawn again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from bench._operators import Constant, Input, Trial

__all__ = ["DRAWS", "Draw"]

#: Draws a node.
Draw: TypeAlias = Callable[[np.random.Generator], Trial]


def _normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape).astype(np.float32)


def _pick(rng: np.random.Generator, *choices: object) -> object:
    return choices[int(rng.integers(len(choices)))]


def _ints(rng: np.random.Generator, low: int, high: int, count: int) -> list[int]:
    return [int(v) for v in rng.integers(low, high + 1, count)]


def _windows(rng: np.random.Generator, rank: int) -> dict[str, object]:
    """Attributes of windows, without those that have their defaults now and then."""
    kernel = _ints(rng, 1, 4, rank)
    how: dict[str, object] = {"kernel_shape": kernel, "strides": _ints(rng, 1, 4, rank)}
    padding = _pick(rng, "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    if padding == "NOTSET":
        how["pads"] = [int(rng.integers(0, max(1, kernel[k % rank]))) for k in range(2 * rank)]
    else:
        how["auto_pad"] = padding
    if padding in ("NOTSET", "VALID") and rng.random() < 0.4:
        how["dilations"] = _ints(rng, 1, 2, rank)
    return how


def _image(rng: np.random.Generator, rank: int, channels: int = 0) -> list[int]:
    return [int(rng.integers(1, 3)), channels or int(rng.integers(1, 4)), *_ints(rng, 5, 11, rank)]


def draw_max_pool(rng: np.random.Generator) -> Trial:
    """MaxPool with all its attributes, for floating-point numbers and bytes."""
    rank = int(rng.integers(1, 4))
    how = _windows(rng, rank) | {"ceil_mode": int(rng.integers(2)), "storage_order": int(rng.integers(2))}
    x = _normal(rng, *_image(rng, rank))
    if rng.random() < 0.2:
        x = (x * 50).astype(np.int8)
    return Trial("MaxPool", [x], how, outputs=int(rng.integers(1, 3)))


def draw_average_pool(rng: np.random.Generator) -> Trial:
    """AveragePool with all its attributes."""
    rank = int(rng.integers(1, 4))
    how = _windows(rng, rank) | {"ceil_mode": int(rng.integers(2)), "count_include_pad": int(rng.integers(2))}
    return Trial("AveragePool", [_normal(rng, *_image(rng, rank))], how)


def draw_lp_pool(rng: np.random.Generator) -> Trial:
    """LpPool of several powers."""
    rank = int(rng.integers(1, 4))
    how = _windows(rng, rank) | {"p": int(rng.integers(1, 4)), "ceil_mode": int(rng.integers(2))}
    return Trial("LpPool", [_normal(rng, *_image(rng, rank))], how, error=1e-4)


def draw_global_lp_pool(rng: np.random.Generator) -> Trial:
    """GlobalLpPool of several powers."""
    x = _normal(rng, *_image(rng, int(rng.integers(1, 4))))
    return Trial("GlobalLpPool", [x], {"p": int(rng.integers(1, 4))}, error=1e-4)


def draw_conv(rng: np.random.Generator) -> Trial:
    """Conv of one to three dimensions, in groups, with all paddings."""
    rank, groups = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    how = _windows(rng, rank) | {"group": groups}
    kernel = how["kernel_shape"]
    assert isinstance(kernel, list)
    inner, outer = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    x, w = _normal(rng, *_image(rng, rank, groups * inner)), _normal(rng, groups * outer, inner, *kernel)
    if rng.random() < 0.3:
        del how["kernel_shape"]
    bias = [Constant(_normal(rng, groups * outer))] if rng.random() < 0.5 else []
    return Trial("Conv", [x, Constant(w), *bias], how, error=1e-4)


def draw_transposed_conv(rng: np.random.Generator) -> Trial:
    """ConvTranspose of one to three dimensions, in groups, with paddings and shapes of all kinds."""
    rank, groups = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    kernel, strides = _ints(rng, 1, 4, rank), _ints(rng, 1, 4, rank)
    how: dict[str, object] = {"kernel_shape": kernel, "strides": strides, "group": groups}
    if rng.random() < 0.3:
        how["dilations"] = _ints(rng, 1, 2, rank)
    x = _normal(rng, *_image(rng, rank, groups * int(rng.integers(1, 3))))
    kind = _pick(rng, "pads", "pads", "auto", "shape", "none")
    if kind == "pads":
        how["pads"] = [int(rng.integers(0, max(1, kernel[k % rank]))) for k in range(2 * rank)]
        how["output_padding"] = [int(rng.integers(0, s)) for s in strides]
    elif kind == "auto":
        how["auto_pad"] = _pick(rng, "SAME_UPPER", "SAME_LOWER", "VALID")
    elif kind == "shape":
        how["output_shape"] = [
            int((n - 1) * s + k - rng.integers(0, k)) for n, s, k in zip(x.shape[2:], strides, kernel, strict=True)
        ]
        if rng.random() < 0.5:
            how["auto_pad"] = _pick(rng, "SAME_UPPER", "SAME_LOWER")
    w = _normal(rng, x.shape[1], int(rng.integers(1, 4)), *kernel)
    bias = [Constant(_normal(rng, groups * w.shape[1]))] if rng.random() < 0.5 else []
    return Trial("ConvTranspose", [x, Constant(w), *bias], how, error=1e-4)


def draw_resize(rng: np.random.Generator) -> Trial:
    """Resize in all modes, by sizes or scales, of some or all axes."""
    rank = int(rng.integers(1, 4))
    x = _normal(rng, *_image(rng, rank))
    mode = _pick(rng, "nearest", "linear", "cubic") if rank == 2 else _pick(rng, "nearest", "linear")
    how: dict[str, object] = {
        "mode": mode,
        "coordinate_transformation_mode": _pick(
            rng,
            "half_pixel",
            "pytorch_half_pixel",
            "asymmetric",
            "align_corners",
            "half_pixel_symmetric",
            "tf_crop_and_resize",
        ),
    }
    if mode == "nearest":
        how["nearest_mode"] = _pick(rng, "round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    if mode == "cubic":
        how["cubic_coeff_a"] = float(_pick(rng, -0.75, -0.5))  # type: ignore[arg-type]
        how["exclude_outside"] = int(rng.integers(2))
    if (
        mode != "nearest"
        and rank == 2
        and rng.random() < 0.4
        and "tf" not in str(how["coordinate_transformation_mode"])
    ):
        how["antialias"] = 1
    factors = np.asarray([1, 1, *rng.choice([0.4, 0.5, 0.6, 1.0, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0], rank)], np.float32)
    roi = None
    if how["coordinate_transformation_mode"] == "tf_crop_and_resize":
        begins = rng.uniform(-0.1, 0.4, rank)
        ends = rng.uniform(0.6, 1.1, rank)
        roi = Constant(np.asarray([0, 0, *begins, 1, 1, *ends], np.float32))
        how["extrapolation_value"] = 0.5
    if rng.random() < 0.5:
        sizes = [*x.shape[:2], *(max(1, int(n * f)) for n, f in zip(x.shape[2:], factors[2:], strict=True))]
        return Trial("Resize", [x, roi, None, Constant(np.asarray(sizes, np.int64))], how, error=2e-4)
    return Trial("Resize", [x, roi, Constant(factors)], how, error=2e-4)


def draw_grid_sample(rng: np.random.Generator) -> Trial:
    """GridSample in all modes, with coordinates inside and outside of the image."""
    rank = int(rng.integers(2, 4))
    x = _normal(rng, *_image(rng, rank))
    grid = rng.uniform(-1.6, 1.6, (x.shape[0], *_ints(rng, 2, 5, rank), rank)).astype(np.float32)
    how = {
        "mode": _pick(rng, "linear", "nearest", "cubic") if rank == 2 else _pick(rng, "linear", "nearest"),
        "padding_mode": _pick(rng, "zeros", "border", "reflection"),
        "align_corners": int(rng.integers(2)),
    }
    return Trial("GridSample", [x, grid], how, error=2e-4)


def draw_roi_align(rng: np.random.Generator) -> Trial:
    """RoiAlign with a fixed number of samples."""
    x, count = _normal(rng, 2, 3, 9, 8), 4
    corners = rng.uniform(-2, 8, (count, 2))
    rois = np.concatenate([corners, corners + rng.uniform(0.5, 9, (count, 2))], axis=1).astype(np.float32)
    how = {
        "mode": _pick(rng, "avg", "max"),
        "output_height": int(rng.integers(1, 4)),
        "output_width": int(rng.integers(1, 4)),
        "sampling_ratio": int(rng.integers(1, 4)),
        "spatial_scale": float(_pick(rng, 1.0, 0.5)),  # type: ignore[arg-type]
        "coordinate_transformation_mode": _pick(rng, "half_pixel", "output_half_pixel"),
    }
    return Trial("RoiAlign", [x, rois, rng.integers(0, 2, count)], how, error=1e-4)


def draw_max_roi_pool(rng: np.random.Generator) -> Trial:
    """MaxRoiPool with regions that may leave the image."""
    x, count = _normal(rng, 2, 3, 9, 8), 4
    corners = rng.uniform(0, 6, (count, 2))
    batch = rng.integers(0, 2, (count, 1))
    rois = np.concatenate([batch, corners, corners + rng.uniform(0, 6, (count, 2))], axis=1).astype(np.float32)
    return Trial("MaxRoiPool", [x, rois], {"pooled_shape": _ints(rng, 1, 4, 2), "spatial_scale": 0.75})


def draw_pad(rng: np.random.Generator) -> Trial:
    """Pad in all modes, of some or all axes; in the mode of constants it may cut, too."""
    rank, mode = int(rng.integers(1, 5)), str(_pick(rng, "constant", "edge", "reflect", "wrap"))
    x = _normal(rng, *_ints(rng, 3, 6, rank))
    axes = None
    count = rank
    if rng.random() < 0.5:
        count = int(rng.integers(1, rank + 1))
        axes = Constant(rng.permutation(rank)[:count] - (rank if rng.random() < 0.5 else 0))
    pads = rng.integers(-1 if mode == "constant" else 0, 3, 2 * count)
    value = Constant(np.asarray(1.5, np.float32)) if mode == "constant" and rng.random() < 0.5 else None
    inputs = [x, Constant(pads), value, *([axes] if axes is not None else [])]
    return Trial("Pad", inputs, {"mode": mode})


def draw_scatter_elements(rng: np.random.Generator) -> Trial:
    """ScatterElements with all reductions; without one, indices are different."""
    rank = int(rng.integers(1, 4))
    x = _normal(rng, *_ints(rng, 3, 6, rank))
    axis, reduction = int(rng.integers(rank)), str(_pick(rng, "none", "add", "mul", "max", "min"))
    shape = [int(rng.integers(1, n + 1)) for n in x.shape]
    indices = np.argsort(rng.random([*shape[:axis], x.shape[axis], *shape[axis + 1 :]]), axis=axis)
    indices = np.take(indices, np.arange(shape[axis]), axis=axis)
    if reduction != "none":
        indices = rng.integers(0, x.shape[axis], shape)
    indices = np.where(rng.random(shape) < 0.3, indices - x.shape[axis], indices).astype(np.int64)
    given = Constant(indices) if rng.random() < 0.3 else indices
    how = {"axis": axis - (rank if rng.random() < 0.3 else 0), "reduction": reduction}
    return Trial("ScatterElements", [x, given, _normal(rng, *shape)], how)


def draw_scatter_nd(rng: np.random.Generator) -> Trial:
    """ScatterND with all reductions."""
    rank = int(rng.integers(1, 4))
    x = _normal(rng, *_ints(rng, 3, 5, rank))
    depth, reduction = int(rng.integers(1, rank + 1)), str(_pick(rng, "none", "add", "mul", "max", "min"))
    rows = np.stack([rng.integers(-n, n, 4) for n in x.shape[:depth]], axis=-1)
    if reduction == "none":
        slots = np.ravel_multi_index(tuple(rows.T % np.asarray(x.shape[:depth])[:, None]), x.shape[:depth])
        rows = rows[np.unique(slots, return_index=True)[1]]
    given = Constant(rows) if rng.random() < 0.4 else rows
    updates = _normal(rng, len(rows), *x.shape[depth:])
    return Trial("ScatterND", [x, given, updates], {"reduction": reduction})


def draw_gather_elements(rng: np.random.Generator) -> Trial:
    """GatherElements with negative indices."""
    rank = int(rng.integers(1, 4))
    x = _normal(rng, *_ints(rng, 2, 5, rank))
    axis = int(rng.integers(rank))
    shape = [int(rng.integers(1, n + 1)) for n in x.shape]
    return Trial("GatherElements", [x, rng.integers(-x.shape[axis], x.shape[axis], shape)], {"axis": axis})


def draw_gather_nd(rng: np.random.Generator) -> Trial:
    """GatherND with batches and negative indices."""
    rank = int(rng.integers(1, 5))
    x = _normal(rng, *_ints(rng, 2, 4, rank))
    batch = int(rng.integers(0, rank))
    depth = int(rng.integers(1, rank - batch + 1))
    outer = list(x.shape[:batch]) + ([3] if batch == 0 or rng.random() < 0.5 else [])
    indices = np.stack([rng.integers(-n, n, outer) for n in x.shape[batch : batch + depth]], axis=-1)
    return Trial("GatherND", [x, indices.astype(np.int64)], {"batch_dims": batch})


def draw_top_k(rng: np.random.Generator) -> Trial:
    """TopK along any axis, with equal elements."""
    rank = int(rng.integers(1, 4))
    x = np.round(_normal(rng, *_ints(rng, 2, 7, rank)) * 3).astype(np.float32)
    axis = int(rng.integers(rank))
    k = np.asarray([int(rng.integers(1, x.shape[axis] + 1))], np.int64)
    return Trial("TopK", [x, Constant(k)], {"axis": axis, "largest": int(rng.integers(2))}, outputs=2)


def draw_dft(rng: np.random.Generator) -> Trial:
    """DFT of real and complex signals, along any axis, of any length."""
    rank = int(rng.integers(2, 4))
    x = _normal(rng, *_ints(rng, 3, 9, rank), int(rng.integers(1, 3)))
    inverse = int(rng.integers(2))
    onesided = int(x.shape[-1] == 1 and not inverse and rng.random() < 0.5)
    length = Constant(np.asarray(int(rng.integers(3, 10)), np.int64)) if rng.random() < 0.4 else None
    axis = Constant(np.asarray(int(rng.integers(rank)), np.int64))
    return Trial("DFT", [x, length, axis], {"inverse": inverse, "onesided": onesided}, error=1e-4)


def draw_quantize(rng: np.random.Generator) -> Trial:
    """QuantizeLinear for the tensor or for each index of an axis."""
    x = _normal(rng, *_ints(rng, 2, 6, int(rng.integers(1, 5)))) * np.float32(3)
    dtype = _pick(rng, np.uint8, np.int8)
    axis = int(rng.integers(x.ndim))
    per_axis = rng.random() < 0.5
    shape = [x.shape[axis]] if per_axis else []
    scale = rng.uniform(0.01, 0.2, shape).astype(np.float32)
    zero = rng.integers(0, 20, shape).astype(dtype)  # type: ignore[call-overload]
    how = {"axis": axis - (x.ndim if rng.random() < 0.5 else 0)} if per_axis else {}
    return Trial("QuantizeLinear", [x, Constant(scale), Constant(zero)], how)


def draw_dequantize(rng: np.random.Generator) -> Trial:
    """DequantizeLinear for the tensor or for each index of an axis."""
    dtype = _pick(rng, np.uint8, np.int8, np.int32)
    x = rng.integers(0, 100, _ints(rng, 2, 6, int(rng.integers(1, 5)))).astype(dtype)  # type: ignore[call-overload]
    axis = int(rng.integers(x.ndim))
    per_axis = rng.random() < 0.5
    shape = [x.shape[axis]] if per_axis else []
    scale = rng.uniform(0.01, 0.2, shape).astype(np.float32)
    zero = [] if dtype is np.int32 else [Constant(rng.integers(0, 20, shape).astype(dtype))]  # type: ignore[call-overload]
    return Trial("DequantizeLinear", [x, Constant(scale), *zero], {"axis": axis} if per_axis else {})


def draw_quantised_conv(rng: np.random.Generator) -> Trial:
    """QLinearConv of one to three dimensions."""
    trial = draw_conv(rng)
    image, weight = trial.inputs[0], trial.inputs[1]
    assert isinstance(image, np.ndarray)
    assert isinstance(weight, Constant)
    x = rng.integers(0, 255, image.shape).astype(np.uint8)
    outer = weight.values.shape[0]
    w = rng.integers(-127, 127, weight.values.shape).astype(np.int8)
    per_channel = [outer] if rng.random() < 0.5 else []
    inputs: list[Input] = [
        x,
        Constant(np.asarray(0.02, np.float32)),
        Constant(np.asarray(121, np.uint8)),
        Constant(w),
        Constant(rng.uniform(0.001, 0.01, per_channel).astype(np.float32)),
        Constant(np.zeros(per_channel, np.int8)),
        Constant(np.asarray(0.05, np.float32)),
        Constant(np.asarray(117, np.uint8)),
        *([Constant(rng.integers(-9999, 9999, (outer,)).astype(np.int32))] if rng.random() < 0.5 else []),
    ]
    return Trial("QLinearConv", inputs, dict(trial.attributes))


def draw_quantised_matmul(rng: np.random.Generator) -> Trial:
    """QLinearMatMul of two or three dimensions."""
    m, k, n = _ints(rng, 1, 9, 3)
    outer = _ints(rng, 1, 3, int(rng.integers(0, 2)))
    per_column = [n] if rng.random() < 0.3 else []
    inputs: list[Input] = [
        rng.integers(0, 255, (*outer, m, k)).astype(np.uint8),
        Constant(np.asarray(0.02, np.float32)),
        Constant(np.asarray(121, np.uint8)),
        Constant(rng.integers(-127, 127, (k, n)).astype(np.int8)),
        Constant(rng.uniform(0.001, 0.01, per_column).astype(np.float32)),
        Constant(np.zeros(per_column, np.int8)),
        Constant(np.asarray(0.03, np.float32)),
        Constant(np.asarray(117, np.uint8)),
    ]
    return Trial("QLinearMatMul", inputs)


def draw_integer_matmul(rng: np.random.Generator) -> Trial:
    """MatMulInteger with zero points for all, and for each column."""
    m, k, n = _ints(rng, 1, 9, 3)
    a, b = rng.integers(0, 255, (m, k)).astype(np.uint8), rng.integers(-127, 127, (k, n)).astype(np.int8)
    zeros = [np.asarray(7, np.uint8), rng.integers(-3, 3, [n] if rng.random() < 0.5 else []).astype(np.int8)]
    return Trial("MatMulInteger", [a, Constant(b), *(Constant(z) for z in zeros)])


def draw_depth_to_space(rng: np.random.Generator) -> Trial:
    """DepthToSpace in both modes."""
    block = int(rng.integers(1, 4))
    x = _normal(rng, 2, block * block * int(rng.integers(1, 4)), 3, 2)
    return Trial("DepthToSpace", [x], {"blocksize": block, "mode": _pick(rng, "DCR", "CRD")})


def draw_space_to_depth(rng: np.random.Generator) -> Trial:
    """SpaceToDepth."""
    block = int(rng.integers(1, 4))
    return Trial("SpaceToDepth", [_normal(rng, 2, 3, 2 * block, 3 * block)], {"blocksize": block})


def draw_col2im(rng: np.random.Generator) -> Trial:
    """Col2Im with strides, dilations and padding."""
    image, kernel = _ints(rng, 5, 8, 2), _ints(rng, 1, 3, 2)
    strides, dilations, pads = _ints(rng, 1, 2, 2), _ints(rng, 1, 2, 2), _ints(rng, 0, 1, 4)
    out = [
        (n + pads[a] + pads[2 + a] - (kernel[a] - 1) * dilations[a] - 1) // strides[a] + 1 for a, n in enumerate(image)
    ]
    x = _normal(rng, 2, 3 * kernel[0] * kernel[1], out[0] * out[1])
    inputs: list[Input] = [x, Constant(np.asarray(image, np.int64)), Constant(np.asarray(kernel, np.int64))]
    return Trial("Col2Im", inputs, {"strides": strides, "dilations": dilations, "pads": pads}, error=1e-4)


def draw_reverse_sequence(rng: np.random.Generator) -> Trial:
    """ReverseSequence along either axis."""
    time = int(rng.integers(2))
    x = _normal(rng, *_ints(rng, 3, 6, 2), 2)
    lengths = rng.integers(1, x.shape[time] + 1, x.shape[1 - time])
    return Trial("ReverseSequence", [x, lengths], {"time_axis": time, "batch_axis": 1 - time})


def draw_centre_crop_pad(rng: np.random.Generator) -> Trial:
    """CenterCropPad of some axes."""
    x = _normal(rng, *_ints(rng, 3, 8, 3))
    axes = sorted(int(a) for a in rng.permutation(3)[: int(rng.integers(1, 4))])
    shape = Constant(np.asarray(_ints(rng, 2, 10, len(axes)), np.int64))
    return Trial("CenterCropPad", [x, shape], {"axes": axes})


def draw_affine_grid(rng: np.random.Generator) -> Trial:
    """AffineGrid of two and three dimensions."""
    rank = int(rng.integers(2, 4))
    theta, size = _normal(rng, 2, rank, rank + 1), np.asarray([2, 3, *_ints(rng, 2, 5, rank)], np.int64)
    return Trial("AffineGrid", [theta, Constant(size)], {"align_corners": int(rng.integers(2))}, error=1e-4)


#: What draws nodes of each operator.
DRAWS: dict[str, Draw] = {
    "MaxPool": draw_max_pool,
    "AveragePool": draw_average_pool,
    "LpPool": draw_lp_pool,
    "GlobalLpPool": draw_global_lp_pool,
    "Conv": draw_conv,
    "ConvTranspose": draw_transposed_conv,
    "Resize": draw_resize,
    "GridSample": draw_grid_sample,
    "AffineGrid": draw_affine_grid,
    "RoiAlign": draw_roi_align,
    "MaxRoiPool": draw_max_roi_pool,
    "Col2Im": draw_col2im,
    "Pad": draw_pad,
    "CenterCropPad": draw_centre_crop_pad,
    "DepthToSpace": draw_depth_to_space,
    "SpaceToDepth": draw_space_to_depth,
    "ScatterElements": draw_scatter_elements,
    "ScatterND": draw_scatter_nd,
    "GatherElements": draw_gather_elements,
    "GatherND": draw_gather_nd,
    "ReverseSequence": draw_reverse_sequence,
    "TopK": draw_top_k,
    "DFT": draw_dft,
    "QuantizeLinear": draw_quantize,
    "DequantizeLinear": draw_dequantize,
    "QLinearConv": draw_quantised_conv,
    "QLinearMatMul": draw_quantised_matmul,
    "MatMulInteger": draw_integer_matmul,
}
