"""The texts of the options about inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tilewright.cli.inputs import make_shape_request
from tilewright.errors import ShapeError, TilewrightError


def test_extents_in_a_shape() -> None:
    found = make_shape_request(["x=1/4,3,64..256:64", "a=b=7", "batch=1,4,16"])
    assert found is not None
    assert found.choices == (
        ("x", ((1, 4), (3,), (64, 128, 192, 256))),
        ("a=b", ((7,),)),
        ("batch", ((1,), (4,), (16,))),
    )
    assert make_shape_request(None) is None


@pytest.mark.parametrize("text", ["x=4..1", "x=0..4", "x=1..9:0", "x=1/", "x=1..", "x=1..999999999", "x=1:2", "x=1|4"])
def test_extents_that_are_none(text: str) -> None:
    with pytest.raises(ShapeError, match=r"NAME=1,3,224,224"):
        make_shape_request([text])


def test_values_and_weights() -> None:
    found = make_shape_request(None, fixed=["sr=16000", "scale=0.5,-2e3", "flag=true"], weight="4,1,1")
    assert found is not None
    assert found.values == {"sr": (16000,), "scale": (0.5, -2000.0), "flag": (1,)}
    assert found.shares == (4.0, 1.0, 1.0)
    for text in ("sr", "sr=", "=1", "sr=a", "sr=1,,2"):
        with pytest.raises(ShapeError, match="NAME=16000"):
            make_shape_request(None, fixed=[text])
    for text in ("4,,1", "a", "0,1", "-1"):
        with pytest.raises(ShapeError, match="4,1,1"):
            make_shape_request(None, weight=text)


def test_samples_give_shapes(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", x=np.zeros((1, 3), np.float32), sr=np.array(16000))
    np.save(tmp_path / "two.npy", np.ones((2, 3), np.float32))
    found = make_shape_request(None, samples=[tmp_path / "one.npz", tmp_path / "two.npy"])
    assert found is not None
    assert found.whole == ({"x": (1, 3), "sr": ()}, {"": (2, 3)})
    assert found.samples[1][""].sum() == 6
    (tmp_path / "none.npz").write_text("no archive")
    for name in ("none.npz", "missing.npz"):
        with pytest.raises(TilewrightError, match="a sample is"):
            make_shape_request(None, samples=[tmp_path / name])


def test_an_input_has_one_value() -> None:
    with pytest.raises(ShapeError, match="'sr' was given two: 16000 and 8000; give one of them"):
        make_shape_request(None, fixed=["sr=16000", "x=1", "sr=8000"])
