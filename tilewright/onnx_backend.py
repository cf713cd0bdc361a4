"""Runs ONNX models that are in memory, with the interface of :mod:`onnx.backend.base` that other tools use.

>>> import tilewright.onnx_backend as backend
>>> prepared = backend.prepare(model, "CPU")  # doctest: +SKIP
>>> (y,) = prepared.run([x])  # doctest: +SKIP

The functions ``prepare``, ``run_model``, ``run_node``, ``is_compatible`` and ``supports_device`` are the methods of
:class:`TilewrightBackend`. ``prepare`` returns a :class:`PreparedModel`.

A model is built with default schedules, which is quick, and its outputs are not checked. With ``budget="5m"``, it is
tuned and its outputs are checked, as by :func:`tilewright.tuning.session.tune`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from tilewright.errors import (
    CompilerError,
    ModelError,
    ModelFormatError,
    ShapeError,
    TargetError,
    TilewrightError,
)
from tilewright.frontend.onnx.single import make_single
from tilewright.frontend.onnx.values import describe_end
from tilewright.scratch import explained
from tilewright.tensor import TensorSpec
from tilewright.wording import counted

if TYPE_CHECKING:
    from tilewright.executable.executable import Executable
    from tilewright.frontend.network import Network
    from tilewright.graph.tasks import Extraction

__all__ = [
    "PreparedModel",
    "TilewrightBackend",
    "is_compatible",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]

#: The names of the device that models run on.
_DEVICES = ("CPU", "CPU:0")


class PreparedModel(BackendRep):
    """A model that is ready to run.

    A model with open dimensions is built when it runs, once for each set of shapes.

    Args:
        build: makes an executable for the shapes of inputs with open dimensions, by name.
        ends: the inputs of the model, in order, with -1 for an open dimension.
    """

    def __init__(self, build: Callable[[dict[str, tuple[int, ...]]], Executable], ends: Sequence[TensorSpec]) -> None:
        self._build, self._ends = build, tuple(ends)
        self._open = [spec.name for spec in ends if spec.is_numeric and not spec.is_fixed]
        self._built: dict[tuple[tuple[int, ...], ...], Executable] = {}
        self._last: Executable | None = None if self._open else self._find({})

    @property
    def executable(self) -> Executable:
        """The executable of the model. For a model with open dimensions: the executable of the last run.

        Raises:
            ShapeError: the model has open dimensions, and has not run yet.
        """
        if self._last is None:
            raise ShapeError(
                f"a model is built for fixed shapes, but {self._open[0]!r} has open dimensions; run it first, or give "
                "shapes="
            )
        return self._last

    @property
    def segments(self) -> tuple[tuple[str, ...], ...]:
        """The segments of :attr:`executable`. For each: why ONNX Runtime runs its operators.

        Empty if the whole model is compiled. Raises as :attr:`executable` does.
        """
        return tuple(tuple(entry["reasons"]) for entry in self.executable.manifest.get("segments", []))

    def run(self, inputs: object, **options: object) -> tuple[Any, ...]:  # only the model knows the types
        """The outputs, as a named tuple: by place, by attribute, or by name (``outputs["y"]``).

        Args:
            inputs: a list or tuple with one value for each input; a mapping by the inputs' names; or the value of the
                only input. Values are what an executable takes (:class:`tilewright.Executable`).
            options: the interface has this parameter, but no option is known.

        Raises:
            ShapeError: an input is missing or unknown, or has another shape or dtype.
            TilewrightError: an option was given; or a model with open dimensions cannot be built for these shapes.
        """
        _refuse_options("run", options)
        values = self._arrange(inputs)
        if self._open and len(values) == len(self._ends):
            pairs = zip(self._ends, values, strict=True)
            given = {spec.name: np.asarray(value).shape for spec, value in pairs if spec.name in self._open}
            self._last = self._find(given)
        executable = self.executable
        names = [spec.name for spec in executable.outputs]
        return namedtupledict("Outputs", names)(*executable(*values))

    def _find(self, shapes: dict[str, tuple[int, ...]]) -> Executable:
        """The executable for the shapes of inputs with open dimensions."""
        key = tuple(shapes.values())
        if key not in self._built:
            self._built[key] = self._build(shapes)
        return self._built[key]

    def _arrange(self, inputs: object) -> Sequence[object]:
        """The values in the order of the model's inputs."""
        if isinstance(inputs, list | tuple):
            return inputs
        if not isinstance(inputs, Mapping):
            return [inputs]
        names = [spec.name for spec in self._ends]
        if odd := set(inputs) ^ set(names):
            name = min(map(str, odd))
            what = f"{name!r} is missing" if name in names else f"{name!r} is none of them"
            raise ShapeError(f"a model takes one value for each input ({', '.join(names)}), but {what}")
        return [inputs[name] for name in names]


