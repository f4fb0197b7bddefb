"""What every test gets: settings of its own, one native thread, reproducible random examples."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Before numpy loads: two tests at once on two cores must not start four threads each.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# No deadline: a busy machine is not a bug. Under CI the same examples each time: a red build can be repeated at home.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    """A developer's own STAYTRUE_* variables must not decide whether a test passes."""
    for variable in [name for name in os.environ if name.startswith("STAYTRUE_")]:
        monkeypatch.delenv(variable)
