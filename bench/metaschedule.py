"""Tunes a network with TVM's MetaSchedule, and races its results after given times.

    python -m bench.metaschedule --model squeezenet --trials-per-iter 16 --dir ms --minutes 60
    python -m bench.metaschedule --dir ms --minutes 0 --at 300,3600 --against onnxruntime,untuned --json ms.json

The first command ends after 60 minutes of its own running time. A later call with the same directory goes on, until all
calls together have taken that long. Running time is tuning time alone. It does not contain the time in which the
process group was stopped (SIGSTOP), the preparations (importing, reading the network, folding), or the build at the
end. Progress goes to `progress.jsonl` in the directory, and errors of candidates to `failures.jsonl`.

`--at` builds the results after these running seconds and races them: each build and each peer in its own process, by
turns. Kernels without a record are plain loops, as for all users of MetaSchedule. A Tilewright executable of the same
network may take part (`--executable`).
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench._metaschedule import FAILURES, LAYOUTS, entrant, network_path
from bench._resumable import PROGRESS, TASKS, TICK, Progress, RunningTime, Settings, State, mend
from tilewright.cli.boundary import write_json
from tilewright.cli.text import table
from tilewright.compare.peers import PEERS, executable, reference_model
from tilewright.errors import MeasureError, TilewrightError
from tilewright.measure.compare import compare, difference, latency
from tilewright.measure.peers import Entrant, Peer, race
from tilewright.measure.process import arm, ending
from tilewright.processor import model_name
from tilewright.tvm_compat import usable_cores

_BOOT = "import sys; sys.path[:] = {path!r}; from bench._metaschedule import main; main({arguments})"
#: Importing, reading and folding a large network, with company on the machine.
_PREPARATION_SECONDS = 900.0
#: Runtimes agree to so much of the largest output; other weights make another model, and differ by far more.
_SAME = 1e-3
#: Whose outputs all others are compared with.
_REFERENCE = "onnxruntime"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a light network of the onnx package, or an ONNX file; needed at the start")
    parser.add_argument("--dir", type=Path, required=True, help="of the run, new or to go on with")
    parser.add_argument("--minutes", type=float, default=60.0, help="of running time, of all calls together")
    parser.add_argument("--trials-per-iter", type=int, default=64, help="64 is MetaSchedule's default")
    parser.add_argument("--layout", choices=LAYOUTS, default="NCHW", help="of the activations inside the network")
    parser.add_argument("--target", default="native")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", default="", help="running seconds, comma-separated, whose state is built and raced")
    parser.add_argument("--against", default=f"{_REFERENCE},untuned", help="comma-separated")
    parser.add_argument("--executable", type=Path, help="a directory that `tilewright tune` wrote, to race as well")
    parser.add_argument("--blocks", type=int, default=20, help="turns of each runtime")
    parser.add_argument("--block-seconds", type=float, default=0.5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # by way of what ends the tuner
    try:
        state = state_of(arguments)
        if state.seconds < 60 * arguments.minutes:
            tune(arguments.dir, state, 60 * arguments.minutes)
        print(summary(arguments.dir))
        if arguments.at:
            moments = [float(text) for text in arguments.at.split(",")]
            names = [name for name in arguments.against.split(",") if name]
            report = raced(
                arguments.dir, state, moments, names, arguments.executable, arguments.blocks, arguments.block_seconds
            )
            print(text(report))
            write_json(arguments.json, report)
    except TilewrightError as error:
        sys.exit(f"{type(error).__name__}: {error}")


def state_of(arguments: argparse.Namespace) -> State:
    """The run's state: the folder's, or a new one.

    Raises:
        TilewrightError: the folder is of another run, or of none and there is no model to begin one.
    """
    state = State.load(arguments.dir)
    if state is None:
        if not arguments.model:
            raise TilewrightError(f"a run begins with a network, but {arguments.dir} holds no run; give it --model")
        arguments.dir.mkdir(parents=True, exist_ok=True)
        state = State(asked(arguments))
        state.save(arguments.dir)
    elif arguments.model and asked(arguments) != state.settings:
        raise TilewrightError(
            f"a run goes on as it began, but {arguments.dir} is of {state.settings}, and {asked(arguments)} was asked "
            "for; choose another --dir, or leave --model out to go on with this one"
        )
    return state


def asked(arguments: argparse.Namespace) -> Settings:
    return Settings(arguments.model, arguments.trials_per_iter, arguments.layout, arguments.target, arguments.seed)


def tune(folder: Path, state: State, limit: float) -> None:
    """Tune in a process of its own until ``limit`` running seconds of all calls, and end it with all it started.

    Raises:
        MeasureError: it cannot be started, or ended by itself with an error.
    """
    with tempfile.TemporaryDirectory(prefix="metaschedule-") as scratch, (folder / "log.txt").open("ab") as log:
        tuner = _Tuner(folder, scratch, log)
        try:
            preparation = tuner.wait_until_ready()
            state.preparations.append(round(preparation, 1))
            state.save(folder)
            mend(folder / PROGRESS)
            weights = [task["weight"] for task in json.loads((folder / TASKS).read_text(encoding="utf-8"))]
            progress, running = Progress(folder, weights), RunningTime(state.seconds)
            while tuner.sleep(min(TICK, max(0.0, limit - running.seconds))):
                if progress.update(running.tick()):
                    state.seconds = running.seconds
                    state.save(folder)
                if running.seconds >= limit:
                    break
        finally:
            tuner.end()
        state.seconds = running.tick()
        progress.update(state.seconds, last=True)
        state.save(folder)
        tuner.check()


class _Tuner:
    """The tuning process. It shares our process group, so that what stops the group stops it too."""

    def __init__(self, folder: Path, scratch: str, log: Any) -> None:
        self._ready, theirs = os.pipe()
        lifeline, self._lifeline = os.pipe()
        code = _BOOT.format(path=sys.path, arguments=f"{str(folder.absolute())!r}, {theirs}")
        # MetaSchedule's workers are `python -m`, and find the project by this alone.
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs, lifeline),
                env=os.environ | {"TVM_NUM_THREADS": str(usable_cores()), "TMPDIR": scratch, "PYTHONPATH": path},
            )
            arm(lifeline, self._process.pid)
        except OSError as error:
            raise MeasureError(f"tuning needs a process, but none can be started: {error}") from error
        finally:
            os.close(theirs)
            os.close(lifeline)
        self._log = Path(log.name)

    def wait_until_ready(self) -> float:
        """Wait for the end of its preparations; returns how long it ran for them."""
        running = RunningTime()
        while running.tick() < _PREPARATION_SECONDS:
            readable, _, _ = select.select([self._ready], [], [], TICK)
            if readable:
                if os.read(self._ready, 1):
                    return running.tick()
                self._process.wait()
                self.check()
        raise MeasureError(f"it was not ready to tune after {_PREPARATION_SECONDS:.0f} s; see {self._log}")

    def sleep(self, seconds: float) -> bool:
        """Wait; returns whether it is still at work."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def end(self) -> None:
        """End it and all that it started, if it still runs."""
        import psutil

        if self._process.poll() is None:
            ours = psutil.Process(self._process.pid)
            ours.suspend()  # it starts nothing while we look
            family = [ours, *ours.children(recursive=True)]
            for process in family:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
            psutil.wait_procs(family[1:], timeout=5)
            self._process.wait()
            self._process.returncode = 0  # as was meant
        os.close(self._ready)
        os.close(self._lifeline)

    def check(self) -> None:
        """Raise ``MeasureError`` where it ended by itself, with an error."""
        code = self._process.returncode
        if code:
            tail = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise MeasureError(f"tuning ended early: {ending(code)}: {' '.join(tail)[:300]}; see {self._log}")


