"""What a fleet refuses before anything is tuned: one line with the remedy, and exit 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench._ray_cluster import missing
from tests.models import conv_model
from tilewright.cli import app
from tilewright.errors import FleetError, MissingExtraError
from tilewright.fleet.cluster import connected, translate

NOBODY = "127.0.0.1:9"


@pytest.fixture
def tune(tmp_path: Path) -> Callable[..., str]:
    model = conv_model(tmp_path / "m.onnx")

    def run(*options: str) -> str:
        places = ["--out", str(tmp_path / "out"), "--records", str(tmp_path / "r.db")]
        done = CliRunner().invoke(app, ["tune", str(model), *places, *options])
        assert done.exit_code == 2, done.output
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return done.stderr

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fleet", "somewhere"], "--fleet is ray://HOST:10001, HOST:6379, auto or local, but this is 'somewhere'"),
        (["--fleet", f"ray://{NOBODY}"], f"nobody answers at ray://{NOBODY}: "),
        (["--fleet", NOBODY], "start one there with 'ray start --head', or use --fleet local"),
        (["--kind", "znver4"], "there is no --fleet; name one"),
        (["--fleet", "local", "--target", "llvm:znver3"], "a fleet tunes for the machines that it has"),
        (["--fleet", "local", "--records", "postgresql://x@127.0.0.1:9/y"], "records"),
    ],
)
def test_one_line_says_what_is_wrong(tune: Callable[..., str], options: list[str], message: str) -> None:
    assert message in tune(*options)


def test_several_models_need_a_fleet(tune: Callable[..., str], tmp_path: Path) -> None:
    assert "without --fleet one model is tuned at a time, but these are 2" in tune(str(conv_model(tmp_path / "n.onnx")))


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tilewright\[fleet\]'"), connected("local"):
        pass


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "Version mismatch: The cluster was started with:\n    Ray: 2.40.0\n    Python: 3.12.1\nThis process on "
            "node 127.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n",
            "h:1 has Ray 2.40.0, Python 3.12.1 and this machine has Ray 2.60.0, Python 3.11.7; install the same ones",
        ),
        (
            "Token authentication is enabled but no authentication token was found",
            "was found; copy ~/.ray/auth_token from its head to this machine, and set RAY_AUTH_MODE=token",
        ),
        ("ray client connection timeout", "if the cluster has a token, copy ~/.ray/auth_token from its head"),
        ("the\nroof  fell in", "the cluster at h:1 cannot be used: the roof fell in; look at 'ray status' on its head"),
    ],
)
def test_what_ray_says_becomes_one_line(said: str, message: str) -> None:
    error = translate(RuntimeError(said), "h:1")
    assert isinstance(error, FleetError)
    assert message in str(error)
    assert "\n" not in str(error)
