"""Turns a PyTorch program into a Relax module: refuses, decomposes, rewrites, folds, and imports it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from tilewright.errors import MissingExtraError, TilewrightError, UnsupportedOperatorError
from tilewright.frontend.torch.decompositions import decompose
from tilewright.frontend.torch.folding import fold_constants, fold_norms
from tilewright.frontend.torch.graph import TorchGraph
from tilewright.frontend.torch.importer import Imported, import_graph
from tilewright.frontend.torch.interpolation import rewrite_resizes
from tilewright.frontend.torch.recurrent import stack_weights
from tilewright.frontend.torch.rewriting import drop_guards, drop_identities, shape_norms
from tilewright.frontend.torch.training import refuse_training
from tilewright.measure.memory import memory_error

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["import_program", "simplify_program"]


def import_program(program: ExportedProgram, name: str) -> Imported:
    """The Relax module of a program, and its weights.

    Args:
        program: as ``torch.export.export`` made it. It stays as it is.
        name: of the network, for messages.

    Raises:
        MissingExtraError: PyTorch is not installed.
        UnsupportedOperatorError: an operator cannot be imported, or is in its mode for training.
        ShapeError: an input has an open dimension, or is no tensor.
        ResourceError: memory is missing.
    """
    try:
        import torch  # noqa: F401
    except ImportError as exc:
        raise MissingExtraError("PyTorch", "torch") from exc
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns about its own internals
            return import_graph(simplify_program(program))
    except TilewrightError:
        raise
    except MemoryError as exc:
        raise memory_error(f"importing {name}") from exc
    except Exception as exc:  # PyTorch's decompositions raise errors of all classes
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        raise UnsupportedOperatorError(f"the exported program cannot be imported: {line[:200]}") from exc


def simplify_program(program: ExportedProgram) -> TorchGraph:
    """The graph of a program in few operators, with constants and batch norms folded.

    Raises:
        UnsupportedOperatorError: an operator is in its mode for training.
        ShapeError: an input has an open dimension, or is no tensor.
    """
    refuse_training(program)
    graph = decompose(program)
    drop_identities(graph)
    rewrite_resizes(graph)
    fold_constants(graph)
    fold_norms(graph)
    stack_weights(graph)
    shape_norms(graph)
    drop_guards(graph)
    graph.drop_dead()
    return graph
