"""What a machine counts as in a fleet, and whose code a head can run."""

from __future__ import annotations

import platform
from dataclasses import replace

import pytest

from tilewright.errors import FleetError, TargetError
from tilewright.fleet.machine import NODE_BUILDER, NODE_TARGET, is_builder, own_target
from tilewright.fleet.place import is_own
from tilewright.fleet.wire import kind_of
from tilewright.target import Target

x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="names levels of x86-64")


def test_a_machine_counts_as_itself() -> None:
    own = own_target()
    assert own == Target.parse()
    assert is_own(own)
    assert is_own(replace(own, cores=own.cores + 6, caches="cold"))  # the head runs as many threads as the nodes have
    assert not is_own(replace(own, mcpu="znver9"))
    assert not is_own(replace(own, l3=own.l3 + 1))


def test_hidden_extensions_make_another_kind() -> None:
    """Two virtual machines of one CPU may hide different extensions, so code of one need not run on the other."""
    own = own_target()
    other = replace(own, without=(*own.without, "zu"))
    assert kind_of(other) != kind_of(own)
    assert not is_own(other)


@x86
def test_a_machine_may_count_as_an_older_one(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Target.parse()
    monkeypatch.setenv(NODE_TARGET, "x86-64-v2")
    old = own_target()
    assert (old.mcpu, old.lanes, old.machine, old.l3) == ("x86-64-v2", 4, own.machine, own.l3)
    assert is_own(old)
    assert not is_own(own)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pentium-fantasy", "but a target is 'native', 'llvm:MCPU'.*'pentium-fantasy'; correct or unset it"),
        ("llvm:pentium-fantasy", "LLVM knows no CPU called 'pentium-fantasy'"),
        ("llvm:cortex-a76:aarch64-linux-gnu", "code for aarch64-linux-gnu does not run here; name another one"),
        ("native:cold", "native:cold says how candidates are timed"),
    ],
)
def test_what_no_machine_counts_as(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "aarch64" in text and platform.machine() == "aarch64":
        pytest.skip("is a machine of this architecture")
    monkeypatch.setenv(NODE_TARGET, text)
    with pytest.raises(TargetError, match=rf"{NODE_TARGET} names .*{message}"):
        own_target()


def test_a_node_is_a_builder_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, expected in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv(NODE_BUILDER, text)
        assert is_builder() is expected
    monkeypatch.setenv(NODE_BUILDER, "yes")
    with pytest.raises(FleetError, match="is 1 on a node that only builds, but it is 'yes'; correct or unset it"):
        is_builder()
