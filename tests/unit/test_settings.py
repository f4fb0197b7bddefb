"""Where a setting comes from."""

from __future__ import annotations

import pytest

from staytrue.errors import InvalidInput
from staytrue.settings import setting


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("STAYTRUE_APP", raising=False)
    (tmp_path / "pyproject.toml").write_text('[tool.staytrue]\napp = "src/rates.py:app"\nslots = 3\n')
    return tmp_path


def test_a_flag_wins_over_the_environment_over_the_project_over_the_default(project, tmp_path, monkeypatch):
    nowhere = tmp_path / "empty"
    nowhere.mkdir()
    assert setting("app", folder=nowhere) == "app.py"
    assert setting("app", folder=project) == "src/rates.py:app"
    monkeypatch.setenv("STAYTRUE_APP", "other.py")
    assert setting("app", folder=project) == "other.py"
    assert setting("app", flag="flag.py", folder=project) == "flag.py"


def test_a_number_may_stand_as_a_number(project):
    assert setting("slots", folder=project) == "3"


@pytest.mark.parametrize("value", ["-1", "many", "1.5", "99999"])
def test_slots_that_are_no_whole_number_are_refused(value, monkeypatch):
    monkeypatch.setenv("STAYTRUE_SLOTS", value)
    with pytest.raises(InvalidInput, match="ST139"):
        setting("slots")


@pytest.mark.parametrize("text", ["[tool.staytrue", "\udcff", "[tool.staytrue]\napp = [1]"])
def test_a_project_file_that_can_not_be_read_is_named(tmp_path, text):
    (tmp_path / "pyproject.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidInput, match="ST139"):
        setting("app", folder=tmp_path)


def test_a_project_without_our_table_says_nothing(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool]\nstaytrue = 3\n")
    assert setting("app", folder=tmp_path) == "app.py"


def test_an_unknown_setting_is_named():
    with pytest.raises(InvalidInput, match=r"ST101 .*'colour'"):
        setting("colour")
