"""Numbers in messages agree with their nouns, and errors are told in words."""

from __future__ import annotations

from tilewright.wording import counted, describe_error, did_you_mean


def test_a_noun_follows_its_number() -> None:
    assert [counted(n, "task") for n in (0, 1, 2, "?")] == ["0 tasks", "1 task", "2 tasks", "? tasks"]


def test_an_error_is_told_in_words() -> None:
    assert describe_error(KeyError("num_heads")) == "'num_heads' is missing"
    assert describe_error(AssertionError()) == "AssertionError"
    assert describe_error(ValueError("axis")) == "ValueError: axis"
    assert describe_error(RuntimeError("\n  no such shape\nat line 7")) == "no such shape"


def test_an_error_of_a_compiler_is_told_without_its_source() -> None:
    check = RuntimeError("Check failed: (!use_count_.count(v)) is false: variable i has been used before definition!")
    assert describe_error(check) == "variable i has been used before definition!"
    unknown = RuntimeError(
        'unknown intrinsic ir.Op(span=None, ty=ir.Type(span=None), name="tirx.sinh", description="", arguments=(), '
        'attrs_type_key="", num_inputs=1, support_level=10)'
    )
    assert describe_error(unknown) == "unknown intrinsic tirx.sinh"


def test_a_mistyped_name_is_corrected() -> None:
    names = ("schedule_sharing", "autotvm", "epsilon-greedy")
    assert did_you_mean("autotmv", names) == "; did you mean 'autotvm'?"
    assert did_you_mean("Schedule-Sharing", names) == "; did you mean 'schedule_sharing'?"
    assert did_you_mean("epsilon_greedy", names) == "; did you mean 'epsilon-greedy'?"
    assert did_you_mean("ansor", names) == ""
