"""Env: versions are identity, the machine is not."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

import pytest

from staytrue.errors import Corrupt
from staytrue.store.env import EnvDiff, env_diff, env_id, environment, platform_note
from staytrue.store.objects import LocalObjects


def install(folder, name: str, text: str) -> None:
    made = folder / f"{name}.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text(text)


def test_the_env_holds_the_interpreter_and_every_distribution_in_order():
    env = environment()
    assert env["python"] == platform.python_version()
    names = [name for name, _ in env["distributions"]]
    assert names == sorted(set(names))
    assert ["numpy", metadata.version("numpy")] in env["distributions"]


def test_the_machine_is_told_apart_and_is_not_in_the_identity():
    env = environment()
    assert set(env) == {"kind", "python", "implementation", "distributions"}
    assert platform_note()["system"] == platform.system()


def test_the_same_env_is_the_same_object(tmp_path):
    objects = LocalObjects(tmp_path)
    assert env_id(objects) == env_id(objects)
    assert objects.get_document(env_id(objects, ["numpy"])) == environment(["numpy"])
    assert env_id(objects, ["numpy"]) != env_id(objects)


def test_of_two_installations_the_one_that_imports_find_counts(tmp_path, monkeypatch):
    # given
    install(tmp_path / "first", "My_Lib.x-2", "Metadata-Version: 2.1\nName: My_Lib.x\nVersion: 2\n")
    install(tmp_path / "second", "my_lib_x-1", "Metadata-Version: 2.1\nName: my-lib-x\nVersion: 1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "second")])
    # then
    assert environment()["distributions"] == [["my-lib-x", "2"]]


def test_damaged_metadata_is_no_error(tmp_path, monkeypatch):
    # given
    install(tmp_path, "nameless-1", "")
    install(tmp_path, "versionless-1", "Metadata-Version: 2.1\nName: versionless\n")
    (tmp_path / "empty-1.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    # then
    assert environment()["distributions"] == [["versionless", "unknown"]]


def test_a_diff_names_what_was_added_removed_and_changed():
    # given
    old = {"implementation": "cpython", "python": "3.11.7", "distributions": [["a", "1"], ["b", "1"]]}
    new = {"implementation": "cpython", "python": "3.13.0", "distributions": [["b", "2"], ["c", "1"]]}
    # when
    diff = env_diff(old, new)
    # then
    assert diff == EnvDiff(
        python=("cpython 3.11.7", "cpython 3.13.0"), added={"c": "1"}, removed={"a": "1"}, changed={"b": ("1", "2")}
    )
    assert diff.sentences() == ("cpython 3.11.7 -> cpython 3.13.0", "a 1 -> absent", "b 1 -> 2", "c absent -> 1")
    assert env_diff(old, old).sentences() == ()


@pytest.mark.parametrize("document", [{}, {"kind": "code"}, {"implementation": "x", "python": "y", "distributions": 5}])
def test_what_is_no_env_cannot_be_compared(document):
    with pytest.raises(Corrupt) as caught:
        env_diff(environment(), document)
    assert caught.value.code == "ST455"
