"""Malformed files for every reader of the package: made from valid ones, read, and counted.

A file that was changed is refused with a ``TilewrightError``, or is still valid: a byte of a comment changes nothing,
and a config of other numbers is a config. Anything else (another exception, a crash, a hang, a blow-up of memory,
content of wrong types) is a failure. :func:`count` is what other scripts call.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tilewright.errors import TilewrightError

__all__ = ["READERS", "Counts", "Reader", "count", "mutated", "read_one"]

#: A single file may take so long to read; a process so much memory beyond what it has when it begins.
_HANG_SECONDS, _MEMORY = 60, 4 << 30


@dataclass(frozen=True)
class Reader:
    """A reader of outside data.

    Attributes:
        make: writes a valid file into a folder and returns it, or what is read of it.
        read: reads it, and raises ``AssertionError`` where what comes back has wrong types.
        resealed: makes checksums right again after a change, so that what lies behind them is tried.
        compiled: reads by TVM, ONNX Runtime or PyTorch, which take seconds to import.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], None]
    resealed: Callable[[Path], None] | None = None
    compiled: bool = False


@dataclass
class Counts:
    """What came of the files of one reader.

    Attributes:
        malformed_tried: changed files that are not valid any more.
        malformed_refused: those of them that were refused with a ``TilewrightError``.
        still_valid: changed files that were read, and rightly so.
        failures: for each other file what happened.
    """

    malformed_tried: int = 0
    malformed_refused: int = 0
    still_valid: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, said: str) -> None:
        """Count what :func:`read_one` said."""
        self.still_valid += said == "valid"
        self.malformed_tried += said != "valid"
        self.malformed_refused += said == "refused"
        if said not in ("valid", "refused"):
            self.failures.append(said)


# Changes -------------------------------------------------------------------------------------------------------------

_ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, -(2**63), 10**30, 1e308, -0.5, float("nan"), float("inf")),
    *("", "../x", "/etc/passwd", "\0", "\ud800", "x" * 5000, "\x1b[2J", [], {}, [[]], [None], {"a": 1}),
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """``content`` with one to three changes: of bytes, of chunks, or, where it is JSON, of values."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not content:
            return bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
        if content[:1] in b"{[" and rng.random() < 0.6:
            content = _json_changed(content, rng)
        elif content[:2] == b"PK" and rng.random() < 0.6:
            content = _member_changed(content, rng)
        else:
            content = _bytes_changed(content, rng)
    return content


def _bytes_changed(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    at = rng.randrange(len(data))
    upto = min(len(data), at + 1 + int(len(data) * rng.random() ** 4))
    kind = rng.randrange(7)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        del data[at:upto]
    elif kind == 4:
        data[at:at] = data[at:upto]  # a chunk twice
    elif kind == 5:
        data[at:upto] = bytes(upto - at)
    else:
        data[at : at + 8] = rng.choice((2**31 - 1, 2**63 - 1, 2**64 - 1, 2**40)).to_bytes(8, "little")
    return bytes(data)


def _json_changed(content: bytes, rng: random.Random) -> bytes:
    """JSON, or lines of JSON, with a value replaced, left out or given twice."""
    lines = content.splitlines() if content.count(b"\n{") else [content]
    number = rng.randrange(len(lines))
    try:
        value = json.loads(lines[number])
    except (ValueError, RecursionError):
        return _bytes_changed(content, rng)
    places: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        item = stack.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        places += [(item, key) for key in keys]
        stack += [item[key] for key in keys]
    if not places:
        return _bytes_changed(content, rng)
    parent, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del parent[key]
    elif kind == 1:
        other, place = rng.choice(places)
        if place in other if isinstance(other, dict) else place < len(other):
            parent[key] = json.loads(json.dumps(other[place]))
    elif kind == 2 and type(parent[key]) is int:
        parent[key] += rng.choice((-1, 1, 7, 1000))
    else:
        parent[key] = rng.choice(_ODD)
    text = json.dumps(value)
    if kind == 5:
        text = rng.choice((text.replace("{", '{"a": 1, "a": 2, ', 1), "[" * 50_000 + text, text.replace(":", ":-", 1)))
    lines[number] = text.encode()
    return b"\n".join(lines)


def _member_changed(content: bytes, rng: random.Random) -> bytes:
    """A zip archive with a change in one of its members, and checksums that are right for it."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(member, archive.read(member)) for member in archive.infolist()]
    except Exception:  # it is none any more
        return _bytes_changed(content, rng)
    if not members:
        return _bytes_changed(content, rng)
    chosen = rng.randrange(len(members))
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w") as archive:
        warnings.simplefilter("ignore")  # about names that stand there twice
        for number, (member, data) in enumerate(members):
            kind = rng.randrange(10) if number == chosen else 9
            if kind == 0:
                continue
            name = rng.choice(("../x", "/etc/x", members[0][0].filename)) if kind == 1 else member.filename
            if kind > 1 and number == chosen:
                data = mutated(data, rng)
            archive.writestr(name, data, compress_type=member.compress_type)
    return made.getvalue()


