"""What all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.records import server

# The machine that runs this may be busy with measurements: a slow example says nothing about the code. The examples are
# the same every time: whether a change passes is no matter of luck. `HYPOTHESIS_PROFILE=thorough` looks for new ones.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile(
    "thorough", parent=settings.get_profile("default"), max_examples=2000, derandomize=False, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# A job that a shell put into the background ignores Ctrl-C, and so does all that it starts; some tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[server.Server]:
    """A private PostgreSQL server."""
    if (lack := server.missing()) is not None:
        pytest.skip(lack)
    with server.running() as started:
        yield started
