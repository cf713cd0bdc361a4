"""The backend ``tilewright`` of ``torch.compile``: its entry point, and ``tilewright.optimize``."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from tilewright.errors import TilewrightError
from tilewright.training.options import Options

if TYPE_CHECKING:
    import torch
    from torch import fx

    from tilewright.training.session import Session

__all__ = ["compile_graph", "optimize", "sessions"]

#: The sessions of this process, the first one first. A set would have no order.
sessions: weakref.WeakKeyDictionary[Session, None] = weakref.WeakKeyDictionary()
#: Options that were refused, and why. PyTorch hands over the same object for each graph of a model.
_refused: list[tuple[Mapping[str, object] | None, str]] = []

_log = logging.getLogger("tilewright.training")


def optimize(model: torch.nn.Module, **options: object) -> torch.nn.Module:
    """Compile a model with this backend: ``torch.compile(model, backend="tilewright", options=options)``.

    An option that does not exist, or has a wrong value, raises nothing. The model then runs as without Tilewright, and
    a warning says why.

    Args:
        model: to train, or to infer with. It runs on the CPU.
        options: see :class:`tilewright.training.Options`.

    Returns:
        the compiled model, which shares its parameters with ``model``.

    Raises:
        MissingExtraError: PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as exc:
        from tilewright.errors import MissingExtraError

        raise MissingExtraError("PyTorch", "torch") from exc
    compiled: torch.nn.Module = torch.compile(model, backend=compile_graph, options=options)
    return compiled


def compile_graph(
    module: fx.GraphModule,
    examples: Sequence[torch.Tensor],
    *,
    options: Mapping[str, object] | None = None,
    **others: object,
) -> Callable[..., object]:
    """Compile one graph of a model. ``torch.compile`` calls this with each.

    Args:
        module: the graph.
        examples: tensors like those that it will be called with.
        options: see :class:`tilewright.training.Options`.
        others: options of ``torch.compile`` that this backend does not know, such as ``mode``. They are refused.

    Returns:
        a function that computes the graph; PyTorch's own if an option is refused.
    """
    try:
        if others:
            raise TilewrightError(f"tilewright takes options={{...}} and nothing else, but got {next(iter(others))!r}")
        parsed = Options.parse(options)
    except TilewrightError as error:
        _refuse(options, str(error))
        eager: Callable[..., object] = module.forward
        return eager
    from tilewright.training.further import Further, has_open_sizes

    make = partial(_make, parsed, module)
    return Further(module, make, parsed.mode == "cached") if has_open_sizes(module) else make(examples)


def _refuse(options: Mapping[str, object] | None, why: str) -> None:
    """Warn that a model trains as without this backend, and why: once, although it may have many graphs."""
    if all(known is not options or said != why for known, said in _refused):
        _refused.append((options, why))
        _log.warning("this model trains as without tilewright: %s", why)


def _make(options: Options, module: fx.GraphModule, examples: Sequence[object]) -> Callable[..., object]:
    """A function that computes a graph whose sizes are fixed."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._dynamo.exc import TorchDynamoException

    from tilewright.training.live import first_line
    from tilewright.training.partition import partition
    from tilewright.training.session import Session
    from tilewright.training.twice import differentiable_twice, has_aliases

    session = Session(options, examples)
    sessions[session] = None
    session.start()
    compiler = aot_autograd(
        fw_compiler=partial(session.compile, "forward"),
        bw_compiler=partial(session.compile, "backward"),
        inference_compiler=partial(session.compile, "inference"),
        # Operators stay as coarse as PyTorch has them: what it runs itself is fastest so, and needs the least memory.
        # A part that is compiled is decomposed in the process that compiles it (frontend/torch/gradients.py).
        decompositions={},
        partition_fn=partition,
    )
    try:
        made = compiler(module, examples)
    except TorchDynamoException:  # Dynamo's own, which changes its ways then
        raise
    except Exception as error:  # whatever AOTAutograd refuses, such as data that are changed before a backward pass
        _log.warning("a graph of this model trains as without tilewright: %s", first_line(error))
        eager: Callable[..., object] = module.forward
        return eager
    # Parameters are arguments of a graph, unless somebody has told PyTorch otherwise.
    if any(True for _ in module.parameters()) or has_aliases(module):
        return session.note_models(examples, made)
    return session.note_models(examples, differentiable_twice(made, module))
