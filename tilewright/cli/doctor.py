"""``tilewright doctor``: checks whether this machine can tune, and says what is missing and what that costs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import typer

from tilewright.available_memory import available_memory
from tilewright.cli.boundary import configuration, unconfigured, write_json
from tilewright.cli.options import JsonOption, RecordsOption, check_machine, records_place
from tilewright.errors import TilewrightError
from tilewright.names import printable
from tilewright.scratch import scratch

if TYPE_CHECKING:
    from tilewright.target import Target

__all__ = ["Finding", "doctor", "examine_target"]

#: ``bad`` stops Tilewright from tuning; ``missing`` costs what the finding says.
State: TypeAlias = Literal["ok", "missing", "bad"]

#: Optional packages: what they are for, and the extra that installs them.
_PACKAGES = {
    "openvino": ("bench --against openvino", "peers"),
    "torch": ("torch.compile(backend='tilewright'), .pt2 files, bench --against pytorch", "torch"),
    "torch_geometric": ("cost train --model gcn, the graph networks among cost models", "torch"),
    "pyarrow": ("records export --programs, cost train --data", "parquet"),
    "uvicorn": ("tune --live and dashboard, pages in a browser", "live"),
    "psycopg": ("records in PostgreSQL", "postgresql"),
    "ray": ("tune --fleet, on many machines", "fleet"),
    "ziglang": ("build for another processor, without a cross compiler of the system", "cross"),
    "stable_baselines3": ("the methods that learn by reinforcement", "rl"),
}
#: Below so many bytes a disk is called full.
_LITTLE_SPACE = 1 << 30


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: the name of what was checked, such as ``threads``.
        state: ``ok``; ``missing``, which costs what ``remedy`` says; or ``bad``, which stops tuning.
        found: what the machine has.
        remedy: what is lost, and how to change that; empty if nothing is lost.
    """

    what: str
    state: State
    found: str
    remedy: str = ""


@unconfigured
def doctor(records: RecordsOption = None, json_file: JsonOption = None) -> None:
    """Say what this machine has, what is missing, and what that costs."""
    findings = list(_examine(records))
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        sign = {"ok": "   ", "missing": " - ", "bad": " ! "}[finding.state]
        print(f"{sign}{finding.what:<{width}}  {printable(finding.found)}")
        if finding.remedy:
            print(f"   {'':<{width}}  {printable(finding.remedy)}")
    bad = sum(finding.state == "bad" for finding in findings)
    write_json(json_file, {"findings": [asdict(finding) for finding in findings], "able": not bad})
    print(f"{bad} of these stop tuning (!)" if bad else "ready to tune")
    if bad:
        raise typer.Exit(2)


def _examine(records: str | None) -> Iterator[Finding]:
    yield Finding("tilewright", "ok", f"{importlib.metadata.version('tilewright')}, Python {platform.python_version()}")
    yield from _examine_processor()
    yield from _examine_memory()
    yield _examine_compiler()
    yield from _examine_packages()
    yield from _examine_configuration()
    yield _examine_records(records)
    yield from _examine_folders()


def _examine_processor() -> Iterator[Finding]:
    try:
        check_machine()
        from tilewright.target import Target

        target = Target.parse()
    except TilewrightError as error:
        yield Finding("compiler", "bad", "it cannot be used", str(error))
        return
    yield Finding("compiler", "ok", f"TVM {target.tvm_version}")
    yield from examine_target(target)
    yield _measure_peaks(target)


def examine_target(target: Target) -> Iterator[Finding]:
    """What the processor has, and whether candidates for ``target`` can be timed on it, as ``tune`` asks."""
    from tilewright.tuning.building import refuse_tuning

    hidden = f", without {' '.join(target.without)}, which this machine hides" if target.without else ""
    found = f"{target.machine} ({target.mcpu}), {' '.join(target.features)}{hidden}"
    try:
        refuse_tuning(target)
    except TilewrightError as error:
        yield Finding("processor", "bad", found, str(error))
    else:
        yield Finding("processor", "ok", found)
    yield Finding("vectors", "ok", f"{target.lanes} float32 numbers in each of {target.registers} registers")
    yield Finding("dot products", "ok", _describe_dots(target))
    sizes = ", ".join(f"L{level} {size >> 10:,} KiB" for level, size in enumerate((target.l1, target.l2, target.l3), 1))
    yield Finding("caches", "ok", sizes)
    machine = os.cpu_count() or target.cores
    if os.environ.get("TVM_NUM_THREADS"):
        why = "TVM_NUM_THREADS says so; unset it to use all"
    else:
        why = "an affinity (taskset), a control group's quota, or hyper-threads leave so many"
    fewer = target.cores < machine
    yield Finding("threads", "ok", f"{target.cores} of {machine} processors", why if fewer else "")