# Readers -------------------------------------------------------------------------------------------------------------


def _make_manifest(folder: Path) -> Path:
    return _make_executable(folder) / "manifest.json"


def _make_executable(folder: Path) -> Path:
    """A directory with an executable of one small network."""
    from tilewright.network.build import build
    from tilewright.network.load import load
    from tilewright.network.tasks import extract
    from tilewright.target import Target

    out = folder / "out"
    build(extract(load(_make_onnx(folder)), Target.parse()), {}, out, {})
    return out


def _read_executable(path: Path) -> None:
    from tilewright.network.executable import load_executable

    executable = load_executable(path.parent)
    outputs = executable(*(np.zeros(spec.shape, dtype=spec.dtype) for spec in executable.inputs))
    assert [tuple(output.shape) for output in outputs] == [spec.shape for spec in executable.outputs]


def _reseal(path: Path) -> None:
    from tilewright.network.manifest import NAME, sealed

    try:
        manifest = json.loads((path.parent / NAME).read_text())
        files = [name for name in manifest.pop("sha256") if name != NAME and (path.parent / name).is_file()]
        (path.parent / NAME).write_text(sealed(manifest, path.parent, files))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        pass  # then it stays as it is


def _make_onnx(folder: Path) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["w2"]),
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w2"], ["m"]),
        helper.make_node("Softmax", ["m"], ["y"]),
    ]
    weights = [
        numpy_helper.from_array(rng.standard_normal((8, 3, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(np.zeros(8, np.float32), "b"),
        numpy_helper.from_array(np.asarray([8, 4], np.int64), "s"),
    ]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 6, 6])]
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])]
    graph = helper.make_graph(nodes, "g", ends, out, weights)
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def _read_model(path: Path) -> None:
    from tilewright.network.load import load

    network = load(path)
    assert all(isinstance(extent, int) and extent > 0 for spec in network.inputs for extent in spec.shape)


def _make_program(folder: Path) -> Path:
    import torch

    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
    path = folder / "m.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(layers, (torch.randn(1, 3, 6, 6),)), str(path))
    return path


def _check_program(path: Path) -> None:
    """What is checked before PyTorch reads it; PyTorch itself takes a second for each file."""
    from tilewright.errors import ModelFormatError
    from tilewright.network.torch_file import check_program

    try:
        check_program(path)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, zipfile.BadZipFile) as exc:
        raise ModelFormatError(str(exc)) from exc  # as read_program does


def _nest(count: int = 40) -> Any:
    from tilewright.space.loop_nest import LoopNest

    rng = np.random.default_rng(0)

    def some(*shape: int) -> Any:
        return rng.integers(1, 9, (count, *shape)).astype(np.float32)

    whole = rng.integers(0, 2, (count, 3)).astype(np.int8)
    parts = (whole, some(3), whole, some(2, 3), some(2, 3), some(2, 3), some(3), some(1))
    return LoopNest(("i", "j", "k"), ("A", "B"), *parts, ("x",))


