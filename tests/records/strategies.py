"""Measurements and tasks for hypothesis. Few keys, so that they collide."""

from __future__ import annotations

from hypothesis import strategies as st

from tilewright.measure.outcome import Measurement, Outcome
from tilewright.records.store import Query
from tilewright.task import Task

keys = st.sampled_from(["a", "b", "Ω'; DROP TABLE tasks; --"])
targets = st.sampled_from(["znver3-2x", "skylake-8x"])
templates = st.sampled_from(["contraction/1", "contraction/2"])
queries = st.builds(Query, st.none() | keys, st.none() | targets, st.none() | templates)
seconds = st.floats(min_value=0, max_value=1e6, allow_nan=False)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@st.composite
def measurements(draw: st.DrawFn) -> Measurement:
    outcome = draw(st.sampled_from([Outcome.OK, Outcome.OK, *Outcome]))
    # From few latencies ties arise, from all floats rounding errors would.
    latency = st.sampled_from([1e-3, 2e-3]) | seconds
    return Measurement(
        task=draw(keys),
        target=draw(targets),
        template=draw(templates),
        config=tuple(draw(st.lists(st.integers(0, 2) | st.integers(0, 2**31 - 1), max_size=4))),
        outcome=outcome,
        repeats=tuple(draw(st.lists(latency, min_size=1, max_size=3))) if outcome is Outcome.OK else (),
        message=draw(texts),
        time=draw(st.floats(-1e12, 1e12)),
        elapsed=draw(seconds),
    )


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    ir = draw(st.sampled_from(["", "{}", "zlib:", "{" + "x\u03a9" * 30_000 + "}"]) | texts)
    return Task(key=draw(keys), name=draw(texts), kind="auto", flop=draw(st.floats(0, 1e15)), ir=ir)
