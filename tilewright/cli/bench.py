"""``tilewright bench``: compares an executable with other runtimes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from tilewright.cli.boundary import command, write_json
from tilewright.cli.completing import complete_from
from tilewright.cli.options import JsonOption, check_machine, check_target
from tilewright.cli.text import table
from tilewright.cli.verbosity import remark
from tilewright.errors import OutputError, TilewrightError
from tilewright.names import encodable
from tilewright.scratch import scratch
from tilewright.wording import counted, did_you_mean

if TYPE_CHECKING:
    from tilewright.measure.peers import Peer, Runnable

__all__ = ["bench", "raced", "text"]

#: The name of the executable among its peers.
OURS = "tilewright"
#: The target of runs with empty caches.
_COLD = "native:cold"


class PeerFigures(TypedDict, total=False):
    """The figures of one runtime. A peer has the first two and the ratios, or an error.

    Attributes:
        min_ms: the shortest run in milliseconds.
        median_ms: the median run in milliseconds.
        ratio: the executable's median over this runtime's; below 1 the executable is faster.
        ratio_low: the lower end of the ratio's 95 % interval.
        ratio_high: the upper end.
        difference: the largest difference of the outputs, relative to their largest number.
        error: why the runtime could not be timed.
    """

    min_ms: float
    median_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    difference: float
    error: str


class SegmentShare(TypedDict):
    """A part of the executable that ONNX Runtime runs.

    Attributes:
        operators: the types of its operators.
        share: of the executable's time, from 0 to 1; None: it could not be measured.
    """

    operators: list[str]
    share: float | None


class BenchReport(TypedDict, total=False):
    """The result of a comparison, ready for JSON.

    Attributes:
        executable: the figures of the executable.
        peers: the figures of each peer, by name.
        median_ms: the median run of the executable and of each peer, in milliseconds, by name.
        ratio: the ratio of each peer, by name.
        blocks: the number of turns.
        threads: the number of threads.
        machine: the model of the CPU.
        date: when the comparison was made.
        caches: ``warm`` or ``cold``.
        overhead_us: the microseconds of a call outside its kernels; None if they are not known.
        segments: the parts of the executable that ONNX Runtime runs, in order.
        error: why the executable could not be timed.
    """

    executable: PeerFigures
    peers: dict[str, PeerFigures]
    median_ms: dict[str, float]
    ratio: dict[str, float]
    blocks: int
    threads: int
    machine: str
    date: str
    caches: str
    overhead_us: float | None
    segments: list[SegmentShare]
    error: str


@command
def bench(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory of an executable.")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER",
            autocompletion=complete_from("tilewright.compare.peers", "PEERS"),
            help="onnxruntime, openvino, pytorch, pytorch-compiled or untuned. May be given several times.",
        ),
    ] = None,
    blocks: Annotated[int, typer.Option(metavar="N", min=1, help="The number of turns of each runtime.")] = 20,
    block_seconds: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.01, help="The approximate length of a turn in seconds.")
    ] = 0.5,
    target: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="The target of the untuned build: 'native' or 'llvm:MCPU'. With native:cold the caches are emptied "
            "before each run of every runtime, as for a network that rarely runs.",
        ),
    ] = "native",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The seed of the random inputs.")] = 0,
    json_file: JsonOption = None,
) -> None:
    """Compare the executable in OUT with other runtimes, by turns, each in a process of its own."""
    check_target(target)
    from tilewright.compare.peers import PEERS

    _check_peers(against or (), PEERS)
    check_machine()
    with scratch() as folder:
        place = out
        if not encodable(out.absolute()):  # other runtimes refuse names that are not UTF-8
            place = folder / "executable"
            place.symlink_to(out.absolute(), target_is_directory=True)
        shapes = _list_buckets(place)
        runtimes = 1 + len(set(against or ()))
        seconds = len(shapes) * runtimes * blocks * block_seconds
        remark(f"timing {counted(runtimes, 'runtime')} by turns, about {seconds:.0f} s and the time to load them")
        reports = [
            raced(
                place,
                against or (),
                blocks=blocks,
                block_seconds=block_seconds,
                target=target,
                seed=seed,
                bucket=bucket,
            )
            for bucket in range(len(shapes))
        ]
    several = {"buckets": [{"shapes": s, **report} for s, report in zip(shapes, reports, strict=True)]}
    write_json(json_file, reports[0] if len(reports) == 1 else several)
    for shape, report in zip(shapes, reports, strict=True):
        print(f"with {shape}:\n{text(report)}" if shape else text(report))
    for report in reports:
        peers = report["peers"]
        if "error" in report or (peers and all("error" in entry for entry in peers.values())):
            name = next(iter(peers), "")
            raise TilewrightError(report.get("error") or f"no peer could be timed: {name}: {peers[name]['error']}")


def _list_buckets(out: Path) -> list[str]:
    """The shapes of each bucket of an executable, for people; an empty text for an executable with a single one."""
    from tilewright.executable.manifest import read_manifest

    buckets = read_manifest(out).get("buckets")
    if not buckets:
        return [""]
    return [" ".join(f"{e['name']}={','.join(map(str, e['shape']))}" for e in bucket["inputs"]) for bucket in buckets]


def _check_peers(against: Sequence[str], peers: Collection[str]) -> None:
    """Refuse a name that is no peer's.

    Raises:
        TilewrightError: there is no such peer.
    """
    for name in against:
        if name not in peers:
            raise TilewrightError(
                f"an executable is compared with one of {', '.join(peers)}, but this is {name!r}"
                f"{did_you_mean(name, peers) or '; correct --against'}"
            )


def raced(
    out: Path,
    against: Sequence[str],
    *,
    blocks: int = 20,
    block_seconds: float = 0.5,
    target: str = "native",
    seed: int = 0,
    peers: Mapping[str, Callable[[str, str], Runnable]] | None = None,
    bucket: int = 0,
) -> BenchReport:
    """Time the executable in ``out`` and the peers ``against``, by turns.

    Args:
        out: the directory of an executable.
        against: the names of peers.
        blocks: the number of turns of each runtime.
        block_seconds: the length of a turn in seconds.
        target: of the untuned build; with ``native:cold`` the caches are emptied before each run.
        seed: of the inputs.
        peers: the factories of peers by name; by default ``tilewright.compare.peers.PEERS``.
        bucket: the number of the bucket, of an executable with several.

    Raises:
        TilewrightError: there is no such peer or no executable, or the executable cannot be timed.
    """
    from tilewright.compare import peers as factories
    from tilewright.executable.manifest import verify

    peers = factories.PEERS if peers is None else peers
    names = list(dict.fromkeys(against))
    _check_peers(names, peers)
    verify(out)
    from tilewright.measure.peers import Entrant, race
    from tilewright.tvm_compat import wanted_threads

    place = (str(out.absolute()), bucket) if bucket else (str(out.absolute()),)
    entrants = [Entrant(OURS, factories.executable, place)]
    threads, cold = wanted_threads(), target == _COLD
    with tempfile.TemporaryDirectory(prefix="tilewright-") as folder:
        if names:
            model = factories.bucket_model(out, bucket, Path(folder))
            if model is None:
                raise OutputError(
                    f"other runtimes need the model file that the executable was made from, but {out} holds none; "
                    "leave --against out, or tune an ONNX or .pt2 file"
                )
            entrants += [Entrant(name, peers[name], (str(model.absolute()), target)) for name in names]
        ours, *others = race(entrants, blocks, block_seconds, threads, seed, cold=cold)
    report = _report(ours, others, threads)
    report["caches"] = "cold" if cold else "warm"
    report["overhead_us"] = None if ours.error else _overhead(out)
    report["segments"] = _shares(out, bucket, seed, measured=not ours.error)
    return report


def _shares(out: Path, bucket: int, seed: int, *, measured: bool) -> list[SegmentShare]:
    """The parts of a bucket that ONNX Runtime runs, with their shares of the time, if these can be ``measured``."""
    from tilewright.compare.shares import measure_shares
    from tilewright.executable.manifest import read_manifest

    manifest = read_manifest(out)
    entries = manifest.get("segments", [])
    if buckets := manifest.get("buckets"):
        entries = [entries[number] for number in buckets[bucket]["segments"]]
    shares: list[float | None] = [None] * len(entries)
    if measured:
        shares = measure_shares(out, len(entries), seed, bucket)
    return [
        {"operators": entry.get("operators", []), "share": share} for entry, share in zip(entries, shares, strict=True)
    ]


def _overhead(out: Path) -> float | None:
    """The microseconds of a call outside its kernels: the median of calls in which no kernel runs."""
    from tilewright.executable.executable import load_executable

    try:
        seconds = load_executable(out).overhead(1000)
    except TilewrightError:  # the executable was timed in a process of its own, and this only adds a figure
        return None
    return None if seconds is None else 1e6 * statistics.median(seconds)


def _report(ours: Peer, others: list[Peer], threads: int) -> BenchReport:
    from tilewright.processor import model_name

    report: BenchReport = {
        "executable": _time(ours),
        "peers": {},
        "median_ms": {OURS: _time(ours)["median_ms"]},
        "ratio": {},
        "blocks": len(ours.blocks),
        "threads": threads,
        "machine": model_name(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    if ours.error:
        report["error"] = ours.error
    for peer in others:
        if peer.error:
            report["peers"][peer.name] = {"error": peer.error}
            continue
        entry = _compare(ours, peer)
        report["peers"][peer.name] = entry
        report["median_ms"][peer.name] = entry["median_ms"]
        report["ratio"][peer.name] = entry["ratio"]
    return report


def _time(peer: Peer) -> PeerFigures:
    from tilewright.measure.compare import latency

    found = latency(peer)
    return {"min_ms": found["min_ms"], "median_ms": found["median_ms"]}


def _compare(ours: Peer, peer: Peer) -> PeerFigures:
    from tilewright.measure.compare import compare, difference

    found = compare(ours, peer)
    return {
        **_time(peer),
        "ratio": found["ratio"],
        "ratio_low": found["ratio_low"],
        "ratio_high": found["ratio_high"],
        "difference": difference(ours.outputs, peer.outputs),
    }


def text(report: BenchReport) -> str:
    """The report as a table."""
    rows = [[OURS, f"{report['executable']['min_ms']:.3f}", f"{report['executable']['median_ms']:.3f}", "", ""]]
    errors = []
    for name, entry in report["peers"].items():
        if "error" in entry:
            errors.append(f"{name} could not be timed: {entry['error']}")
            continue
        interval = f"{entry['ratio_low']:.3f} .. {entry['ratio_high']:.3f}"
        rows.append([name, f"{entry['min_ms']:.3f}", f"{entry['median_ms']:.3f}", f"{entry['ratio']:.3f}", interval])
    lines = [
        table(["", "min ms", "median ms", "ratio", "95 % interval"], rows),
        f"ratio: {OURS}'s median / the other's; below 1 is faster. {counted(report['blocks'], 'block')} in "
        f"alternating processes, {counted(report['threads'], 'thread')}, {report['caches']} caches, "
        f"{report['machine']}, {report['date']}",
    ]
    if report["overhead_us"] is not None:
        lines.append(f"a call of {OURS} takes {report['overhead_us']:.1f} us outside its kernels")
    for number, segment in enumerate(report.get("segments", []), 1):
        share = "an unknown share" if segment["share"] is None else f"{100 * segment['share']:.1f} %"
        operators = ", ".join(segment["operators"]) or "operators"
        lines.append(f"segment {number}, run by ONNX Runtime ({operators}): {share} of the time")
    return "\n".join([*lines, *errors])
