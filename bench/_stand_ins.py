"""Stand-ins for packages that models import for images and downloads, and never use."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

__all__ = ["accept_missing"]

#: Packages that timm and transformers import. No model needs them.
_UNUSED = ("torchvision", "PIL", "httpx2", "httpcore2")


@contextlib.contextmanager
def accept_missing() -> Iterator[None]:
    """Let these packages be imported in this context, whether they are installed or not."""
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        # Nobody else may take a stand-in for the package: PyTorch's compiler looks for torchvision.
        for name in [name for name in sys.modules if name.partition(".")[0] in finder.given]:
            del sys.modules[name]


class _Anything(type):
    """The class of stand-ins, which have every attribute."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _stand_in(name)


def _stand_in(name: str) -> Any:
    return _Anything(name, (), {})


class _Finder:
    """Finds stand-ins for packages that are not installed.

    Attributes:
        given: the packages that it gave a stand-in for.
    """

    def __init__(self) -> None:
        self.given: set[str] = set()

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        """The spec of a stand-in; None for other packages."""
        from importlib.machinery import ModuleSpec

        package = name.partition(".")[0]
        if package not in _UNUSED:
            return None
        self.given.add(package)
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> types.ModuleType:
        """A module that has every attribute."""
        made = types.ModuleType(spec.name)
        made.__path__, made.__version__ = [], "12.0"  # type: ignore[attr-defined]

        def find(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return _stand_in(name)

        made.__getattr__ = find  # type: ignore[method-assign]
        return made

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is to be run."""
