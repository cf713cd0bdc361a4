"""A library for C pads inputs to the next larger bucket, as the Python loader does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from tests.c_libraries import compile_c, run_bare
from tests.models import TARGET, normal, runs
from tilewright.compiling.build import build
from tilewright.executable.executable import load_executable
from tilewright.executable.export.library import export_library
from tilewright.frontend.load import load_buckets
from tilewright.graph.buckets import extract_buckets

pytestmark = runs

#: The second output has its rows along its second axis.
MODEL = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,8] x, float[N,8] a) => (float[N,6] y, float[6,N] z) {
  c = MatMul(x, w)
  y = Relu(c)
  b = Add(x, a)
  d = MatMul(b, w)
  z = Transpose<perm = [1, 0]>(d)
}"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the executable of buckets of 2 and 6 rows, and a program that runs its library."""
    folder = tmp_path_factory.mktemp("rows")
    model = parser.parse_model(MODEL)
    model.graph.initializer.append(numpy_helper.from_array(normal(8, 6), "w"))
    onnx.save(model, folder / "m.onnx")
    shapes = [{"x": (n, 8), "a": (n, 8)} for n in (6, 2)]
    build(extract_buckets(load_buckets(folder / "m.onnx", shapes), TARGET), {}, folder / "out", {})
    export_library(folder / "out", folder / "c", "net")
    compile_c(Path(__file__).with_name("shapes.c"), folder / "c", "net", folder / "program")
    return folder


@pytest.mark.parametrize("rows", [1, 2, 3, 6])
def test_inputs_are_padded_and_outputs_cut(rows: int, library: Path) -> None:
    inputs = [normal(rows, 8), normal(rows, 8, seed=1)]
    done = run_bare(library / "program", str(rows), data=b"".join(x.tobytes() for x in inputs))
    assert (done.returncode, done.stderr) == (0, b"")
    executable = load_executable(library / "out")
    assert len(executable.buckets) == 2
    wanted = executable(*inputs)
    assert [y.shape for y in wanted] == [(rows, 6), (6, rows)]
    assert done.stdout == b"".join(np.ascontiguousarray(y).tobytes() for y in wanted)


def test_more_rows_than_any_bucket_has(library: Path) -> None:
    done = run_bare(library / "program", "7", data=bytes(2 * 7 * 8 * 4))
    assert done.returncode == 1
    assert done.stderr == b"the network has no bucket for inputs of these shapes, and they cannot be padded to one"
