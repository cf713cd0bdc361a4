"""The configuration of commands: which file, which values, and what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from tilewright.cli import app
from tilewright.cli.boundary import command
from tilewright.cli.config import find_config, list_options, read_config
from tilewright.cli.verbosity import Verbosity, detail, remark, verbosity
from tilewright.errors import TilewrightError

OPTIONS = list_options(app)


def written(folder: Path, text: str, name: str = "tilewright.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_file_is_looked_for_up_to_the_root_of_the_repository(tmp_path: Path) -> None:
    inner = tmp_path / "repository" / "inner"
    inner.mkdir(parents=True)
    outside = written(tmp_path, "")
    assert find_config(inner) is None
    (inner.parent / ".git").mkdir()
    assert find_config(inner) is None
    project = written(inner.parent, "[tool.tilewright.tune]\nbudget = '1m'", "pyproject.toml")
    assert find_config(inner) == project
    written(inner, "[project]\nname = 'other'", "pyproject.toml")
    assert find_config(inner) == project
    own = written(inner.parent, "")
    assert find_config(inner) == own
    assert find_config(tmp_path) == outside


def test_the_table_of_a_project(tmp_path: Path) -> None:
    project = written(tmp_path, "[tool.tilewright.tune]\nbudget = '1m'", "pyproject.toml")
    assert read_config(project, OPTIONS).values["tune"] == {"budget": "1m"}


def test_a_project_whose_entry_is_no_table_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "[tool]\ntilewright = 3", "pyproject.toml")
    with pytest.raises(TilewrightError, match=r"write \[tool\.tilewright\]"):
        find_config(tmp_path)


def test_a_damaged_project_that_does_not_name_tilewright_is_passed_over(tmp_path: Path) -> None:
    project = written(tmp_path, "[project\nname = 'other'", "pyproject.toml")
    assert find_config(tmp_path) is None
    project.write_bytes(b"[project]\nname = '\xff' # tilewright")
    with pytest.raises(TilewrightError, match=r"pyproject\.toml .*0xff is no UTF-8 \(at line 2\)"):
        find_config(tmp_path)


@pytest.mark.parametrize("name", ["pyproject.toml", "tilewright.toml"])
def test_a_damaged_file_stops_what_needs_it_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    written(tmp_path, "[tool.tilewright]\n[tool.tilewright.tune\n", name)
    monkeypatch.chdir(tmp_path)
    for arguments in (["--version"], ["-h"], ["tune", "-h"], ["records", "ls", "--help"]):
        assert CliRunner().invoke(app, arguments).exit_code == 0, arguments
    records = ["--records", str(tmp_path / "r.db")]
    done = CliRunner().invoke(app, ["records", "ls", *records])
    assert done.exit_code == 2
    assert f"{name} cannot be read" in done.output
    assert "(at line 2, column" in done.output
    assert "--config /dev/null" in done.output
    assert "No such file" not in done.output
    done = CliRunner().invoke(app, ["doctor", *records])
    assert "ready to tune" not in done.output
    assert " ! configuration" in done.output
    assert "threads" in done.output
    done = CliRunner().invoke(app, ["--config", os.devnull, "records", "ls", *records])
    assert "cannot be read" not in done.output


def test_the_home_of_a_user_that_there_is_not_is_a_folder(tmp_path: Path) -> None:
    path = written(tmp_path, "[tune]\nout = '~no-such-user/out'")
    assert read_config(path, OPTIONS).values["tune"] == {"out": str(tmp_path / "~no-such-user/out")}


def test_values_reach_their_parameters_and_paths_are_those_of_the_file(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [shared]
        records = "r.db"
        seed = 7
        [tune]
        budget = "10m"
        trials = 30
        cost-model = "none"
        shape = ["x=1,3", "y=2"]
        out = "there"
        seed = 8
        [cost.train]
        out = "/m.npz"
        [records.ls]
        records = "postgresql://me@host/db"
        """,
    )
    config = read_config(path, OPTIONS)
    assert config.values["tune"] == {
        "budget": "10m",
        "trials": 30,
        "cost_model": "none",
        "shape": ["x=1,3", "y=2"],
        "out": str(tmp_path / "there"),
        "seed": 8,
        "records": str(tmp_path / "r.db"),
    }
    assert config.values["cost"] == {
        "train": {"out": "/m.npz", "records": str(tmp_path / "r.db"), "seed": 7},
        "eval": {"records": str(tmp_path / "r.db")},
    }
    assert config.values["bench"] == {"seed": 7}
    records = config.values["records"]
    assert isinstance(records, dict)
    assert records["ls"] == {"records": "postgresql://me@host/db"}
    assert "tune: budget = '10m'" in config.lines


