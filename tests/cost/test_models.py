from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cost.data import narrower, task_data
from tilewright.cost import models
from tilewright.cost.features import FEATURE_VERSION
from tilewright.cost.models import MODELS, TrainableModel, load_model, make_model, save_model
from tilewright.errors import CostModelError, MissingExtraError, TilewrightError

ABOUT = {"target": {"mcpu": "toy"}, "tasks": 1, "programs": 60}


def fitted(name: str = "xgb_rank", seed: int = 0) -> TrainableModel:
    task = task_data()
    model = make_model(name, seed)
    model.fit([task.nest], [task.seconds])
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_model("xgb_rank", fitted(), "toy-matmul/1", ABOUT, tmp_path / "m.npz")
    return tmp_path / "m.npz"


@pytest.mark.parametrize("name", ["xgb_rank", "xgb_reg"])
def test_round_trip(tmp_path: Path, name: str) -> None:
    model = fitted(name)
    save_model(name, model, "toy-matmul/1", ABOUT, tmp_path / "m.npz")
    stored = load_model(tmp_path / "m.npz")
    assert (stored.name, stored.template, stored.about) == (name, "toy-matmul/1", ABOUT)
    assert stored.model.ready
    test = task_data(1).nest
    assert (stored.model.predict(test) == model.predict(test)).all()


def test_the_names_are_different_models() -> None:
    test = task_data(1).nest
    assert not np.array_equal(fitted("xgb_rank").predict(test), fitted("xgb_reg").predict(test))


def test_an_unknown_name_and_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TilewrightError, match=r"one of xgb_rank, xgb_reg, .* but this is 'oracle'"):
        make_model("oracle")
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    make_model("xgb_rank")
    for name in (name for name, named in MODELS.items() if named.module):
        with pytest.raises(MissingExtraError, match=r"tilewright\[torch\]"):
            make_model(name)


def test_a_model_that_learnt_nothing_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(CostModelError, match="has learnt nothing"):
        save_model("xgb_rank", make_model("xgb_rank"), "t/1", {}, tmp_path / "m.npz")
    assert not (tmp_path / "m.npz").exists()


def test_a_file_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    with pytest.raises(CostModelError, match="cannot be written: No such file"):
        save_model("xgb_rank", fitted(), "t/1", {}, tmp_path / "none" / "m.npz")
    with pytest.raises(CostModelError, match="cannot be read: No such file"):
        load_model(tmp_path / "none.npz")
    with pytest.raises(CostModelError, match="cannot be read: Is a directory"):
        load_model(tmp_path)


def refused(path: Path, says: str = "is not, or is damaged") -> None:
    with pytest.raises(CostModelError, match=says) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_file(path: Path) -> None:
    content = path.read_bytes()
    for length in np.linspace(0, len(content) - 1, 40).astype(int).tolist():
        path.write_bytes(content[:length])
        refused(path)


def test_damaged_bytes_are_noticed_or_do_not_matter(path: Path) -> None:
    content, test = path.read_bytes(), task_data(1).nest
    scores = load_model(path).model.predict(test)
    generator = np.random.default_rng(0)
    noticed = 0
    for _ in range(60):
        damaged = bytearray(content)
        damaged[int(generator.integers(len(content)))] ^= int(generator.integers(1, 256))
        path.write_bytes(damaged)
        try:
            assert (load_model(path).model.predict(test) == scores).all()
        except CostModelError:
            noticed += 1
    assert noticed > 40


@pytest.mark.parametrize("content", [b"", b"PK", b"garbage", b"\x93NUMPY\x01\x00", b"\x80\x04N.", bytes(1000)])
def test_garbage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.npz").write_bytes(content)
    refused(tmp_path / "m.npz")


def test_other_archives(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    np.savez(path, x=np.zeros(3))
    refused(path, "header")
    np.save(path.with_suffix(".npy"), np.zeros(3))
    refused(path.with_suffix(".npy"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header", "{}")
    refused(path)


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    np.savez(tmp_path / "m.npz", header=np.asarray([Trap()], dtype=object), allow_pickle=True)
    refused(tmp_path / "m.npz")
    assert not (tmp_path / "sprung").exists()


def rewrite(path: Path, **changes: Any) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(arrays.pop("header").tobytes()) | changes
    text: dict[str, Any] = {"header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)}
    np.savez(path, **text, **arrays)


def test_other_features(path: Path) -> None:
    rewrite(path, features=FEATURE_VERSION + 1)
    refused(path, f"features of version {FEATURE_VERSION}, but .* to version {FEATURE_VERSION + 1}; train it again")


@pytest.mark.parametrize(
    "changes", [{"name": 3}, {"name": ["xgb_rank"]}, {"features": "1"}, {"template": None}, {"about": 3}], ids=str
)
def test_a_header_of_another_form(path: Path, changes: dict[str, Any]) -> None:
    rewrite(path, **changes)
    refused(path)


def test_a_model_of_another_name(path: Path) -> None:
    rewrite(path, name="oracle")
    refused(path, "m.npz holds 'oracle'; upgrade Tilewright")


def test_no_trees_and_trees_that_are_none(path: Path) -> None:
    header = np.frombuffer(
        json.dumps({"name": "xgb_rank", "features": FEATURE_VERSION, "template": "t/1", "about": {}}).encode(),
        dtype=np.uint8,
    )
    np.savez(path, header=header)
    refused(path, "should hold a xgb_rank, but it is damaged")
    np.savez(path, header=header, trees=np.zeros(100, dtype=np.uint8))
    refused(path, "should hold a xgb_rank, but it is damaged")


@pytest.mark.parametrize("name", ["xgb_rank", "mlp", "gcn", "gcn_attention"])
def test_arrays_of_other_kinds_are_refused(tmp_path: Path, name: str) -> None:
    if MODELS[name].module:
        pytest.importorskip(MODELS[name].module)
    path = tmp_path / "m.npz"
    save_model(name, fitted(name), "t/1", {}, path)
    with np.load(path) as archive:
        arrays = dict(archive)
    for key, value in arrays.items():
        others = [value[..., None], value.astype("U1"), np.zeros((2, 3), np.float32), None]
        if value.dtype == np.float32:
            others.append(value * np.float32(np.nan))
        if key == "hidden":
            others += [value * 0 - 5, value * 0 + 2**62, np.ones(1000, np.int64), np.zeros(0, np.int64)]
        for other in others if key != "header" else [None]:
            changed: dict[str, Any] = {k: v for k, v in arrays.items() if k != key}
            if other is not None:
                changed[key] = other
            np.savez(path, **changed)
            refused(path, r"m\.npz")


def test_what_is_no_file_and_what_is_too_much(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "no regular file")
    refused(Path("/dev/zero"), "no regular file")
    header = np.frombuffer(json.dumps({"name": "xgb_rank"}).encode(), dtype=np.uint8)
    np.savez_compressed(tmp_path / "m.npz", header=header, sizes=np.zeros(1 << 29, dtype=np.uint8))
    assert (tmp_path / "m.npz").stat().st_size < 1 << 20
    refused(tmp_path / "m.npz", "at most 268,435,456 are read")


def test_programs_of_another_width(path: Path) -> None:
    with pytest.raises(ValueError, match="shape mismatch"):
        load_model(path).model.predict(narrower(task_data()).nest)