def _describe_dots(target: Target) -> str:
    """The instructions for dot products of bytes and of bfloat16 numbers."""
    from tilewright.ops.contraction.dot_products import find_bf16_product, find_dot_product

    found = {
        "bytes": find_dot_product(target, target.lanes),
        "bfloat16": find_bf16_product(target, target.lanes),
    }
    return ", ".join(f"of {what} by {dot.name if dot else 'plain code'}" for what, dot in found.items())


def _measure_peaks(target: Target) -> Finding:
    """What the cores reach together on registers, measured in about 0.3 s."""
    from tilewright.measure.limits import measure_limits

    try:
        limits = measure_limits(target.cores, target.features)
    except TilewrightError as error:
        return Finding("peak", "missing", "it cannot be measured", f"reports have no roofline: {error}")
    rates = {"float32": limits.peak, "products of bytes": limits.dot, "products of bfloat16 numbers": limits.bf16_dot}
    known = [f"{1e-9 * rate:,.0f} in {what}" for what, rate in rates.items() if rate is not None]
    return Finding("peak", "ok", f"billions of operations per second: {', '.join(known)}")


def _examine_memory() -> Iterator[Finding]:
    free = available_memory()
    little = free < 1 << 30
    remedy = "a network needs four times the bytes of its weights, and 1 GiB; end other programs" if little else ""
    yield Finding("memory", "missing" if little else "ok", f"{free / (1 << 30):.1f} GiB can be had", remedy)


def _examine_compiler() -> Finding:
    from tilewright.executable.runtime.library import compile_runtime, find_compiler

    try:
        with scratch() as folder:
            compile_runtime(folder / "runtime.o")
    except TilewrightError as error:
        return Finding("C compiler", "bad", "there is none that works", str(error))
    name, *arguments = find_compiler()
    return Finding("C compiler", "ok", " ".join([shutil.which(name) or name, *arguments]))


def _examine_packages() -> Iterator[Finding]:
    yield Finding("onnxruntime", "ok", importlib.metadata.version("onnxruntime"))
    for package, (use, extra) in _PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            remedy = f"needed for: {use}; pip install 'tilewright[{extra}]'"
            yield Finding(package, "missing", "not installed", remedy)
        else:
            yield Finding(package, "ok", importlib.metadata.version(package.replace("_", "-")))


def _examine_configuration() -> Iterator[Finding]:
    """The file of the configuration, if there is one."""
    config = configuration()
    if config is None:
        return
    if config.problem is not None:
        yield Finding("configuration", "bad", "it cannot be used", str(config.problem))
    elif config.path is not None:
        yield Finding("configuration", "ok", str(config.path))


def _examine_records(where: str | None) -> Finding:
    from tilewright.records import open_or_read
    from tilewright.records.store import Group

    try:
        place = records_place(where)
        shown = str(place)
        if isinstance(place, Path) and not place.exists():
            return Finding("records", "ok", f"{shown}: none yet")
        store, refused = open_or_read(place)
        with store:
            groups = [group for group in store.groups() if isinstance(group, Group)]
    except TilewrightError as error:
        return Finding("records", "bad", "they cannot be read", str(error))
    count, tasks = sum(group.count for group in groups), len({group.query.task for group in groups})
    found = f"{shown}: {count:,} measurements of {tasks:,} tasks"
    if refused is not None:
        return Finding("records", "missing", found, f"what is measured will not be kept: {refused}")
    return Finding("records", "ok", found)


def _examine_folders() -> Iterator[Finding]:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    little = free < _LITTLE_SPACE
    remedy = "a tuning needs about 1 GiB; name another folder in TMPDIR" if little else ""
    yield Finding(
        "temporary files", "missing" if little else "ok", f"{folder}: {free / (1 << 30):.1f} GiB free", remedy
    )