class TilewrightBackend(Backend):
    """Tilewright as a backend of ONNX. All methods are class methods, so no object is needed."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether models can run on a device: only on ``CPU``.

        Args:
            device: a name such as ``CPU`` or ``CUDA:1``.
        """
        return device in _DEVICES

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **options: object) -> bool:
        """Whether a model can be read, and the device is supported. Another process reads the model to find out.

        Args:
            model: the model.
            device: the name of the device.
            options: ``shapes``, as :meth:`prepare` takes it.
        """
        from tilewright.frontend.onnx.reading import read_onnx

        shapes = _take_shapes(options)
        _refuse_options("is_compatible", options)
        if not cls.supports_device(device):
            return False
        _check_model(model)
        with tempfile.TemporaryDirectory(prefix="tilewright-") as place:
            try:
                read_onnx(_save(model, Path(place)), _find_zeros(model) | shapes)
            except ModelError:
                return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **options: object) -> PreparedModel:
        """Make a model ready to run.

        Args:
            model: the model. If its weights are in other files, load them first
                (``onnx.load_external_data_for_model``).
            device: the name of the device: ``CPU`` or ``CPU:0``.
            options: any of

                - ``shapes``: the shapes of inputs with open dimensions, by name. Without them, the model is built when
                  it runs, once for each set of shapes.
                - ``budget``: a duration such as ``"30s"``, within which the model is tuned and its outputs are checked.
                  Without it, the model runs with default schedules, and its outputs are not checked.
                - ``isolated``: False reads the model in this process, which is faster by a few tenths of a second. Then
                  a crash of ONNX Runtime's optimiser ends this process. With a budget, another process reads it anyway.

        Raises:
            ModelError: the model is not valid.
            TargetError: the device is not supported.
            CheckError: a budget was given, and the outputs are wrong.
            TilewrightError: an option is unknown, or the model cannot be read, built or tuned.
        """
        shapes, budget, isolated = _take_shapes(options), options.pop("budget", None), options.pop("isolated", True)
        _refuse_options("prepare", options)
        if not cls.supports_device(device):
            raise TargetError(f"models run on the CPU, but the device {device!r} was asked for; leave it out")
        if budget is not None and not isinstance(budget, str):
            raise TilewrightError(f"a budget is a duration such as '30s', but this is {budget!r}")
        _check_model(model)
        shapes = _find_zeros(model) | shapes

        def build(more: dict[str, tuple[int, ...]]) -> Executable:
            with tempfile.TemporaryDirectory(prefix="tilewright-") as place:
                path = _save(model, Path(place))
                if budget is not None:
                    from tilewright.tuning.session import tune

                    return tune(path, Path(place, "out"), budget=budget, shapes=shapes | more).executable
                return _build(path, shapes | more, bool(isolated))

        return PreparedModel(build, _describe_inputs(model, shapes))

    @classmethod
    def run_model(
        cls, model: onnx.ModelProto, inputs: object, device: str = "CPU", **options: object
    ) -> tuple[Any, ...]:  # only the model knows the types
        """The outputs of a model for inputs. To run it more than once, :meth:`prepare` it.

        Args:
            model: the model.
            inputs: as :meth:`PreparedModel.run` takes them.
            device: the name of the device.
            options: as :meth:`prepare` takes them.

        Raises:
            TilewrightError: as :meth:`prepare` and :meth:`PreparedModel.run` do.
        """
        return cls.prepare(model, device, **options).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: object,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,  # of any dtypes
        **options: object,
    ) -> tuple[Any, ...]:  # only the operator knows the types
        """The outputs of one operator for inputs.

        Args:
            node: the operator with its attributes.
            inputs: one array for each input of the node that has a name: a list or tuple, or a mapping by name.
            device: the name of the device.
            outputs_info: dtype and shape of each output; None: they are inferred.
            options: those of :meth:`prepare`, and ``opset_version``, the opset of the node's domain. Its default is the
                newest version that has changed this operator.

        Raises:
            ShapeError: the number of arrays differs from the number of inputs.
            TilewrightError: as :meth:`prepare` and :meth:`PreparedModel.run` do.
        """
        opset = options.pop("opset_version", None)
        if opset is not None and not isinstance(opset, int):
            raise TilewrightError(f"opset_version is a number such as 21, but this is {opset!r}")
        names = list(dict.fromkeys(filter(None, node.input)))
        values = [inputs[name] for name in names if name in inputs] if isinstance(inputs, Mapping) else inputs
        if not isinstance(values, list | tuple) or len(values) != len(names):
            given = counted(len(values), "array") if isinstance(values, list | tuple) else f"a {type(values).__name__}"
            raise ShapeError(f"{node.op_type} takes an array for each input ({', '.join(names)}), but got {given}")
        arrays = {name: np.asarray(value) for name, value in zip(names, values, strict=True)}
        model = make_single(node, arrays, outputs_info, opset)
        return cls.prepare(model, device, **options).run(list(arrays.values()))


