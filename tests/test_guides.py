"""The examples of the guides about options, results pages and activations are run."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import tilewright
from tests.pages import DOCS, ROOT, names, programs
from tilewright import Measurement, Outcome, Task, TilewrightError, open_store

GOOD = Measurement("slow", "cpu", "contraction/1", (1, 2), Outcome.OK, (0.5,))


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A store of three tasks, one of which has no latency."""
    file = tmp_path / "records.db"
    with open_store(file) as store:
        failed = replace(GOOD, task="failed", outcome=Outcome.RUN_CRASHED, repeats=())
        store.add([GOOD, replace(GOOD, task="fast", repeats=(0.25,)), failed])
        for name in ("slow", "fast", "failed"):
            store.describe(Task(name, f"the {name} one", "auto", 1.0, ""))
    return file


def test_the_option_has_an_effect(records: Path, tmp_path: Path) -> None:
    defined = names("\n".join(programs("how-to/add-an-option.md")))
    lines, given = defined["lines"], ["--records", str(records)]
    assert len(lines(*given)) == 3
    assert [line.split()[1] for line in lines(*given, "--fastest", "1")] == ["fast"]
    assert [line.split()[1] for line in lines(*given, "--fastest", "9")] == ["fast", "slow"]
    with pytest.raises(TilewrightError, match="at least 1, but 0"):
        defined["select_fastest"]([], 0)
    with pytest.raises(AssertionError, match="correct --fastest"):
        lines(*given, "--fastest", "0")


def test_the_results_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(ROOT)
    script, test = programs("how-to/add-a-results-page.md")
    file = tmp_path / "luck.json"
    names(script)["main"](["--counts", "4,64", "--seeds", "2", "--json", str(file)])
    found = json.loads(file.read_text())
    assert len(found["rows"]) == len(list((ROOT / "bench/tables").glob("*.parquet")))
    names(test)["check"](found)
    assert len(capsys.readouterr().out.splitlines()) == len(found["rows"]) + 1


def test_the_activation(capsys: pytest.CaptureFixture[str]) -> None:
    names("\n".join(programs("how-to/add-an-activation.md")))
    assert float(capsys.readouterr().out) < 1e-6 * 20.0


def test_guides_need_nothing_but_what_is_public() -> None:
    public = {"tilewright", *re.findall(r"`(tilewright\.\w+)`", tilewright.__doc__ or "")}
    for page in sorted((DOCS / "how-to").glob("write-your-own-*.md")):
        for program in programs(f"how-to/{page.name}"):
            found = re.findall(r"^from (tilewright[\w.]*) import (?:\(([^)]*)\)|(.*))", program, re.MULTILINE)
            for module, several, one in found:
                imported = [name.strip() for name in (several or one).split(",") if name.strip()]
                for name in imported:
                    assert module in public, f"{page.name} imports from {module}"
                    assert name in importlib.import_module(module).__all__, f"{page.name} imports {name} from {module}"