def summary(folder: Path) -> str:
    """How far the run has come, and what went wrong with candidates."""
    lines = lines_of(folder / PROGRESS)
    if not lines:
        return "nothing tuned"
    last = json.loads(lines[-1])
    kinds = collections.Counter(
        f"{entry['stage']}: {entry['error']}" for entry in map(json.loads, lines_of(folder / FAILURES))
    )
    latency = "unknown" if last["latency_ms"] is None else f"{last['latency_ms']:.2f} ms"
    head = (
        f"{last['seconds']:.0f} s, {last['records']} records, {last['failed']} of them failed, {last['missing']} tasks "
        f"without any; sum of the best kernels: {latency}"
    )
    return "\n".join([head, *(f"{count} x {kind}" for kind, count in kinds.most_common(5))])


def lines_of(path: Path) -> list[str]:
    """The lines of a file; none where there is none."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def raced(
    folder: Path,
    state: State,
    moments: list[float],
    against: list[str],
    tilewright: Path | None,
    blocks: int,
    block_seconds: float,
) -> dict[str, Any]:
    """Race the states of the run at ``moments`` with the peers called ``against``; what came of it, ready for JSON.

    Raises:
        TilewrightError: no such peer, no such moment, or the first state cannot be timed.
    """
    unknown = [name for name in against if name not in PEERS]
    if unknown:
        raise TilewrightError(f"a peer is one of {', '.join(PEERS)}, but this is {unknown[0]!r}; correct --against")
    with tempfile.TemporaryDirectory(prefix="metaschedule-") as text:
        scratch = Path(text)
        entrants = []
        for seconds in moments:
            print(f"+ build as of {seconds:g} s", flush=True)
            entrants.append(entrant(folder, seconds, scratch / f"{seconds:g}", scratch / f"database-{seconds:g}"))
        model = reference_model(scratch / f"{moments[0]:g}")
        path = str(model) if model is not None else str(network_path(state.settings.model))
        if tilewright is not None:
            entrants.append(Entrant("tilewright", executable, (str(tilewright.absolute()),)))
        entrants += [Entrant(name, PEERS[name], (path, state.settings.target)) for name in against]
        print(f"+ race {', '.join(e.name for e in entrants)}", flush=True)
        peers = race(entrants, blocks, block_seconds, usable_cores())
        untuned = {
            f"metaschedule@{seconds:g}s": json.loads((scratch / f"{seconds:g}" / "manifest.json").read_text())
            for seconds in moments
        }
    return _report(peers, state, untuned)


def _report(peers: list[Peer], state: State, manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    reference = next((peer for peer in peers if peer.name == _REFERENCE and not peer.error), None)
    first = peers[0]
    entries: dict[str, Any] = {}
    for peer in peers:
        if peer.error:
            entries[peer.name] = {"error": peer.error}
            continue
        entry: dict[str, Any] = {**latency(peer), **compare(peer, first), "blocks": len(peer.blocks)}
        entry["difference"] = None if reference is None else difference(peer.outputs, reference.outputs)
        if peer.name in manifests:
            entry["untuned"] = manifests[peer.name]["untuned"]
            entry["packed_at_run"] = manifests[peer.name]["packed_at_run"]
        entries[peer.name] = entry
    return {
        "settings": vars(state.settings),
        "tuned_seconds": state.seconds,
        "entrants": entries,
        "threads": usable_cores(),
        "machine": model_name(),
    }


def text(report: dict[str, Any]) -> str:
    """The report as a table."""
    rows, errors = [], []
    for name, entry in report["entrants"].items():
        if "error" in entry:
            errors.append(f"{name} could not be timed: {entry['error']}")
            continue
        interval = f"{entry['ratio_low']:.3f} .. {entry['ratio_high']:.3f}"
        off = "" if entry["difference"] is None else f"{entry['difference']:.1e}"
        untuned = str(entry.get("untuned", ""))
        medians = [f"{entry[key]:.3f}" for key in ("min_ms", "median_ms", "ratio")]
        rows.append([name, *medians, interval, off, untuned])
        if entry["difference"] is not None and not entry["difference"] <= _SAME:
            errors.append(f"{name} computes something else than {_REFERENCE}: another model, or other weights")
    head = ["", "min ms", "median ms", "ratio", "95 % interval", f"off {_REFERENCE}", "untuned kernels"]
    first = next(iter(report["entrants"]))
    foot = f"ratio: median / {first}'s; {report['threads']} threads, {report['machine']}"
    return "\n".join([table(head, rows), foot, *errors])


if __name__ == "__main__":
    main()
