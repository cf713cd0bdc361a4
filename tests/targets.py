"""The targets that tests compile for.

``TILEWRIGHT_TEST_LANES=4``, ``8`` or ``16`` replaces this machine by x86-64-v2, -v3 or -v4. So one machine shows what
others would: how many float32 numbers a vector holds decides layouts, tiles, and what is padded.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import pytest

from tilewright.target import Target

__all__ = ["LANES", "host_target", "lack", "lane_target", "needs", "require"]

#: The level of x86-64 whose vector registers hold so many float32 numbers.
LANES = {4: "x86-64-v2", 8: "x86-64-v3", 16: "x86-64-v4"}
_VARIABLE = "TILEWRIGHT_TEST_LANES"
#: LLVM's names of extensions that Linux spells otherwise.
_FLAGS = {"sse4.2": ("sse4_2",), "avx512f": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")}
_FLAGS |= {"avx512vnni": ("avx512_vnni",), "neon": ()}


@cache
def lane_target(lanes: int) -> Target:
    """The x86-64 level whose vectors have ``lanes`` float32 numbers; code for it can be compiled on any machine."""
    triple = "" if platform.machine() in ("x86_64", "AMD64") else ":x86_64-linux-gnu"
    target = Target.parse(f"llvm:{LANES[lanes]}{triple}")
    assert target.lanes == lanes
    return target


@cache
def host_target() -> Target:
    """This machine, or what ``TILEWRIGHT_TEST_LANES`` makes of it."""
    wanted = os.environ.get(_VARIABLE, "")
    if not wanted:
        return Target.parse()
    if wanted not in map(str, LANES):
        raise pytest.UsageError(f"{_VARIABLE} is 4, 8 or 16, but it is {wanted!r}; leave it out to test this machine")
    return lane_target(int(wanted))


@cache
def lack(target: Target) -> str:
    """Why code for ``target`` cannot run here, or ""."""
    if target.triple:
        return f"{target.mcpu} is a CPU of {target.triple}, and this machine is {platform.machine()}"
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    found = {word for line in lines if line.startswith("flags") for word in line.partition(":")[2].split()}
    wanted = [flag for feature in target.features for flag in _FLAGS.get(feature, (feature,))]
    missing = sorted({*wanted} - found) if found else []
    return f"{target.mcpu} needs {', '.join(missing)}, which this processor has not" if missing else ""


def needs(target: Target) -> pytest.MarkDecorator:
    """Marks tests that run code for ``target``: they are skipped, with the reason, where this machine cannot."""
    return pytest.mark.skipif(bool(lack(target)), reason=lack(target))


def require(target: Target) -> None:
    """The same inside a test or a fixture: skips it."""
    if lack(target):
        pytest.skip(lack(target))
