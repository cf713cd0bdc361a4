"""Refuses PyTorch programs that were exported for training, that draw random numbers, or that keep a state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tilewright.errors import UnsupportedOperatorError
from tilewright.frontend.torch.graph import describe, name_of

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram

__all__ = ["refuse_state", "refuse_training"]

#: Beginnings of the names of operators that draw random numbers.
_RANDOM = ("bernoulli", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "normal", "poisson")
_UNIFORM = ("rand", "uniform")
#: Batch norms: the places of the arguments that say whether they train, and that hold the running mean.
_BATCH_NORMS = {
    "batch_norm.default": (5, 3),
    "native_batch_norm.default": (5, 3),
    "_native_batch_norm_legit.default": (5, 3),
    "_native_batch_norm_legit_functional.default": (5, 3),
    "cudnn_batch_norm.default": (5, 3),
    "instance_norm.default": (5, 3),
}


def refuse_training(program: ExportedProgram) -> None:
    """Refuse a program whose results are not decided by its inputs alone.

    Args:
        program: as it was exported, before its operators are decomposed.

    Raises:
        UnsupportedOperatorError: an operator is in its mode for training, or draws random numbers.
    """
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            if node.op == "call_function" and _trains(node):
                raise UnsupportedOperatorError(
                    f"a model is tuned for inference, but {describe(node)} is in its mode for training; "
                    "export the model in its mode for evaluation, with model.eval()"
                )
            if node.op == "call_function" and _draws(node):
                raise UnsupportedOperatorError(
                    f"the inputs of a model decide its outputs, but {describe(node)} draws random numbers; "
                    "export the model with these numbers as an input"
                )


def refuse_state(program: ExportedProgram) -> None:
    """Refuse a program that changes its buffers.

    Args:
        program: with its operators decomposed, which is when PyTorch finds what is changed.

    Raises:
        UnsupportedOperatorError: the program changes a buffer.
    """
    changed = program.graph_signature.buffers_to_mutate
    if changed:
        buffer = next(iter(changed.values()))
        raise UnsupportedOperatorError(
            f"a model keeps nothing from one call to the next, but this changes its buffer {buffer!r:.80}; "
            "export it with the buffer as an input and an output"
        )


def _trains(node: fx.Node) -> bool:
    name = name_of(node).removeprefix("aten.")
    args = [*node.args, *[None] * 9]
    if name in _BATCH_NORMS:
        place, mean = _BATCH_NORMS[name]
        # Without running statistics, a norm takes those of its input in both modes.
        return args[place] is True and args[mean] is not None
    if name.startswith(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")):
        return bool(args[1]) and args[2] is not False
    if name.startswith("rrelu"):
        return (args[4] if "noise" in name else args[3]) is True
    if name.startswith("scaled_dot_product_attention"):
        return bool(args[4] or node.kwargs.get("dropout_p"))
    if name.startswith(("lstm.", "gru.", "rnn_")):
        packed = name.endswith(".data")  # its arguments are data and sizes, where others have one input
        return bool(args[6 if packed else 5]) and args[7 if packed else 6] is True
    return False


def _draws(node: fx.Node) -> bool:
    return name_of(node).removeprefix("aten.").lstrip("_").startswith((*_RANDOM, *_UNIFORM))