def _make_model(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from tilewright.cost.models import make_model, save_model

        model = make_model(name)
        model.fit([_nest()], [np.linspace(1, 2, 40)])
        save_model(name, model, "toy/1", {"tasks": 1}, folder / "m.npz")
        return folder / "m.npz"

    return make


def _read_cost_model(path: Path) -> None:
    from tilewright.cost.models import load_model

    stored = load_model(path)
    with contextlib.suppress(ValueError, RuntimeError):  # of another width: said by the commands that score programs
        assert stored.model.predict(_nest()).shape == (40,)


def _make_data_set(folder: Path) -> Path:
    from tilewright.cost.dataset import DataSet, TaskData, write_data_set

    configs = np.arange(80, dtype=np.int32).reshape(40, 2)
    task = TaskData("key", "name", 1e6, ("net",), "cpu", "toy/1", configs, _nest(), np.linspace(1, 2, 40))
    write_data_set(DataSet((task,), {"date": "2025-01-01"}), folder / "d.parquet")
    return folder / "d.parquet"


def _read_data_set(path: Path) -> None:
    from tilewright.cost.dataset import read_data_set

    for task in read_data_set(path).tasks:
        assert task.configs.dtype == np.int32
        assert len(task.configs) == len(task.seconds) == len(task.nest)
        assert isinstance(task.name, str)
        assert isinstance(task.flop, int | float)


def _measurements() -> list[Any]:
    from tilewright.measure.outcome import Measurement, Outcome

    ok = [Measurement("t", "cpu", "toy/1", (i, 3), Outcome.OK, (0.1 + i, 0.2 + i), time=1.7e9) for i in range(8)]
    return [*ok, Measurement("t", "cpu", "toy/1", (1, 2), Outcome.RUN_CRASHED, (), "signal 11")]


def _make_lines(folder: Path) -> Path:
    from tilewright.records.export import write_jsonl

    with (folder / "r.jsonl").open("w") as file:
        write_jsonl(_measurements(), file)
    return folder / "r.jsonl"


def _read_lines(path: Path) -> None:
    from tilewright.records.export import read_jsonl

    with path.open(encoding="utf-8") as file:
        for measurement in read_jsonl(file):
            _check_measurement(measurement)


def _check_measurement(measurement: Any) -> None:
    assert all(type(index) is int for index in measurement.config)
    assert all(type(seconds) is float for seconds in measurement.repeats)
    assert isinstance(measurement.message, str)


def _make_store(folder: Path) -> Path:
    from tilewright.records import open_store
    from tilewright.task import Task

    with open_store(folder / "r.db") as store:
        store.add(_measurements())
        store.describe(Task("t", "matmul", "auto", 1e6, "{" + "x" * 30_000 + "}"))
    return folder / "r.db"


def _read_store(path: Path) -> None:
    from tilewright.records import open_store
    from tilewright.records.store import Query

    for side in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + side).unlink(missing_ok=True)
    with open_store(path) as store:
        for measurement in store.scan(Query()):
            _check_measurement(measurement)
        assert all(m.ok for m in store.best("t", "cpu", "toy/1", 5))
        assert all(isinstance(row.name, str) and isinstance(row.last_time, float) for row in store.summary())
        assert all(isinstance(task.ir, str) for task in store.tasks())
        store.add(_measurements()[:1])


def _make_task(folder: Path) -> Path:
    from tilewright.network.load import load
    from tilewright.network.tasks import extract
    from tilewright.target import Target

    use = extract(load(_make_onnx(folder)), Target.parse()).uses[0]
    (folder / "task.json").write_text(use.task.ir)
    return folder / "task.json"


def _read_task(path: Path) -> None:
    from tilewright.space.recorded import recorded_space
    from tilewright.target import Target
    from tilewright.task import Task

    ir = path.read_text(encoding="utf-8", errors="replace")
    space = recorded_space(Task("key", "name", "contraction", 1.0, ir), Target.parse())
    if space.has_loop_nest:
        space.loop_nest(space.default()[None])


def _make_input(folder: Path) -> Path:
    np.save(folder / "x.npy", np.ones((2, 3), np.float32))
    return folder / "x.npy"


def _read_input(path: Path) -> None:
    from tilewright.cli.run import _read
    from tilewright.network.network import TensorSpec

    (array,) = _read([path], [TensorSpec("x", (2, 3), "float32")])
    assert array.shape == (2, 3)
    assert array.dtype == np.float32


READERS: dict[str, Reader] = {
    "input array": Reader(_make_input, _read_input),
    "records, JSON lines": Reader(_make_lines, _read_lines),
    "records, SQLite": Reader(_make_store, _read_store),
    "data set": Reader(_make_data_set, _read_data_set),
    "cost model, trees": Reader(_make_model("xgb_rank"), _read_cost_model),
    "cost model, perceptron": Reader(_make_model("mlp"), _read_cost_model, compiled=True),
    "executable, changed": Reader(_make_manifest, _read_executable, compiled=True),
    "executable, sealed anew": Reader(_make_manifest, _read_executable, _reseal, compiled=True),
    "ONNX": Reader(_make_onnx, _read_model, compiled=True),
    "PyTorch program": Reader(_make_program, _check_program, compiled=True),
    "recorded task": Reader(_make_task, _read_task, compiled=True),
}


# Counting ------------------------------------------------------------------------------------------------------------


