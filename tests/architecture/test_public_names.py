"""The public names, written out a second time: adding or dropping one is a decision, not a side effect."""

from __future__ import annotations

import inspect

import pytest

import staytrue

PUBLIC = [
    "App",
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
