"""A network as it was read: a Relax module, its inputs and outputs, its weights, and the model that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tilewright.fixed_input import FixedInput
from tilewright.frontend.shapes import Declared
from tilewright.tensor import TensorSpec, random_arrays

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram
    from tvm.ir import IRModule

    from tilewright.frontend.onnx.partition import Partition, Segment

__all__ = ["HALVES", "PRODUCTS", "Network", "PaddedAxes", "Signature", "multiplies_bf16"]

#: The entry of an ONNX model's metadata that says which numbers its products multiply, and its value for bfloat16.
PRODUCTS, HALVES = "tilewright.products", "bf16"


def multiplies_bf16(model: ModelProto) -> bool:
    """Whether a model's metadata ask for products of bfloat16 numbers (``tune --precision bf16``)."""
    return any((entry.key, entry.value) == (PRODUCTS, HALVES) for entry in model.metadata_props)


@dataclass(frozen=True)
class PaddedAxes:
    """Axes along which a network computes each element by itself.

    Attributes:
        inputs: the axis of each input that has one, by name. They all have the same extent.
        outputs: the axis of each output that has one. The other outputs depend on none of these inputs.
    """

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


@dataclass(frozen=True)
class Signature:
    """What is known of a network's inputs beyond their shapes.

    Attributes:
        declared: the dimensions of inputs as the model declares them, open ones too.
        fixed: inputs that became constants.
        paddings: axes along which smaller inputs may be padded.
        program: the PyTorch program with symbolic dimensions; None: it was read from something else, or has none.
    """

    declared: Declared = field(default_factory=dict)
    fixed: tuple[FixedInput, ...] = ()
    paddings: tuple[PaddedAxes, ...] = ()
    program: ExportedProgram | None = None


@dataclass(frozen=True)
class Network:
    """A network that was read, with its batch norms folded.

    Attributes:
        name: the name for people: the stem of the file's name.
        module: a Relax module whose function ``main`` takes the inputs, then the weights.
        inputs: what a caller gives, in order.
        outputs: what a caller gets, in order: first results of ``main``, unless a segment returns them.
        weights: the arrays for the further parameters of ``main``, by name, in the parameters' order.
        folded: the ONNX model that was divided, prepared for the importer; None if it was read from something else.
        onnx: the ONNX model before folding, by which outputs are judged; None if it was read from something else.
        program: the PyTorch program, by which outputs are judged; None if it was read from something else.
        partition: how the ONNX model was divided; None if it was read from something else.
        signature: what is known of its inputs besides.
        in_place: whether its executable computes on its caller's memory, instead of copying inputs and outputs.
        varying: the inputs that are weights which change from call to call, by name. Packing them is part of the plan.
    """

    name: str
    module: IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: dict[str, NDArray[Any]]  # only the model knows the dtypes
    onnx: ModelProto | None = None
    program: ExportedProgram | None = None
    partition: Partition | None = None
    folded: ModelProto | None = None
    signature: Signature = field(default_factory=Signature)
    in_place: bool = False
    varying: frozenset[str] = frozenset()

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The parts that ONNX Runtime runs, in order."""
        return () if self.partition is None else self.partition.segments

    @property
    def multiplies_bf16(self) -> bool:
        """Whether convolutions and products with weights round their operands to bfloat16."""
        return self.onnx is not None and multiplies_bf16(self.onnx)

    @property
    def parameters(self) -> tuple[TensorSpec, ...]:
        """The inputs that ``main`` takes. The others are given to segments as they are."""
        given = {name for segment in self.segments for name in segment.given}
        return tuple(spec for spec in self.inputs if spec.name not in given and spec.is_fixed)

    @property
    def weight_bytes(self) -> int:
        """The size of all weights in bytes."""
        return sum(array.nbytes for array in self.weights.values())

    def random_inputs(self, seed: int = 0) -> list[NDArray[Any]]:
        """One random array for each input, by ``seed``: standard normal numbers, or integers in [0, 2)."""
        return random_arrays(self.inputs, seed)
