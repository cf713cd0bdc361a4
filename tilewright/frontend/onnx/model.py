"""Prepares ONNX models for the importer: fixes shapes, fills missing weights, and folds constants."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tilewright.errors import ModelFormatError, UnsupportedOperatorError
from tilewright.frontend.onnx.conditions import find_deciding
from tilewright.frontend.onnx.convolutions import check_convolutions
from tilewright.frontend.onnx.data import graphs, serialize, write_model
from tilewright.frontend.onnx.file import check_filled, check_sizes, read_proto
from tilewright.frontend.onnx.folding import FOLDED, fold, fold_conditions
from tilewright.frontend.onnx.independence import find_paddings
from tilewright.frontend.onnx.index import Index, find_folder, write_index
from tilewright.frontend.onnx.probing import check_taken, find_plain_refusal, make_acceptance
from tilewright.frontend.onnx.quantisers import check_quantisers
from tilewright.frontend.onnx.shapes import fix_values, list_fixed, open_shapes, read_declared, set_shapes
from tilewright.frontend.onnx.tidy import densify, drop_unread
from tilewright.frontend.proposals import find_buckets
from tilewright.frontend.shapes import Declared, ShapeRequest, make_request
from tilewright.measure.memory import memory_error
from tilewright.scratch import explained

__all__ = ["FOLDED", "MODEL", "prepare"]

#: The file of the model that outputs are compared with. ``FOLDED`` is the file of the model to compile.
MODEL = "model.onnx"

#: Operators whose output doubles if their first input doubles.
_SCALED_THROUGH = ("Add", "Reshape", "Flatten", "Squeeze", "Dropout", "Relu", "AveragePool", "GlobalAveragePool")
#: Operators that have a training mode.
_TRAINED = ("BatchNormalization", "Dropout")
#: The standard deviation of the inputs of the last softmax, in a network with random weights: a choice.
_SPREAD = 2.0


def prepare(
    path: Path, shapes: Mapping[str, tuple[int, ...]] | ShapeRequest, folder: Path, optimised: bool = True
) -> None:
    """Write the model of a file twice: with fixed input shapes and explicit weights, and the same model folded.

    Outputs are compared with those of the first model, ``model.onnx``. So it has as few as possible of the changes that
    the second model, ``folded.onnx``, has. ONNX Runtime's optimiser may crash, so call this function in another process
    (``frontend/onnx/reading``).

    A model in several buckets has a directory for each (``index.find_folder``). ``index.json`` lists the buckets.

    Args:
        path: an ONNX file.
        shapes: the shapes of inputs with symbolic dimensions, by name; or a request with buckets and fixed values.
        folder: an empty directory for the files.
        optimised: whether ONNX Runtime folds constants and batch norms; otherwise ONNX Runtime is not run.

    Raises:
        ModelFormatError: the file is missing or truncated, or it is no ONNX file.
        ResourceError: the model does not fit the memory, or the disk.
        ShapeError: ``shapes`` does not fix a symbolic input shape, names no input, or is none that the model takes.
        UnsupportedOperatorError: ONNX Runtime does not know an operator, or an operator is in training mode.
    """
    model, request = read_proto(path), make_request(shapes)
    try:
        _drop_empty_ends(model)
        densify(model)
        drop_unread(model)
        _refuse_training(model)
        fixed = tuple(fix_values(model, request.values))
        declared = read_declared(model)
        deciding = find_deciding(model)
        accepts = make_acceptance(model, folder, deciding) if optimised else lambda _: False
        buckets = find_buckets(declared, request, accepts, deciding)
        set_shapes(model, buckets[0])
        check_sizes(model)
        filled = _fill_weights(model)
        if filled and optimised:
            _calm_softmax(model, filled, folder)
        paddings = find_paddings(model, declared, buckets) if len(buckets) > 1 else ()
        write_index(Index(tuple(buckets), declared, fixed, paddings), folder)
        # Conditions on fixed values are folded first: ONNX Runtime 1.32 may fail to do so with fixed shapes.
        base = fold_conditions(_open(model, declared), folder) if optimised and list_fixed(model) else model
        for number, bucket in enumerate(buckets):
            place = find_folder(folder, number)
            place.mkdir(exist_ok=True)
            _write_bucket(model, base, bucket, place, bool(request), optimised)
    except MemoryError as exc:
        raise memory_error(f"reading {path}") from exc
    except OSError as exc:
        raise explained(exc, f"reading {path} needs temporary files", folder) from exc
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError) as exc:
        # An operator lacks required inputs or attributes.
        raise ModelFormatError(f"{path} is not valid ONNX: {_first_line(exc)}; export it again") from exc


def _open(model: onnx.ModelProto, declared: Declared) -> onnx.ModelProto:
    """The model with its declared shapes, or with open ones if it was written when its values were fixed."""
    ranks = {name: len(dims) for name, dims in declared.items() if dims is not None}
    written = all(isinstance(dim, int) for dims in declared.values() for dim in dims or ())
    return open_shapes(model, {name: ("",) * rank for name, rank in ranks.items()} if written else declared)


def _write_bucket(
    model: onnx.ModelProto,
    base: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
    asked: bool,
    optimised: bool,
) -> None:
    """Write both models of a bucket.

    Args:
        model: the model; it gets the bucket's shapes.
        base: the model that is folded; it gets the bucket's shapes, too.
        shapes: the shapes of the inputs.
        folder: the directory for the files.
        asked: whether the user gave these shapes. Then the model may refuse them.
        optimised: whether ONNX Runtime folds constants and batch norms.
    """
    set_shapes(model, shapes)
    check_sizes(model)
    written = write_model(model, folder / MODEL, "model.bin")
    if asked and optimised:
        check_taken(folder / MODEL, model, shapes)
    check_convolutions(model)
    check_quantisers(model)
    if base is not model:
        set_shapes(base, shapes)
        written = write_model(base, folder / "conditions.onnx", "conditions.bin")
    again = onnx.ModelProto()
    again.CopyFrom(written)
    try:
        folded = fold(written, folder, optimised)
    except ModelFormatError:
        if not optimised or find_plain_refusal(folder / MODEL, model, {}):
            raise
        folded = fold(again, folder, optimised=False)  # ONNX Runtime runs the model, but fails to optimise it
    (folder / FOLDED).write_bytes(serialize(folded))


def _drop_empty_ends(model: onnx.ModelProto) -> None:
    """Conv(x, w, "") --> Conv(x, w), since an empty name stands for an optional input that is absent.

    ONNX Runtime 1.32 crashes when it optimises a LayerNormalization with an empty name for its bias.
    """
    for graph in graphs(model):
        for node in graph.node:
            while node.input and not node.input[-1]:
                node.input.pop()


def _refuse_training(model: onnx.ModelProto) -> None:
    """Refuse operators in training mode, in which dropout is random and statistics change. TVM ignores this mode.

    Raises:
        UnsupportedOperatorError: an operator is in training mode.
    """
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    arrays |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant" and n.attribute}
    for node in model.graph.node:
        if node.op_type not in _TRAINED or node.domain not in ("", "ai.onnx"):
            continue
        trains = any(a.name == "training_mode" and a.i for a in node.attribute)
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            mode = arrays.get(node.input[2])
            trains = mode is None or bool(numpy_helper.to_array(mode).any())
        if trains:
            name = node.name or next(iter(node.output), "")
            raise UnsupportedOperatorError(
                f"a model is tuned for inference, but {node.op_type} (node {name!r}) is in its mode for training; "
                "export the model in its mode for evaluation, with model.eval()"
            )


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]


def _fill_weights(model: onnx.ModelProto) -> set[str]:
    """Give random values to weights without data in the file. Returns their names.

    Models without weights, such as the light networks of the onnx package, compute them by ConstantOfShape. The names
    show which of these operators ``onnx.tools.replace_constants`` has written; others are constants of the model. Equal
    weights would hide wrong indexing from the check. So weights get random values, which depend on their names only.
    """
    graph = model.graph
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.INT64}
    positive = {name for n in graph.node if n.op_type == "BatchNormalization" for name in (n.input[1], n.input[4])}
    constant = [n for n in graph.node if n.op_type == "ConstantOfShape" and n.input[0] in shapes]
    wanted = {node.output[0]: tuple(map(int, shapes[node.input[0]].reshape(-1))) for node in constant}
    check_filled(wanted)
    filled = [
        n
        for n in constant
        if n.input[0] == f"{n.output[0]}__SHAPE"
        and all(numpy_helper.to_array(a.t).dtype == np.float32 for a in n.attribute)
    ]
    for node in filled:
        shape = wanted[node.output[0]]
        name = node.output[0]
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name in positive:
            values = 0.5 + rng.random(shape, dtype=np.float32)
        else:
            values = rng.standard_normal(shape, dtype=np.float32)
            values *= np.sqrt(2 / max(1, int(np.prod(shape[1:])))) if len(shape) >= 2 else 0.1
        graph.initializer.append(numpy_helper.from_array(values, name))
        graph.node.remove(node)
    return {node.output[0] for node in filled}


def _calm_softmax(model: onnx.ModelProto, filled: set[str], folder: Path) -> None:
    """Scale the random weights before the last softmax, so that its inputs differ by a few units instead of hundreds.

    For large inputs, the output is 1 in one place and 0 elsewhere, which would hide a wrong result.
    """
    import onnxruntime

    makers = {name: node for node in model.graph.node for name in node.output}
    softmax = next((n for n in reversed(model.graph.node) if n.op_type == "Softmax"), None)
    node = softmax
    while node is not None and node.op_type not in ("Conv", "Gemm", "MatMul"):
        node = makers.get(node.input[0]) if node is softmax or node.op_type in _SCALED_THROUGH else None
    if softmax is None or node is None or node.input[1] not in filled or not set(node.input[2:]) <= filled:
        return
    file = folder / "probe.onnx"
    probe = write_model(model, file, "probe.bin")
    del probe.graph.output[:]
    probe.graph.output.append(helper.make_tensor_value_info(softmax.input[0], onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_prepacking", "1")
    rng = np.random.default_rng(0)
    try:
        file.write_bytes(serialize(probe))
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        feeds = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}
        spread = float(np.std(session.run(None, feeds)[0]))
    except Exception:  # ONNX Runtime says what is wrong with the model when it optimises it
        return
    finally:
        for name in ("probe.onnx", "probe.bin"):
            (folder / name).unlink(missing_ok=True)
    if not np.isfinite(spread) or spread == 0:
        return
    for tensor in model.graph.initializer:
        if tensor.name in node.input[1:]:
            array = (numpy_helper.to_array(tensor) * (_SPREAD / spread)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
