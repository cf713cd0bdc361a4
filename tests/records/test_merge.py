"""Merging records of unknown origin: what is damaged, what is interrupted, what is repeated."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.contraction.test_space import task
from tests.records import strategies as some
from tests.records.test_sqlite import TASK, edit, measured
from tilewright.errors import RecordsError
from tilewright.measure.outcome import Measurement
from tilewright.records import open_store
from tilewright.records.memory import MemoryStore
from tilewright.records.merge import Merged, merge
from tilewright.records.store import Query
from tilewright.task import Task

EVERYTHING = Query()


class Failing(MemoryStore):
    """A store whose reading fails after some measurements."""

    def __init__(self, after: int, error: type[BaseException]) -> None:
        super().__init__()
        self.left, self.error = after, error

    def read(self, query: Query) -> Iterator[Measurement]:
        for measurement in super().read(query):
            if self.left == 0:
                raise self.error("the connection is lost")
            self.left -= 1
            yield measurement


def store_of(measurements: list[Measurement]) -> MemoryStore:
    store = MemoryStore()
    store.add(measurements)
    return store


def counts(store: MemoryStore) -> Counter[Measurement]:
    return Counter(store.scan(EVERYTHING))


@given(theirs=st.lists(some.measurements(), max_size=12), mine=st.lists(some.measurements(), max_size=6))
def test_a_merge_adds_each_once_and_loses_nothing(theirs: list[Measurement], mine: list[Measurement]) -> None:
    source, own = store_of(theirs + theirs[:3]), store_of(mine + theirs[2:4])
    before = counts(own)
    first = merge(source, own)
    after = counts(own)
    timed = {m for m in theirs if not m.ok or m.seconds > 0}
    assert after == before | Counter(timed - set(before))
    assert first.read == len(theirs + theirs[:3]) == first.new + first.known + first.refused.total()
    assert first.new == len(timed - set(before))
    second = merge(source, own)
    assert (second.new, second.tasks) == (0, 0)
    assert counts(own) == after


@settings(max_examples=10)
@given(after=st.integers(0, 2500), error=st.sampled_from([RecordsError, KeyboardInterrupt]))
def test_an_interrupted_merge_goes_on_where_it_was(after: int, error: type[BaseException]) -> None:
    everything = [measured(f"cpu{index % 3}", index) for index in range(2500)]
    source, own, merged = Failing(after, error), MemoryStore(), Merged()
    source.add(everything)
    try:
        merge(source, own, merged=merged)
    except error:
        assert merged.read == after
    assert merged.new == len(list(own.scan(EVERYTHING))) >= after // 1000 * 1000
    source.left = -1
    rest = merge(source, own)
    assert rest.known == merged.new
    assert counts(own) == Counter(everything)


def test_damaged_rows_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with open_store(path) as store:
        store.add([measured("a", index) for index in range(20)])
    changes = [
        "config = '[1.5]'", "config = '[' || hex(zeroblob(2000000))", "repeats = '[NaN]'", "repeats = '[0]'",
        "repeats = '[-1]'", "outcome = 'excellent'", "config = CAST(x'5bff5d' AS TEXT)", "time = 'now'",
        "elapsed = 1e300", "message = x'00'", "task = CAST(x'ff' AS TEXT)", "task = ''", "target = hex(zeroblob(999))",
        "config = '__import__(\"os\")'",
    ]  # fmt: skip
    for number, change in enumerate(changes, start=1):
        edit(path, f"UPDATE measurements SET {change} WHERE id = {number}")
    # A damaged message does not damage the measurement.
    edit(path, "UPDATE measurements SET message = CAST(x'ff' AS TEXT) || hex(zeroblob(9999)) WHERE id = 15")
    own = store_of([measured("b", 0)])
    with open_store(path, writable=False) as source:
        merged = merge(source, own)
        again = merge(source, own)
    assert (merged.read, merged.new, merged.known) == (20, 6, 0)
    assert (again.read, again.new, again.known) == (20, 0, 6)
    assert merged.refused.total() == len(changes)
    assert merged.refused == again.refused
    assert {m.config[0] for m in own.scan(Query(target="a"))} == set(range(14, 20))
    assert list(own.scan(Query(target="b"))) == [measured("b", 0)]


def test_reasons_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with open_store(path) as store:
        store.add([measured("a", index) for index in range(100)])
    edit(path, "UPDATE measurements SET outcome = 'odd' || id")
    with open_store(path, writable=False) as source:
        refused = merge(source, MemoryStore()).refused
    assert len(refused) == 21
    assert refused["for other reasons"] == 80


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path, whole = tmp_path / "records.db", [measured("a", index) for index in range(3000)]
    with open_store(path) as store:
        store.add(whole)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    own = store_of(whole[:1])
    with pytest.raises(RecordsError, match=r"records\.db"), open_store(path, writable=False) as source:
        merge(source, own)
    assert counts(own) <= Counter(whole)
    assert counts(own)[whole[0]] == 1


def test_a_foreign_description_replaces_none() -> None:
    real = replace(task("dense 5"), key="real")
    theirs, mine = MemoryStore(), MemoryStore()
    for described in (real, replace(TASK, key="known", ir=real.ir), replace(TASK, key="odd", ir='{"nodes": []}')):
        theirs.describe(described)
    theirs.describe(replace(TASK, key="named", name="theirs", ir=real.ir))
    known = Task("known", "mine", "auto", 1.0, "{}")
    mine.describe(known)
    mine.describe(Task("named", "mine", "auto", 1.0, ""))
    merged = merge(theirs, mine)
    assert merged.tasks == 3
    assert merged.refused_tasks.total() == 1
    found = {described.key: described for described in mine.read_tasks()}
    assert found["known"] == known
    assert found["named"] == Task("named", "mine", "auto", 1.0, real.ir)
    assert found["real"] == real
    assert found["odd"] == replace(TASK, key="odd", ir="")
    assert merge(theirs, mine).tasks == 0


def test_only_tasks_of_the_wanted_target() -> None:
    theirs, mine = store_of([measured("a", 0), replace(measured("b", 0), task="u")]), MemoryStore()
    for key in ("t", "u"):
        theirs.describe(replace(TASK, key=key, ir=""))
    merged = merge(theirs, mine, targets=["b"])
    assert (merged.new, merged.left_out, merged.tasks) == (1, 1, 1)
    assert [described.key for described in mine.read_tasks()] == ["u"]


def test_a_damaged_task_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    with open_store(path) as store:
        for key in ("a", "b", "c", "d"):
            store.describe(replace(TASK, key=key, ir=""))
    connection = sqlite3.connect(path)
    connection.execute("UPDATE tasks SET ir = 'zlib:AAAA' WHERE key = 'a'")
    connection.execute("UPDATE tasks SET name = CAST(x'ff' AS TEXT) WHERE key = 'b'")
    connection.execute("UPDATE tasks SET flop = 'many' WHERE key = 'c'")
    connection.commit()
    connection.close()
    with open_store(path, writable=False) as source:
        merged = merge(source, MemoryStore())
    assert (merged.tasks, merged.refused_tasks.total()) == (1, 3)
