"""Imports of PyTorch that a process which only compiles and proves parts can do without."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import TypeVar

__all__ = ["leave_out_dynamo"]

_Function = TypeVar("_Function", bound=Callable[..., object])


def leave_out_dynamo() -> None:
    """Replace ``torch._dynamo`` and ``torch._inductor`` by nearly empty packages in this process.

    PyTorch 2.13: tracing a function with ``make_fx`` needs settings of both, and Dynamo's way to leave a function out
    of what it compiles. Importing them for that takes a second of one core. Their modules can still be imported, but
    this process cannot call ``torch.compile`` any more. If one was imported before, both stay. With a version of
    PyTorch that needs more to trace a function, both are imported when it does.
    """
    if {"torch._dynamo", "torch._inductor"} & sys.modules.keys():
        return
    try:
        # Dynamo imports it, and tracing needs it.
        importlib.import_module("torch._higher_order_ops.triton_kernel_wrap")
        _stand_in("torch._inductor")
        _stand_in("torch._dynamo").__dict__["disable"] = _disable
        _trace()
    except Exception:  # whatever is missing there
        for name in [name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor"))]:
            del sys.modules[name]
        for name in ("_dynamo", "_inductor"):
            sys.modules["torch"].__dict__.pop(name, None)


def _trace() -> None:
    """Trace a small function, as parts are traced."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(8, 8)
        make_fx(lambda x: (torch.relu(x @ x).sum(1),))(x)


def _disable(function: _Function, recursive: bool = True, **_: object) -> _Function:
    """The function itself: this process compiles none."""
    return function


def _stand_in(name: str) -> types.ModuleType:
    """A package of which nothing is imported until somebody asks for one of its modules."""
    found = importlib.util.find_spec(name)
    if found is None:
        raise ImportError(name)
    package = importlib.util.module_from_spec(found)

    def find(attribute: str) -> object:
        if attribute.startswith("__") or importlib.util.find_spec(f"{name}.{attribute}") is None:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r} in this process")
        return importlib.import_module(f"{name}.{attribute}")

    package.__dict__["__getattr__"] = find
    sys.modules[name] = package
    parent, _, own = name.rpartition(".")
    setattr(sys.modules[parent], own, package)
    return package
