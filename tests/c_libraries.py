"""An executable with two buckets and three outputs, and how programs in C are compiled and run."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper, parser

from tests.models import TARGET, design_space, normal
from tests.targets import require
from tilewright.compiling.build import build
from tilewright.executable.runtime.library import find_compiler
from tilewright.frontend.load import load_buckets
from tilewright.graph.buckets import extract_buckets
from tilewright.target import Target

#: The convolution has parallel loops. The second output is a view of the first one, and the third is the input.
MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,8,32,32] x) => (float[N,16,32,32] y, float[N,M] z, float[N,8,32,32] same) {
  c = Conv<pads = [1, 1, 1, 1]>(x, w)
  y = Relu(c)
  z = Flatten(y)
  same = Identity(x)
}"""


def build_buckets(
    folder: Path, model: onnx.ModelProto, shapes: Sequence[dict[str, tuple[int, ...]]], target: Target
) -> Path:
    """The executable ``folder/out`` of a model, with default schedules and a bucket for each of the shapes."""
    onnx.save(model, folder / "m.onnx")
    extraction = extract_buckets(load_buckets(folder / "m.onnx", shapes), target)
    spaces = {use.task.key: design_space(use.task, target) for use in extraction.uses}
    functions = {key: space.schedule(space.default()).mod["main"] for key, space in spaces.items()}
    build(extraction, functions, folder / "out", {})
    return folder / "out"


def build_two_buckets(folder: Path, target: Target = TARGET) -> Path:
    """The executable ``folder/out``."""
    require(target)
    model = parser.parse_model(MODEL)
    model.graph.initializer.append(numpy_helper.from_array(normal(16, 8, 3, 3), "w"))
    return build_buckets(folder, model, [{"x": (n, 8, 32, 32)} for n in (1, 2)], target)


@pytest.fixture(scope="session")
def two_buckets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_two_buckets(tmp_path_factory.mktemp("two"))


def compile_c(source: Path, prefix: Path, name: str, out: Path, flags: Sequence[str] = ()) -> Path:
    """Compile a C program against an installed library, as strictly as a user may."""
    strict = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-pthread")
    places = (f"-I{prefix}/include", f"-L{prefix}/lib", f"-Wl,-rpath,{prefix}/lib")
    command = [*find_compiler(), *strict, *flags, str(source), *places, f"-l{name}", "-o", str(out)]
    subprocess.run(command, check=True)
    return out


def run_bare(program: Path, *arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a program in an environment without Python, or anything else."""
    command = [str(program), *arguments]
    return subprocess.run(command, input=data, capture_output=True, env={"PATH": "/nowhere"}, check=False, timeout=120)
