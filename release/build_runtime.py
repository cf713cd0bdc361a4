"""Builds ``tilewright-runtime``: what loads and runs executables, with the few packages that this needs.

    python release/build_runtime.py --out dist

The distribution has no sources of its own. It holds the modules that ``tilewright.executable.executable`` imports, in a
package called ``tilewright_runtime``, so that it can be installed beside ``tilewright``. Its version is Tilewright's.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "tilewright"
#: The package of the distribution, and the module with which its modules are found.
PACKAGE, ENTRY = "tilewright_runtime", "tilewright.executable.executable"
#: Packages that only some executables need: with a part that ONNX Runtime runs, or on TVM's virtual machine.
OPTIONAL = {"onnxruntime", "tvm", "tvm_ffi"}
#: An import of a module of Tilewright's. Names in texts and in the runtime's C stay as they are.
_IMPORT = re.compile(r"^(\s*(?:from|import) )tilewright(?=[. ])", re.MULTILINE)
_INIT = '''"""Loads and runs the executables that ``tilewright tune`` writes. Needs no compiler, and no TVM.

>>> from tilewright_runtime import load_executable  # doctest: +SKIP
>>> (y,) = load_executable("tuned")(x)  # doctest: +SKIP
"""

from tilewright_runtime.errors import OutputError, ShapeError, TargetError, TilewrightError
from tilewright_runtime.executable.executable import Executable, load_executable

__all__ = ["Executable", "OutputError", "ShapeError", "TargetError", "TilewrightError", "load_executable"]
'''
_README = """# Tilewright's runtime

Loads and runs the executables that `tilewright tune` writes. It needs neither a compiler nor TVM.

    from tilewright_runtime import load_executable

    network = load_executable("tuned")
    (y,) = network(x)

A network of which ONNX Runtime runs a part needs the package `onnxruntime`, too. A network that runs on TVM's virtual
machine needs the whole package `tilewright`.
"""
_PROJECT = """[build-system]
requires = [{requires}]
build-backend = "setuptools.build_meta"

[project]
name = "tilewright-runtime"
version = "{version}"
description = "Runs the executables that Tilewright has tuned, without Tilewright and its compiler"
readme = "README.md"
requires-python = ">=3.10"
license = "Apache-2.0"
license-files = ["LICENSE"]
dependencies = [{dependencies}]

[project.optional-dependencies]
onnxruntime = ["onnxruntime>=1.20"]

[tool.setuptools.packages.find]
include = ["{package}*"]

[tool.setuptools.package-data]
{package} = ["py.typed", "executable/runtime/*.c", "executable/runtime/*.h"]
"""


def find_modules() -> tuple[list[str], list[str]]:
    """What running an executable imports.

    Returns:
        the modules of Tilewright, packages among them; and the other packages that it needs. Both are sorted.
    """
    graph = grimp.build_graph(
        "tilewright", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )
    found: set[str] = set()
    wanted = {ENTRY}
    while wanted:
        module = wanted.pop()
        found.add(module)
        if module.startswith("tilewright."):
            parents = {module.rpartition(".")[0]} - {"tilewright"}
            wanted |= (graph.find_modules_directly_imported_by(module) | parents) - found
    ours = {module for module in found if module.startswith("tilewright.")}
    return sorted(ours), sorted(found - ours - OPTIONAL - set(sys.stdlib_module_names))


def assemble(folder: Path) -> None:
    """Write the sources of the distribution into an empty folder."""
    package = folder / PACKAGE
    modules, packages = find_modules()
    for module in modules:
        inner = Path(*module.split(".")[1:])
        source = SOURCES / inner / "__init__.py"
        name = inner / "__init__.py" if source.exists() else inner.with_suffix(".py")
        place = package / name
        place.parent.mkdir(parents=True, exist_ok=True)
        text = (SOURCES / name).read_text(encoding="utf-8")
        place.write_text(_IMPORT.sub(rf"\1{PACKAGE}", text), encoding="utf-8")
    (package / "__init__.py").write_text(_INIT, encoding="utf-8")
    (package / "py.typed").touch()
    runtime = Path("executable", "runtime")
    for pattern in ("*.c", "*.h"):
        for source in (SOURCES / runtime).glob(pattern):
            (package / runtime / source.name).write_bytes(source.read_bytes())
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    requires, version = (_find(rf"^{key} = (.*)$", project) for key in ("requires", "version"))
    text = _PROJECT.format(
        requires=requires.strip("[]"),
        version=version.strip('"'),
        package=PACKAGE,
        # As Tilewright itself depends on them.
        dependencies=", ".join(_find(rf'^  ("{name}\b.*?"),', project) for name in packages),
    )
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    (folder / "README.md").write_text(_README, encoding="utf-8")
    (folder / "LICENSE").write_bytes((ROOT / "LICENSE").read_bytes())


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, pattern
    return found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the wheel and the source archive")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        assemble(Path(folder))
        subprocess.run([sys.executable, "-m", "build", "--outdir", str(given.out.absolute()), folder], check=True)


if __name__ == "__main__":
    main()
