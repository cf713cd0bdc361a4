"""Builds the packages, and tries each one in an empty environment, with each supported Python on this machine.

    python release/check.py --out dist
    python release/check.py --out dist --pythons 3.11

- The wheel and the source archive of ``tilewright`` and ``tilewright-runtime`` are built and checked.
- From the wheel alone, ``tilewright doctor`` says that the machine can tune, and a network is tuned for a few trials.
  Nothing of PyTorch is installed.
- From the other wheel alone, with the few packages that it needs and without a compiler, the built network runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
#: Writes a small network. The environment has the package onnx, which Tilewright needs.
_MODEL = """
import numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper
w = np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype(np.float32)
tensor = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["y"])]
graph = helper.make_graph(
    nodes, "small", [tensor("x", [1, 3, 32, 32])], [tensor("y", [1, 16, 32, 32])], [numpy_helper.from_array(w, "w")])
onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)]), "small.onnx")
"""
_RUN = """
import importlib.metadata, numpy as np
from tilewright_runtime import load_executable
(y,) = load_executable("built")(np.ones((1, 3, 32, 32), np.float32))
assert y.shape == (1, 16, 32, 32) and np.isfinite(y).all()
names = {each.name.lower() for each in importlib.metadata.distributions()} - {"pip", "setuptools"}
assert len(names) < 5 and "tilewright" not in names, names
"""
_NO_TORCH = """
import importlib.metadata
names = {each.name.lower() for each in importlib.metadata.distributions()}
assert not [name for name in names if name.startswith(("torch", "nvidia", "stable"))], names
"""


def find_pythons() -> dict[str, Path]:
    """The supported Pythons on this machine, by version: on ``PATH``, or of pyenv."""
    found = {}
    for version in SUPPORTED:
        here = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
        if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
            here.insert(0, sys.executable)
        for place in here:
            # A shim of pyenv is found, too, for versions that are not chosen.
            if place and subprocess.run([place, "-c", ""], capture_output=True, check=False).returncode == 0:
                found[version] = Path(place)
                break
    return found


def run(*command: str | Path, folder: Path = ROOT, **environment: str) -> None:
    """Run a command in a folder. Its failure ends this one."""
    print("+", *command, flush=True)
    subprocess.run(command, check=True, cwd=folder, env=os.environ | environment)


def build(out: Path) -> None:
    """Build all four files, and check them."""
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("*.whl"), *out.glob("*.tar.gz")]:
        old.unlink()
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    run(sys.executable, ROOT / "release/build_runtime.py", "--out", out)
    run(sys.executable, "-m", "twine", "check", "--strict", *out.iterdir())
    run(Path(sys.executable).parent / "check-wheel-contents", *out.glob("*.whl"))


def make_environment(python: Path, folder: Path, wheel: Path) -> Path:
    """An environment with a wheel and what it needs; its ``bin``."""
    run(python, "-m", "venv", folder)
    pip: list[str | Path] = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "-c", ROOT / "constraints.txt", wheel)
    return folder / "bin"


def try_packages(python: Path, out: Path, folder: Path) -> None:
    """Tune with one package, and run with the other."""
    (wheel,), (runtime,) = out.glob("tilewright-*.whl"), out.glob("tilewright_runtime-*.whl")
    tuner = make_environment(python, folder / "tuner", wheel)
    small = make_environment(python, folder / "small", runtime)
    records = {"TILEWRIGHT_RECORDS": str(folder / "records.db")}
    tilewright = partial(run, tuner / "tilewright", folder=folder, **records)
    run(tuner / "python", "-c", _NO_TORCH, folder=folder)
    run(tuner / "python", "-c", _MODEL, folder=folder)
    tilewright("doctor")
    tilewright("tune", "small.onnx", "--out", "tuned", "--trials", "8", "--budget", "5m")
    # In the tuned executable ONNX Runtime may run the whole model, if it was faster; in this one it runs nothing.
    tilewright("build", "small.onnx", "--out", "built")
    run(small / "python", "-c", _RUN, folder=folder, PATH="", CC="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build/dist", help="the folder of the packages")
    parser.add_argument("--pythons", default=",".join(SUPPORTED), help="the versions to try, if they are here")
    given = parser.parse_args()
    out = given.out.absolute()
    build(out)
    found = {version: python for version, python in find_pythons().items() if version in given.pythons.split(",")}
    for version, python in found.items():
        with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
            try_packages(python, out, Path(folder))
        print(f"Python {version}: works ({python})", flush=True)
    missing = [version for version in given.pythons.split(",") if version not in found]
    print(f"tried: {', '.join(found)}; not on this machine: {', '.join(missing) or 'none'}")


if __name__ == "__main__":
    main()
