"""``tilewright bench``: an executable against other runtimes, fairly."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tilewright.cli.boundary import command, write_json
from tilewright.cli.options import JsonOption, check_machine, check_target
from tilewright.cli.text import table
from tilewright.errors import OutputError, TilewrightError
from tilewright.names import encodable
from tilewright.scratch import scratch
from tilewright.wording import counted

if TYPE_CHECKING:
    from tilewright.measure.peers import Peer

__all__ = ["bench", "raced", "text"]

#: How the executable is called among its peers.
OURS = "tilewright"
#: The target of runs with empty caches.
_COLD = "native:cold"


@command
def bench(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory of an executable.")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER",
            help="onnxruntime, openvino, pytorch, pytorch-compiled or untuned; may be given several times.",
        ),
    ] = None,
    blocks: Annotated[int, typer.Option(min=1, help="How many turns each runtime has.")] = 20,
    block_seconds: Annotated[float, typer.Option(min=0.01, help="About how long a turn lasts.")] = 0.5,
    target: Annotated[
        str,
        typer.Option(
            help="What the untuned build is for: 'native' or 'llvm:MCPU'; native:cold empties the caches before each "
            "run of every runtime, as for a network that rarely runs."
        ),
    ] = "native",
    seed: Annotated[int, typer.Option(min=0, help="The seed of the random inputs.")] = 0,
    json_file: JsonOption = None,
) -> None:
    """Time the executable in OUT against others: by turns, each in its own process, each the only one running."""
    check_target(target)
    check_machine()
    with scratch() as folder:
        place = out
        if not encodable(out.absolute()):  # other runtimes take no such name
            place = folder / "executable"
            place.symlink_to(out.absolute(), target_is_directory=True)
        report = raced(place, against or (), blocks=blocks, block_seconds=block_seconds, target=target, seed=seed)
    write_json(json_file, report)
    print(text(report))
    peers = report["peers"]
    if "error" in report or (peers and all("error" in entry for entry in peers.values())):
        name = next(iter(peers), "")
        raise TilewrightError(report.get("error") or f"no peer could be timed: {name}: {peers[name]['error']}")


def raced(
    out: Path,
    against: Sequence[str],
    *,
    blocks: int = 20,
    block_seconds: float = 0.5,
    target: str = "native",
    seed: int = 0,
    peers: Mapping[str, Callable[[str, str], Any]] | None = None,
) -> dict[str, Any]:
    """Race the executable in ``out`` with the peers called ``against``; what came of it, ready for JSON.

    Args:
        out: the directory of an executable.
        against: names of peers.
        blocks: how many turns each has.
        block_seconds: about how long a turn lasts.
        target: what the untuned build is for; for ``native:cold`` the caches are emptied before each run.
        seed: of the inputs.
        peers: their factories by name; by default ``tilewright.compare.peers.PEERS``.

    Raises:
        TilewrightError: no such peer, no executable, or the executable cannot be timed at all.
    """
    from tilewright.compare import peers as factories
    from tilewright.executable.manifest import verify

    peers = factories.PEERS if peers is None else peers
    names = list(dict.fromkeys(against))
    unknown = [name for name in names if name not in peers]
    if unknown:
        raise TilewrightError(
            f"an executable is compared with one of {', '.join(peers)}, but this is {unknown[0]!r}; correct --against"
        )
    verify(out)
    model = factories.reference_model(out) if names else None
    from tilewright.measure.peers import Entrant, race
    from tilewright.tvm_compat import wanted_threads

    entrants = [Entrant(OURS, factories.executable, (str(out.absolute()),))]
    if names:
        if model is None:
            raise OutputError(
                f"other runtimes need the model file that the executable was made from, but {out} holds none; "
                "leave --against out, or tune an ONNX or .pt2 file"
            )
        entrants += [Entrant(name, peers[name], (str(model.absolute()), target)) for name in names]
    threads, cold = wanted_threads(), target == _COLD
    ours, *others = race(entrants, blocks, block_seconds, threads, seed, cold=cold)
    report = {**_report(ours, others, threads), "caches": "cold" if cold else "warm"}
    report["overhead_us"] = None if ours.error else _overhead(out)
    return report


def _overhead(out: Path) -> float | None:
    """Microseconds of a call outside its kernels: the median of calls in which no kernel runs."""
    from tilewright.executable.executable import load_executable

    try:
        seconds = load_executable(out).overhead(1000)
    except TilewrightError:  # it was just timed in a process of its own; this only adds a figure
        return None
    return None if seconds is None else 1e6 * statistics.median(seconds)


def _report(ours: Peer, others: list[Peer], threads: int) -> dict[str, Any]:
    from tilewright.measure.compare import compare, difference, latency
    from tilewright.target import model_name

    report: dict[str, Any] = {
        "executable": latency(ours),
        "peers": {},
        "median_ms": {OURS: latency(ours)["median_ms"]},
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
        entry = {**latency(peer), **compare(ours, peer), "difference": difference(ours.outputs, peer.outputs)}
        report["peers"][peer.name] = entry
        report["median_ms"][peer.name] = entry["median_ms"]
        report["ratio"][peer.name] = entry["ratio"]
    return report


def text(report: dict[str, Any]) -> str:
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
    return "\n".join([*lines, *errors])