def _take_shapes(options: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """Take the option ``shapes`` out of options."""
    shapes = options.pop("shapes", None) or {}
    if not isinstance(shapes, Mapping):
        raise TilewrightError(f"shapes are a mapping such as {{'x': (1, 3, 224, 224)}}, but this is {shapes!r}")
    return {str(name): tuple(int(extent) for extent in shape) for name, shape in shapes.items()}


def _refuse_options(function: str, options: Mapping[str, object]) -> None:
    if options:
        raise TilewrightError(f"{function} has no option {min(options)!r}; leave it out")


def _check_model(model: object) -> None:
    if not isinstance(model, onnx.ModelProto):
        raise ModelFormatError(
            f"a backend takes an onnx.ModelProto, but this is a {type(model).__name__}; load it with onnx.load"
        )


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs of a model without its weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _find_zeros(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shapes of inputs with an extent of 0. In files, 0 may stand for an open dimension; here, it does not."""
    found = {}
    for value in _inputs(model):
        dims = value.type.tensor_type.shape.dim
        shape = tuple(dim.dim_value for dim in dims)
        if 0 in shape and all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
            found[value.name] = shape
    return found


def _describe_inputs(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> list[TensorSpec]:
    """The inputs of a model, with the given shapes."""
    specs = [describe_end(value.name, value.type) for value in _inputs(model)]
    return [replace(spec, shape=shapes.get(spec.name, spec.shape)) for spec in specs]


def _save(model: onnx.ModelProto, folder: Path) -> Path:
    """Write a model to a file, and large weights to another one."""
    from tilewright.frontend.onnx.data import save_onnx

    path = folder / "model.onnx"
    try:
        save_onnx(model, path)
    except OSError as exc:
        raise explained(exc, "the model cannot be written to a temporary file", folder) from exc
    return path


def _build(path: Path, shapes: Mapping[str, tuple[int, ...]], isolated: bool) -> Executable:
    """The executable of a model with default schedules."""
    from tilewright.graph.left_out import extract_all
    from tilewright.target import Target
    from tilewright.tuning.incumbent import extract_compiled

    target = Target.parse()  # sets the number of threads before TVM is imported
    network = _read(path, shapes, isolated)
    extraction = extract_all(network, target.with_weights(network.weight_bytes))
    out = path.parent / "out"
    try:
        return _build_extraction(extraction, out)
    except CompilerError as exc:
        if network.partition is None:
            raise
        return _build_extraction(extract_compiled(extraction, path.parent, str(exc)), out)


def _build_extraction(extraction: Extraction, out: Path) -> Executable:
    """The executable of a network. Tasks whose default schedule cannot be compiled get TVM's own program."""
    from tilewright.compiling.build import build
    from tilewright.compiling.kernels import Kernels
    from tilewright.records.memory import MemoryStore
    from tilewright.tuning.selection import select_recorded

    functions = select_recorded(extraction, MemoryStore()).functions
    kernels = Kernels(extraction, out.parent / "kernels")
    try:
        return build(extraction, functions, out, {}, kernels)
    except CompilerError:
        failing = kernels.find_failing(functions)
        if not failing:
            raise
        kept = {key: function for key, function in functions.items() if key not in failing}
        return build(extraction, kept, out, {}, kernels)


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]], isolated: bool) -> Network:
    from tilewright.frontend.load import load, read_model
    from tilewright.frontend.onnx.reading import read_here

    if isolated:
        return load(path, shapes)
    model, folded = read_here(path, shapes)
    return read_model(path.stem, model, folded, {})


is_compatible = TilewrightBackend.is_compatible
prepare = TilewrightBackend.prepare
run_model = TilewrightBackend.run_model
run_node = TilewrightBackend.run_node
supports_device = TilewrightBackend.supports_device
