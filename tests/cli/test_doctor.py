"""``tilewright doctor``: what is there, and what is missing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.test_bad_input import tilewright
from tilewright.cli.doctor import examine_target
from tilewright.errors import TargetError
from tilewright.target import Target
from tilewright.tuning.building import refuse_tuning


def test_a_machine_that_can_tune(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = tilewright("doctor", "--json", report, XDG_DATA_HOME=str(tmp_path / "data"), TVM_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("ready to tune\n")
    said = json.loads(report.read_text())
    assert said["able"]
    found = {finding["what"]: finding for finding in said["findings"]}
    assert {"processor", "vectors", "caches", "memory", "C compiler", "onnxruntime", "torch"} <= set(found)
    assert " in float32" in found["peak"]["found"]
    assert found["threads"]["found"] == f"1 of {os.cpu_count()} processors"
    assert found["records"]["found"].endswith("none yet")
    assert not (tmp_path / "data/tilewright/records.db").exists()


def test_what_stops_tuning_is_said_with_its_remedy(tmp_path: Path) -> None:
    records = tmp_path / "records.db"
    records.write_text("no records")
    done = tilewright("doctor", "--records", records, PATH=str(tmp_path), CC="")
    assert done.returncode == 2
    assert done.stdout.endswith("2 of these stop tuning (!)\n")
    assert "apt-get install gcc" in done.stdout
    assert str(records) in done.stdout


def test_the_version() -> None:
    done = tilewright("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("tilewright ")


def test_a_machine_whose_programs_do_not_run_here_cannot_tune() -> None:
    elsewhere = Target.parse("llvm:cortex-a76:aarch64-linux-gnu")
    processor = next(iter(examine_target(elsewhere)))
    with pytest.raises(TargetError) as refused:
        refuse_tuning(elsewhere)
    assert (processor.state, processor.remedy) == ("bad", str(refused.value))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("llvm:sapphirerapids:x86_64-linux-gnu", "of bytes by vpdpbusd, of bfloat16 by vdpbf16ps"),
        ("llvm:haswell:x86_64-linux-gnu", "of bytes by vpmaddwd, of bfloat16 by plain code"),
        ("llvm:cortex-a53:aarch64-linux-gnu", "of bytes by plain code, of bfloat16 by plain code"),
    ],
)
def test_instructions_for_dot_products_are_named(text: str, says: str) -> None:
    found = {finding.what: finding.found for finding in examine_target(Target.parse(text))}
    assert found["dot products"] == says


def test_what_a_virtual_machine_hides_is_named() -> None:
    hiding = replace(Target.parse(), without=("avx512bf16", "gfni"))
    assert "without avx512bf16 gfni" in next(iter(examine_target(hiding))).found
