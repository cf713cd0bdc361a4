"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The machine that runs this may be busy with measurements: a slow example says nothing about the code.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