def read_one(reader: Reader, path: Path, content: bytes) -> str:
    """Put ``content`` in the place of a valid file and read it: ``refused``, ``valid``, or what went wrong instead."""
    path.write_bytes(content)
    if reader.resealed is not None:
        reader.resealed(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(path)
    except TilewrightError as exc:
        return "refused" if str(exc) else "an error without a message"
    except Exception as exc:
        return f"{type(exc).__name__}: {next(iter(str(exc).splitlines()), '')[:200]}"
    return "valid"


def count(
    seconds: float,
    readers: Sequence[str] | None = None,
    seed: int = 0,
    *,
    engine: str = "own",
    keep: Path | None = None,
) -> dict[str, Counts]:
    """Try malformed files with each reader, each in a process of its own, for ``seconds`` altogether.

    Starting a process and importing a compiler (up to 10 s for each) comes on top.

    Args:
        seconds: shared evenly by the readers.
        readers: names in ``READERS``; by default all.
        seed: of the changes.
        engine: ``own``: changes of :func:`mutated`. ``atheris``: coverage-guided, where it is installed.
        keep: a folder for files that made a reader fail.
    """
    names = list(READERS) if readers is None else list(readers)
    found = {}
    with tempfile.TemporaryDirectory(prefix="tilewright-fuzz-") as folder:
        for name in names:
            found[name] = _count_one(name, seconds / len(names), seed, Path(folder), engine, keep)
    return found


def _count_one(name: str, seconds: float, seed: int, folder: Path, engine: str, keep: Path | None) -> Counts:
    counts, left = Counts(), seconds
    while left > 0:
        place = folder / f"{len(list(folder.iterdir()))}"
        place.mkdir()
        command = [sys.executable, "-m", "bench._malformed", name, str(left), str(seed), str(place), engine]
        with (place / "said").open("w") as said:
            done = subprocess.run(command, stdout=said, stderr=subprocess.DEVNULL, check=False)
        lines = (place / "said").read_text().splitlines()
        if "ready" not in lines:
            raise RuntimeError(
                f"the reader {name!r} cannot be tried: {' '.join(lines)[-300:]} (code {done.returncode})"
            )
        for line in lines[lines.index("ready") + 1 :]:
            kind, _, text = line.partition(" ")
            if kind in ("valid", "refused", "failed"):
                counts.add(text if kind == "failed" else kind)
                if kind == "failed":
                    _keep(place, keep, name, len(counts.failures))
        if done.returncode == 0:
            break
        hung = done.returncode == -signal.SIGALRM
        counts.add(f"took more than {_HANG_SECONDS} s" if hung else f"the process ended with code {done.returncode}")
        _keep(place, keep, name, len(counts.failures))
        left, seed = left - seconds / 8, seed + 1_000_003  # otherwise it would crash there again
        shutil.rmtree(place)
    return counts


def _keep(place: Path, keep: Path | None, name: str, number: int) -> None:
    if keep is not None and (place / "now").is_file():
        keep.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place / "now", keep / f"{name.replace(' ', '-').replace(',', '')}-{number}")


def main(name: str, seconds: float, seed: int, folder: Path, engine: str) -> None:
    """The process's side: make a valid file, then change and read it until the time is over."""
    reader = READERS[name]
    with _instrumented(engine):
        path = reader.make(folder)
        valid = path.read_bytes()
        said = read_one(reader, path, valid)  # imports what is slow to import
    if said != "valid":
        print(f"a valid file is not read: {said}")
        sys.exit(3)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
    print("ready", flush=True)
    end = time.monotonic() + seconds

    def attempt(content: bytes) -> None:
        (folder / "now").write_bytes(content)
        signal.alarm(_HANG_SECONDS)
        said = read_one(reader, path, content)
        signal.alarm(0)
        print(
            said if said in ("valid", "refused") else f"failed {said.encode('ascii', 'replace').decode()}", flush=True
        )

    if engine == "atheris":
        _guided(attempt, valid, folder, seconds, seed)
        return
    rng = random.Random(seed)
    while time.monotonic() < end:
        attempt(mutated(valid, rng))


def _guided(attempt: Callable[[bytes], None], valid: bytes, folder: Path, seconds: float, seed: int) -> None:
    """Let atheris choose the changes by the lines of the package that they reach."""
    import atheris

    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "valid").write_bytes(valid)

    def change(content: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        return (atheris.Mutate(content, most) if rng.random() < 0.3 else mutated(content, rng))[:most]

    options = [f"-max_total_time={max(1, round(seconds))}", f"-seed={seed + 1}", f"-max_len={4 * len(valid)}"]
    arguments = [sys.argv[0], *options, "-timeout=0", "-rss_limit_mb=0", f"-artifact_prefix={folder}/", str(corpus)]
    atheris.Setup(arguments, attempt, custom_mutator=change)
    atheris.Fuzz()


def _instrumented(engine: str) -> contextlib.AbstractContextManager[Any]:
    """Where atheris is to know which lines are reached, the package's modules are imported inside of this."""
    if engine != "atheris":
        return contextlib.nullcontext()
    import atheris

    return atheris.instrument_imports(include=["tilewright"])  # type: ignore[no-any-return]


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
