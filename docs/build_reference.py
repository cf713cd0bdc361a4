"""Builds the API reference from the docstrings of what is public.

    python docs/build_reference.py build/docs

``make docs`` calls this. It needs the extra ``docs``, PyTorch included, whose types annotations name. Every warning is
an error.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from pathlib import Path


def import_public() -> list[str]:
    """The public modules, with the names that they import at first use, which pdoc looks for in the module itself."""
    package = importlib.import_module("tilewright")
    modules = ["tilewright", *re.findall(r"`(tilewright\.\w+)`", package.__doc__ or "")]
    for name in modules:
        module = importlib.import_module(name)
        for public in module.__all__:
            vars(module).setdefault(public, getattr(module, public))
    return modules


def main() -> None:
    """Write one page a module into the directory that the first argument names."""
    import pdoc
    from pdoc.render import configure

    modules = import_public()
    warnings.simplefilter("error")
    configure(docformat="google", show_source=False)
    out = Path(sys.argv[1])
    pdoc.pdoc(*modules, output_directory=out)
    print(f"{len(modules)} modules: {out / 'index.html'}")


if __name__ == "__main__":
    main()
