"""ONNX's own node tests: the models that the installed ``onnx`` generates, their inputs, and the right outputs.

Two objects run them, each in a process of its own: :class:`OurSide` by :mod:`tilewright.onnx_backend`, and
:class:`TheirSide` by ONNX Runtime. Outputs are compared as ONNX's own runner of these tests compares them.
"""

from __future__ import annotations

import re
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import tilewright
from tilewright.errors import TilewrightError

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnx.backend.test.case.test_case import TestCase

__all__ = ["NodeTest", "OurSide", "TheirSide", "collect", "complain", "operator_of"]

#: The suffix of tests whose operator is written out as the function that defines it.
_EXPANDED = re.compile(r"_expanded(_ver\d+)?$")
#: Characters of a message that are kept.
_MOST_CHARACTERS = 300


@dataclass(frozen=True)
class NodeTest:
    """A node test.

    Attributes:
        case: ONNX's own description of it.
        operator: the operator that it tests.
    """

    case: TestCase
    operator: str

    @property
    def model(self) -> ModelProto:
        """Its model."""
        assert self.case.model is not None
        return self.case.model

    def data(self) -> list[tuple[list[Any], list[Any]]]:
        """Inputs and expected outputs, as arrays, lists and None."""
        assert self.case.data_sets is not None
        return [([_plain(i) for i in inputs], [_plain(o) for o in outputs]) for inputs, outputs in self.case.data_sets]


def collect(modules: Sequence[str] | None = None) -> dict[str, NodeTest]:
    """The node tests by name, with the same inputs each time.

    Args:
        modules: of ``onnx.backend.test.case.node``, whose tests are wanted; None: all.
    """
    import importlib

    import onnx.backend.test.case.node as node

    np.random.seed(0)  # the tests draw their inputs from NumPy's global generator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if modules is None:
            node.collect_testcases()
        for module in modules or ():
            importlib.import_module(f"{node.__name__}.{module}")
    operators = {name: made.op_type for name, made in node._existing_names.items()}
    return {case.name: NodeTest(case, operator_of(case.name, operators)) for case in node._NodeTestCases}


def operator_of(name: str, operators: dict[str, str]) -> str:
    """The operator that a test is about.

    Args:
        name: of the test.
        operators: by the names of tests that are not expanded.
    """
    return operators.get(name) or operators.get(_EXPANDED.sub("", name), "?")


def complain(expected: Sequence[Any], found: Sequence[Any], rtol: float, atol: float) -> str:
    """How outputs differ from the expected ones, by the rule of ONNX's own runner; empty if they agree."""
    from onnx.backend.test.runner import Runner

    if len(expected) == len(found):
        odd = [k for k, (e, f) in enumerate(zip(expected, found, strict=True)) if (e is None) != (f is None)]
        if odd:
            return f"output {odd[0]} is {'' if found[odd[0]] is None else 'not '}None"
        kept = [k for k, e in enumerate(expected) if e is not None]
        expected, found = [expected[k] for k in kept], [found[k] for k in kept]
    try:
        Runner.assert_similar_outputs(expected, found, rtol, atol)
    except (AssertionError, TypeError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return "; ".join(lines)[:_MOST_CHARACTERS] or type(error).__name__
    return ""


class _Side:
    """What both sides share: the tests."""

    def __init__(self) -> None:
        self._tests = collect()

    def operators(self) -> dict[str, Any]:
        """The operators of all tests, by the tests' names."""
        return {name: test.operator for name, test in sorted(self._tests.items())}


class OurSide(_Side):
    """Tilewright, by its backend."""

    def run(self, name: str, isolated: bool = False) -> dict[str, Any]:
        """How a test ended: ``outcome``, ``message``, ``segments`` with their reasons (None: none was built), seconds.

        Args:
            name: of the test.
            isolated: whether the model is read in another process, as a user's is.
        """
        begin = time.monotonic()
        segments: list[list[str]] | None = None
        try:
            from tilewright import onnx_backend

            test = self._tests[name]
            prepared = onnx_backend.prepare(test.model, "CPU", isolated=isolated)
            outcome, message = "right", ""
            for inputs, expected in test.data():
                found = prepared.run(inputs)
                if said := complain(expected, list(found), test.case.rtol, test.case.atol):
                    outcome, message = "wrong", said
            segments = [list(reasons) for reasons in prepared.segments]
            prepared.executable.close()
        except TilewrightError as error:
            outcome, message = "refused", _describe(error)
        except Exception as error:  # whatever else is raised is a bug
            outcome, message = "crashed", f"{_describe(error)} at {_place(error)}"
        seconds = round(time.monotonic() - begin, 3)
        return {"outcome": outcome, "message": message, "segments": segments, "seconds": seconds}


class TheirSide(_Side):
    """ONNX Runtime, without its optimisation."""

    def run(self, name: str) -> dict[str, Any]:
        """Whether ONNX Runtime passes a test: ``outcome`` is right, wrong or refused; ``message`` says why."""
        test = self._tests[name]
        try:
            session = _open(test.model.SerializeToString())
            for inputs, expected in test.data():
                found = _run(session, inputs)
                if said := complain(expected, found, test.case.rtol, test.case.atol):
                    return {"outcome": "wrong", "message": said}
        except Exception as error:  # ONNX Runtime's errors share no base class
            return {"outcome": "refused", "message": _describe(error)}
        return {"outcome": "right", "message": ""}


def _open(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: Any, inputs: Sequence[Any]) -> list[Any]:
    names = [spec.name for spec in session.get_inputs()]
    return list(session.run(None, dict(zip(names, inputs, strict=True))))


def _plain(value: Any) -> Any:
    """A value of a test as an array: some are ONNX's tensors, or NumPy's scalars."""
    import onnx

    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _describe(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ["it does not say why"]
    return f"{type(error).__name__}: {lines[0]}"[:_MOST_CHARACTERS]


def _place(error: BaseException) -> str:
    """The innermost line of this package on the way to an error."""
    root = str(Path(tilewright.__file__).parent.parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(f"{root}/tilewright")]
    return f"{frames[-1].filename[len(root) + 1 :]}:{frames[-1].lineno}" if frames else "?"
