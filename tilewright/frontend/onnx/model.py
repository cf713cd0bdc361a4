"""Prepares ONNX models for the importer: fixes shapes, fills missing weights, folds batch norms."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tilewright.errors import ModelFormatError, ShapeError, UnsupportedOperatorError
from tilewright.frontend.onnx.data import fetch_tensor, graphs, serialize, write_model
from tilewright.frontend.onnx.file import check_filled, check_sizes, copy_for_inference, read_proto
from tilewright.frontend.onnx.independence import find_paddings
from tilewright.frontend.onnx.index import Index, number_name, write_index
from tilewright.frontend.onnx.probing import about_shapes, check_taken, find_plain_refusal, make_acceptance, refuse
from tilewright.frontend.onnx.repair import repair
from tilewright.frontend.onnx.shapes import fix_values, open_shapes, read_declared, set_shapes
from tilewright.frontend.proposals import find_buckets
from tilewright.frontend.shapes import ShapeRequest, make_request
from tilewright.measure.memory import memory_error
from tilewright.scratch import check_space, explained
from tilewright.tensor import Array

__all__ = ["FOLDED", "MODEL", "prepare"]

#: The files that :func:`prepare` writes: the model for reference, and the model to compile.
MODEL, FOLDED = "model.onnx", "folded.onnx"

#: Operators whose output doubles if their first input doubles.
_SCALED_THROUGH = ("Add", "Reshape", "Flatten", "Squeeze", "Dropout", "Relu", "AveragePool", "GlobalAveragePool")
#: Operators that have a mode for training.
_TRAINED = ("BatchNormalization", "Dropout")
#: The part of ONNX Runtime's messages that names a temporary file. It tells the user nothing.
_PLACE = re.compile(r"Load model from \S+ failed:")
#: The standard deviation that the inputs of the last softmax get, in a network that is filled with random weights.
_SPREAD = 2.0


def prepare(
    path: Path, shapes: Mapping[str, tuple[int, ...]] | ShapeRequest, folder: Path, optimised: bool = True
) -> None:
    """Write the model of a file twice: with fixed input shapes and explicit weights, and the same model folded.

    Outputs are judged by the first model, ``model.onnx``. It has undergone as little as possible of what the second
    model, ``folded.onnx``, undergoes before it is compiled. ONNX Runtime's optimiser may crash, so call this function
    in a process of its own (``frontend/onnx/reading``).

    Of a model in several buckets, both are written for each (``index.number_name``). ``index.json`` lists the buckets.

    Args:
        path: an ONNX file.
        shapes: the shapes of inputs with symbolic dimensions, by name; or what else is asked of the inputs.
        folder: an empty directory for the files.
        optimised: whether ONNX Runtime folds constants and batch norms; otherwise ONNX Runtime is not run.

    Raises:
        ModelFormatError: the file is missing or truncated, or it is no ONNX file.
        ResourceError: the model does not fit the memory, or the disk.
        ShapeError: ``shapes`` does not fix a symbolic input shape, names no input, or is none that the model can take.
        UnsupportedOperatorError: ONNX Runtime does not know an operator, or an operator is in its mode for training.
    """
    model, request = read_proto(path), make_request(shapes)
    try:
        _drop_empty_ends(model)
        _refuse_training(model)
        fixed = tuple(fix_values(model, request.values))
        declared = read_declared(model)
        accepts = make_acceptance(model, folder) if optimised else lambda _: False
        buckets = find_buckets(declared, request, accepts)
        set_shapes(model, buckets[0])
        check_sizes(model)
        filled = _fill_weights(model)
        if filled and optimised:
            _calm_softmax(model, filled, folder)
        written = write_model(model, folder / MODEL, "model.bin")
        del model
        paddings = find_paddings(written, declared, buckets) if len(buckets) > 1 else ()
        write_index(Index(tuple(buckets), declared, fixed, paddings), folder)
        base = written
        if fixed and optimised:
            # Conditions on fixed values are folded first: ONNX Runtime 1.32 may fail to do so with fixed shapes.
            base = _optimise(open_shapes(written, declared), folder, len(buckets), {})
        for number, bucket in enumerate(buckets):
            if number:
                check_sizes(_with_shapes(written, bucket))
                (folder / number_name(MODEL, number)).write_bytes(serialize(_with_shapes(written, bucket)))
            _fold(_with_shapes(base, bucket), folder, number, bucket if request else {}, optimised)
    except MemoryError as exc:
        raise memory_error(f"reading {path}") from exc
    except OSError as exc:
        raise explained(exc, f"reading {path} needs temporary files", folder) from exc
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError) as exc:
        # An operator lacks inputs or attributes that it must have.
        raise ModelFormatError(f"{path} is not valid ONNX: {_first_line(exc)}; export it again") from exc


def _with_shapes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """A copy of a model with other shapes of inputs."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    set_shapes(made, shapes)
    return made


