"""The public names, written out a second time: adding or dropping one is a decision, not a side effect."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest

import staytrue

PUBLIC = [
    "App",
    "Conflict",
    "Corrupt",
    "Decision",
    "InvalidInput",
    "Known",
    "NotFound",
    "Refused",
    "StaytrueError",
    "Store",
    "Unavailable",
    "__version__",
    "open",
]


def test_the_public_names_are_these():
    assert sorted(staytrue.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_loads_and_is_documented(name):
    thing = getattr(staytrue, name)

    assert name.startswith("__") or inspect.getdoc(thing)


def test_an_unknown_name_is_an_attribute_error_as_everywhere_in_python():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = staytrue.no_such_name


def test_dir_offers_what_all_lists():
    assert set(staytrue.__all__) <= set(dir(staytrue))


def test_the_version_is_the_one_that_is_built():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert staytrue.__version__ == project["version"]
