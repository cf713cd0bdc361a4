"""A network as it was read: a Relax module, its inputs and outputs, and its weights as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from tilewright.tensor import TensorSpec, random_arrays

if TYPE_CHECKING:
    import onnx
    from tvm.ir import IRModule

__all__ = ["Network"]


@dataclass(frozen=True)
class Network:
    """A network, read and folded.

    Attributes:
        name: for people; the file's stem.
        module: Relax module whose ``main`` takes the inputs, then the weights.
        inputs: the inputs of ``main``, without the weights.
        outputs: what ``main`` returns.
        weights: the arrays of ``main``'s further parameters, by name, in their order.
        onnx: the ONNX model before folding, with the same weights: the reference; None where there is none.
        program: the PyTorch ``ExportedProgram``, which is the reference then; None where there is none.
    """

    name: str
    module: IRModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: dict[str, NDArray[Any]]
    onnx: onnx.ModelProto | None = None
    program: Any = None

    @property
    def weight_bytes(self) -> int:
        """Of all weights."""
        return sum(array.nbytes for array in self.weights.values())

    def random_inputs(self, seed: int = 0) -> list[NDArray[Any]]:
        """One array per input: floats standard normal, integers in [0, 2)."""
        return random_arrays(self.inputs, seed)
