"""Forms are read once for each task, whether they fit or not."""

from __future__ import annotations

import pytest

from tilewright.errors import FormError, SpaceError
from tilewright.space.template import FormReader
from tilewright.task import Task


class Counted:
    """Reads the length of a task's text; an odd one is of another form, and an empty one cannot be read."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self, task: Task) -> int:
        self.reads += 1
        if not task.ir:
            raise SpaceError("it cannot be read")
        if len(task.ir) % 2:
            raise FormError(f"it is even, but it has {len(task.ir)} characters")
        return len(task.ir)


def task(ir: str) -> Task:
    return Task("the same key", "a task", "auto", 1.0, ir)


def test_a_form_is_read_once() -> None:
    read = Counted()
    reader = FormReader(read)
    assert reader.fits(task("ab"))
    assert [reader(task("ab")) for _ in range(3)] == [2, 2, 2]
    assert read.reads == 1
    assert reader(task("abcd")) == 4  # another function, although its key is the same


def test_a_function_of_another_form_is_refused_again_without_reading() -> None:
    read = Counted()
    reader = FormReader(read)
    for _ in range(2):
        assert not reader.fits(task("abc"))
        with pytest.raises(FormError, match="even, but it has 3 characters"):
            reader(task("abc"))
    assert read.reads == 1


def test_what_cannot_be_read_is_no_other_form() -> None:
    reader = FormReader(Counted())
    for ask in (reader, reader.fits):
        with pytest.raises(SpaceError, match="cannot be read") as caught:
            ask(task(""))
        assert not isinstance(caught.value, FormError)
