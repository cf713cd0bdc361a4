"""What went wrong is told once."""

from __future__ import annotations

from tilewright.training.notes import Notes


def test_texts_are_told_once_whatever_numbers_they_have() -> None:
    notes = Notes()
    for count in (3, 12):
        notes.add(f"{count} measurements will be forgotten")
        notes.add(f"executable {count} is not kept", "executables")
        notes.add("the records have vanished")
    taken = ("3 measurements will be forgotten", "executable 3 is not kept", "the records have vanished")
    assert notes.take() == taken
    assert notes.take() == ()