def test_the_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_RECORDS", "other.db")
    config = read_config(written(tmp_path, "[tune]\nrecords = 'r.db'"), OPTIONS)
    assert config.values["tune"] == {"records": None}
    assert config.lines == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tun]\n", "there is no 'tun'; did you mean 'tune'?"),
        ("[tune]\nbugdet = '5m'", "there is no 'bugdet'; did you mean 'budget'?"),
        ("[tune]\ncost_model = 'none'", "did you mean 'cost-model'?"),
        ("[shared]\nrecord = 'r.db'", "did you mean 'records'?"),
        ("[shared]\nbudget = '5m'", "the keys are records, seed, quiet, verbose"),
        ("[tune]\ntrials = '30'", "trials is a whole number, but tune.trials in .* is '30'"),
        ("[tune]\ntrials = true", "trials is a whole number"),
        ("[tune]\nbudget = 300", "budget is a text"),
        ("[tune]\nout = 3", "out is a path, as a text"),
        ("[bench]\nblock-seconds = 'long'", "block-seconds is a number"),
        ("[tune]\nbudget = ['1m', '2m']", "budget has one value"),
        ("[tune]\nfix = [1]", "fix is a text"),
        ("tune = 3", r"write \[tune\]"),
        ("shared = 3", r"write \[shared\]"),
        ("[tune\n", "TOML file"),
        ("[records]\nlss = 3", r"a key of \[records\] in .* names a command, but there is no 'lss'; did you mean 'ls'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TilewrightError, match=says):
        read_config(written(tmp_path, text), OPTIONS)


def small_app(config: Path | None, seen: list[object]) -> typer.Typer:
    """An application with one command, which takes what it was given down."""
    small = typer.Typer()

    @command
    def work(
        method: Annotated[str | None, typer.Option()] = None, searcher: Annotated[str | None, typer.Option()] = None
    ) -> None:
        remark("a remark")
        detail("a detail")
        seen.append((method, searcher, verbosity()))

    small.command("work")(work)

    @small.callback()
    def options(context: typer.Context, quiet: bool = False, verbose: bool = False) -> None:
        work_options = {"work": list_options(small)["work"]}
        context.obj = read_config(config, work_options)
        context.default_map = context.obj.values

    return small


@pytest.mark.parametrize(
    ("arguments", "method", "searcher", "level"),
    [
        (["work"], "autotvm", None, Verbosity.VERBOSE),
        (["work", "--method", "gbfs"], "gbfs", None, Verbosity.VERBOSE),
        (["work", "--searcher", "random"], None, "random", Verbosity.VERBOSE),
        (["work", "--quiet"], "autotvm", None, Verbosity.QUIET),
        (["--quiet", "work"], "autotvm", None, Verbosity.QUIET),
    ],
)
def test_a_flag_beats_the_file(
    tmp_path: Path, arguments: list[str], method: str | None, searcher: str | None, level: Verbosity
) -> None:
    config = written(tmp_path, "[work]\nmethod = 'autotvm'\nverbose = true")
    seen: list[object] = []
    done = CliRunner().invoke(small_app(config, seen), arguments)
    assert seen == [(method, searcher, level)], repr(done.exception)
    assert ("a remark" in done.stderr) == (level is not Verbosity.QUIET)
    assert ("a detail" in done.stderr) == (level is Verbosity.VERBOSE) == (str(config) in done.stderr)


def test_quiet_and_verbose_exclude_each_other(tmp_path: Path) -> None:
    done = CliRunner().invoke(small_app(None, []), ["work", "-q", "-v"])
    assert done.exit_code == 2
    assert "exclude each other" in done.stderr


def test_a_command_runs_in_a_folder_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    done = CliRunner().invoke(app, ["records", "ls", "--records", str(tmp_path / "r.db")])
    assert done.exit_code == 2
    assert "there are no records in" in done.stderr


def test_the_command_reads_the_file(tmp_path: Path) -> None:
    config = written(tmp_path, "[tune]\nbudget = 'soon'")
    done = CliRunner().invoke(app, ["--config", str(config), "tune", "m.onnx"])
    assert done.exit_code == 2
    assert "a budget is a duration, but this is 'soon'" in done.stderr
