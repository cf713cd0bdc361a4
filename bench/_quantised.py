"""Networks in float32, int8, bf16 and int4, for ``bench/precision.py``: quantised by ONNX Runtime's own quantiser.

They are calibrated with random inputs, since their weights are random as well: times do not depend on the values, and
errors are those of the rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bench import _models, _small_networks
from bench._modern import fetch
from tilewright.frontend.onnx.rewriting.upgrade import upgrade
from tilewright.ops.contraction.dot_products import find_bf16_product
from tilewright.processor import cache_sizes
from tilewright.quantising.rounding import mark_products, round_here
from tilewright.target import Target
from tilewright.tensor import Array

__all__ = ["NETWORKS", "PRECISIONS", "write_exported", "write_models"]

#: The precisions besides float32, and what each of them means.
PRECISIONS = {
    "static": "quantised to int8, QDQ, per channel",
    "reduced": "the same, with weights of 7 bits",
    "dynamic": "int8, with scales of activations that are computed at run time",
    "bf16": "products of bfloat16 numbers if the target has an instruction for them; otherwise weights of products of "
    "few rows are rounded to bfloat16",
    "int4": "weights of products have 4 bits, in blocks of 32 inputs, without zero points",
}
#: How many random inputs a network is calibrated with.
_CALIBRATED = 4


def write_models(name: str, folder: Path, ways: Sequence[str], target: str = "native") -> dict[str, Path]:
    """Write a network in float32, with its batch norms folded, and in other precisions.

    Args:
        name: of one of ``NETWORKS``, or an ONNX file.
        folder: the directory for the files.
        ways: keys of ``PRECISIONS``.
        target: what Tilewright compiles for, as text.

    Returns:
        the file in float32, and one for each way, by the name of the precision: ``float32``, ``int8``, ``bf16``, and
        with more than one way to int8, ``int8 reduced`` and ``int8 dynamic``. A way that rounds nothing has no file.
    """
    model = NETWORKS[name]() if name in NETWORKS else onnx.load(name)
    plain = folder / f"{Path(name).stem}.onnx"
    _fold(model, plain, folder / "raw.onnx")
    files = {"float32": plain}
    for way in ways:
        out = folder / f"{Path(name).stem}-{way}.onnx"
        machine = Target.parse(target)
        if way == "bf16" and find_bf16_product(machine, machine.lanes):
            mark_products(plain, out)
            files[way] = out
        elif _WRITERS[way](plain, out):
            files[_precision(way, ways)] = out
    return files


def write_exported(name: str, folder: Path) -> Path:
    """Write a network as it was exported, for other runtimes in float32. Returns the file.

    Folding splits operators: a HardSwish becomes a HardSigmoid and a Mul. OpenVINO does not join these again.

    Args:
        name: of one of ``NETWORKS``, or an ONNX file.
        folder: the directory for the file.
    """
    if name not in NETWORKS:
        return Path(name)
    out = folder / f"{name}-exported.onnx"
    onnx.save(NETWORKS[name](), str(out))
    return out


def _precision(way: str, ways: Sequence[str]) -> str:
    if way in ("bf16", "int4"):
        return way
    alike = [other for other in ways if other not in ("bf16", "int4")]
    return "int8" if alike == [way] or way == "static" else f"int8 {way}"


def _round(plain: Path, out: Path) -> bool:
    rounded = round_here(plain, out, None, cache_sizes()[1], 0)
    print(f"+ {rounded if rounded.products else 'no weights are rounded'}", flush=True)
    return bool(rounded.products)


def _to_nibbles(plain: Path, out: Path) -> bool:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantiser = MatMulNBitsQuantizer(onnx.load(str(plain)), block_size=32, is_symmetric=True)
    quantiser.process()
    quantiser.model.save_model_to_file(str(out))
    return True


def _quantise_dynamically(plain: Path, out: Path) -> bool:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    constants = {"MatMulConstBOnly": True}
    quantize_dynamic(plain, out, per_channel=True, weight_type=QuantType.QInt8, extra_options=constants)
    return True


def _light(name: str) -> Callable[[], onnx.ModelProto]:
    """A light network of the onnx package, with random weights."""

    def make() -> onnx.ModelProto:
        from tilewright.frontend.load import load

        model = load(Path(_models.model(name))).onnx
        assert model is not None
        values = {tensor.name for tensor in model.graph.initializer}
        for place in reversed(range(len(model.graph.input))):
            if model.graph.input[place].name in values:
                del model.graph.input[place]
        return model

    return make


def _product(rows: int, depth: int, outputs: int) -> Callable[[], onnx.ModelProto]:
    """A product with a matrix of normal numbers."""

    def make() -> onnx.ModelProto:
        weight = (np.random.default_rng(0).standard_normal((depth, outputs)) / np.sqrt(depth)).astype(np.float32)
        ends = [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [rows, extent])
            for name, extent in (("x", depth), ("y", outputs))
        ]
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    return make


def _modern_network(name: str) -> onnx.ModelProto:
    """A network of ``bench._modern``, fetched into the cache."""
    return onnx.load(str(fetch(name).path))


#: The networks by name.
NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    **{name: _light(name) for name in ("resnet50", "squeezenet", "vgg19", "densenet121", "inception_v1")},
    "small_mobilenet_v3": _small_networks.mobilenet_v3,
    **{
        f"product_{rows}x{depth}x{outputs}": _product(rows, depth, outputs)
        for rows, depth, outputs in ((1, 4096, 4096), (1, 2048, 8192), (8, 4096, 4096), (128, 2048, 2048))
    },
    **{name: partial(_modern_network, name) for name in ("mobilenetv3", "efficientnet_b0", "vit_tiny", "minilm")},
}


def _fold(model: onnx.ModelProto, out: Path, scratch: Path) -> None:
    import onnxruntime

    model.ir_version = max(model.ir_version, 8)
    upgrade(model)
    onnx.save(model, str(scratch))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(scratch), options, providers=["CPUExecutionProvider"])
    scratch.unlink()


def _quantise(plain: Path, out: Path, reduced: bool) -> bool:
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Samples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            session = onnxruntime.InferenceSession(str(plain), providers=["CPUExecutionProvider"])
            rng = np.random.default_rng(1)
            self._samples = iter(
                [
                    {i.name: _draw(rng, i.name, i.shape, i.type) for i in session.get_inputs()}
                    for _ in range(_CALIBRATED)
                ]
            )

        def get_next(self) -> dict[str, Array] | None:
            return next(self._samples, None)

    quantize_static(
        str(plain),
        str(out),
        Samples(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        reduce_range=reduced,
    )
    return True


def _draw(rng: np.random.Generator, name: str, shape: list[int], kind: str) -> Array:
    """A random input: numbers, tokens, a mask of ones, or token types of zero."""
    if "float" in kind:
        return rng.standard_normal(shape).astype(np.float32)
    if "ids" not in name:
        return np.ones(shape, np.int64)
    return np.zeros(shape, np.int64) if "type" in name else rng.integers(1, 20_000, shape)


_WRITERS: dict[str, Callable[[Path, Path], bool]] = {
    "static": partial(_quantise, reduced=False),
    "reduced": partial(_quantise, reduced=True),
    "dynamic": _quantise_dynamically,
    "bf16": _round,
    "int4": _to_nibbles,
}