def _fold(
    model: onnx.ModelProto, folder: Path, number: int, shapes: Mapping[str, tuple[int, ...]], optimised: bool
) -> None:
    """Write the model that is compiled.

    Args:
        model: a model whose weights are in files in ``folder``; it is changed.
        folder: the directory.
        number: of the bucket.
        shapes: the shapes of its inputs if somebody asked for them, so that they may be none that it takes.
        optimised: whether ONNX Runtime folds constants and batch norms.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    repair(model)
    _chain_sums(model)
    known = weights | {name for graph in graphs(model) for node in graph.node for name in node.output}
    known |= {tensor.name for tensor in model.graph.initializer}
    folded = _optimise(model, folder, number, shapes) if optimised else model
    _rename_made(folded, known)
    _split_batch_norms(folded, folder)
    _drop_inputs(folded, weights)
    (folder / number_name(FOLDED, number)).write_bytes(serialize(folded))


def _drop_empty_ends(model: onnx.ModelProto) -> None:
    """Conv(x, w, "") --> Conv(x, w), since an empty name stands for an optional input that is absent.

    ONNX Runtime 1.32 crashes when it optimises a LayerNormalization with an empty name for its bias.
    """
    for graph in graphs(model):
        for node in graph.node:
            while node.input and not node.input[-1]:
                node.input.pop()


def _refuse_training(model: onnx.ModelProto) -> None:
    """Refuse operators in their mode for training, in which dropout is random and statistics change.

    TVM ignores this mode.

    Raises:
        UnsupportedOperatorError: an operator is in its mode for training.
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
    """Give random values to weights that the file only declares. Returns their names.

    Models without their weights, such as the light networks of the onnx package, make them by ConstantOfShape.
    ``onnx.tools.replace_constants`` writes and names these operators; others are constants of the model itself. Equal
    weights would hide wrong indexing from the check, so the weights get random values: the same for the same name.
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

    Of large inputs the output is 1 in one place and 0 elsewhere, and would hide a wrong result.
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


def _chain_sums(model: onnx.ModelProto) -> None:
    """Sum(a, b, c) --> Add(Add(a, b), c), which is fused. TVM's importer stacks the operands of a Sum."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "Sum" or len(node.input) < 2:
            nodes.append(node)
            continue
        left = node.input[0]
        for i, right in enumerate(node.input[1:], 1):
            out = node.output[0] if i == len(node.input) - 1 else f"{node.output[0]}__part{i}"
            nodes.append(helper.make_node("Add", [left, right], [out], name=f"{out}__add"))
            left = out
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _optimise(
    model: onnx.ModelProto, folder: Path, number: int, shapes: Mapping[str, tuple[int, ...]]
) -> onnx.ModelProto:
    """The model after ONNX Runtime's basic optimisation, which folds constants and batch norms.

    Args:
        model: a model whose weights are in files in ``folder``.
        folder: the directory, to which the weights of the result are written, too.
        number: of the bucket.
        shapes: the shapes of its inputs if the model might not take them.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # more threads would spin and disturb the tuner
    source, target = folder / number_name("chained.onnx", number), folder / number_name(FOLDED, number)
    data = number_name("folded.bin", number)
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", data)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    source.write_bytes(serialize(model))
    try:
        session = onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        if shapes:
            check_taken(session, model, shapes)
        return onnx.load_model_from_string(target.read_bytes())
    except ShapeError:
        raise
    except Exception as exc:  # ONNX Runtime's errors share no base class
        check_space(folder)
        said = find_plain_refusal(source, model, shapes)
        if not said:  # ONNX Runtime runs the model, but fails to optimise it
            return model
        if about_shapes(said):
            raise refuse(shapes, said) from exc
        text = _PLACE.sub("", str(exc))
        line = text.strip().splitlines()[0][:300]
        if "not a registered" in text or "NOT_IMPLEMENTED" in text or "No Op registered" in text:
            raise UnsupportedOperatorError(
                f"every operator is one of ONNX's: {line}; replace it, or export it as standard operators"
            ) from exc
        if "bad_alloc" in text or "Failed to allocate memory" in text:
            raise MemoryError from exc
        raise ModelFormatError(f"the model is not valid ONNX: {line}; export it again") from exc


def _drop_inputs(model: onnx.ModelProto, weights: set[str]) -> None:
    """Drop the inputs that are weights, or that were weights before they were folded.

    Old files list weights as inputs, and the inputs of ConstantOfShape nodes remain although nothing reads them. The
    model's own inputs stay, even if nothing reads them, since other runtimes require them.
    """
    weights = weights | {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _split_batch_norms(model: onnx.ModelProto, folder: Path) -> None:
    """BatchNormalization(x) --> x * scale + shift, if ONNX Runtime found no convolution to fold it into."""
    graph = model.graph
    wanted = {name for n in graph.node if n.op_type == "BatchNormalization" for name in n.input[1:5]}
    arrays: dict[str, Array] = {}
    for tensor in graph.initializer:
        if tensor.name in wanted:
            fetch_tensor(tensor, folder)
            arrays[tensor.name] = numpy_helper.to_array(tensor)
    left = [n for n in graph.node if n.op_type == "BatchNormalization" and all(i in arrays for i in n.input[1:5])]
    ranks = _ranks(model) if left else {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "BatchNormalization" or node not in left or node.input[0] not in ranks:
            nodes.append(node)
            continue
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        gamma, beta, mean, var = (arrays[name].astype(np.float64) for name in node.input[1:5])
        scale = gamma / np.sqrt(var + epsilon)
        shift = beta - mean * scale
        column = (-1,) + (1,) * (ranks[node.input[0]] - 2)
        out = node.output[0]
        for suffix, values in (("scale", scale), ("shift", shift)):
            shaped = values.astype(np.float32).reshape(column)
            graph.initializer.append(numpy_helper.from_array(shaped, f"{out}__{suffix}"))
        nodes.append(helper.make_node("Mul", [node.input[0], f"{out}__scale"], [f"{out}__scaled"], f"{out}__mul"))
        nodes.append(helper.make_node("Add", [f"{out}__scaled", f"{out}__shift"], [out], f"{out}__add"))
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for each in graphs(model) for node in each.node for name in node.input}
    used |= {output.name for each in graphs(model) for output in each.output}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:  # ONNX Runtime refuses unused ones
            del graph.initializer[index]


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    """The number of dimensions of each tensor whose shape can be inferred, by name."""
    graph = onnx.shape_inference.infer_shapes(copy_for_inference(model)).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}


def _rename_made(model: onnx.ModelProto, known: set[str]) -> None:
    """Rename the constants that ONNX Runtime has made: it gives their names again if it optimises a segment.

    Args:
        model: an optimised model, which is changed.
        known: the names of weights and results that it had before.
    """
    made = [tensor for tensor in model.graph.initializer if tensor.name not in known]
    names = {tensor.name: f"tilewright_constant{number}" for number, tensor in enumerate(made)}
    for tensor in made:
        tensor.name = names[tensor.name]
    for graph in graphs(model):
        for node in graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
        for output in graph.output:
            output.name = names.get(output.name, output.name)
