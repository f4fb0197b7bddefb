"""The reserve: made while there is room, given back before there is none."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from staytrue.errors import Unavailable
from staytrue.store.reserve import disk_of, disk_state, keep_reserve, reserve_path

MB = 1 << 20


@pytest.fixture
def root(tmp_path):
    """A folder on a disk of 64 MiB, so that its reserve is 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = shutil.which("mount")
    said = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=65536k", "staytrue-test", place], check=False, capture_output=True
    )
    if sys.platform != "linux" or not said or said.returncode:
        pytest.skip("mounting a small tmpfs is not allowed here (it takes root)")
    yield place
    subprocess.run([str(shutil.which("umount")), "--lazy", place], check=True)


def fill(root, *, left):
    """A file that leaves so many bytes free."""
    filler = root / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(root).free - left))
    return filler


def test_a_small_disk_has_a_small_reserve_that_is_really_there(root):
    before = shutil.disk_usage(root).free

    found = keep_reserve(root)

    assert (found.reserve_bytes, found.held_bytes, found.state) == (MB, MB, "well")
    assert before - shutil.disk_usage(root).free == MB
    assert keep_reserve(root) == found


def test_it_is_given_back_before_the_disk_is_full_and_made_again_when_there_is_room(root):
    keep_reserve(root)
    story = []
    for left in (2.5, 1.5, 0.7):  # beside the reserve
        filler = fill(root, left=int(left * MB))
        found = keep_reserve(root)
        story.append((found.state, found.held_bytes))
        filler.unlink()
    filler = fill(root, left=MB // 4)
    nearly_full = disk_state(root)
    filler.unlink()

    again = keep_reserve(root)

    assert story == [("well", MB), ("low", MB), ("low", 0)]
    assert nearly_full == "full"
    assert (again.state, again.held_bytes) == ("well", MB)


def test_what_was_given_back_can_be_written(root):
    keep_reserve(root)
    fill(root, left=0)
    with pytest.raises(OSError, match="space"):
        (root / "more").write_bytes(bytes(MB // 2))

    keep_reserve(root)

    (root / "more").write_bytes(bytes(MB // 2))


def test_a_setting_says_how_large_and_none_at_all(root, monkeypatch):
    keep_reserve(root)

    monkeypatch.setenv("STAYTRUE_RESERVE", "0")

    assert keep_reserve(root).held_bytes == 0
    assert not reserve_path(root).exists()
    fill(root, left=0)
    assert disk_state(root) == "well"  # whoever keeps nothing aside is not told what to do


def test_a_reserve_that_can_not_be_made_is_none(root):
    (root / "work").write_text("a file where a folder should be")

    assert keep_reserve(root).held_bytes == 0


def test_a_disk_that_does_not_answer_is_an_error_of_ours(tmp_path):
    with pytest.raises(Unavailable) as caught:
        disk_of(tmp_path / "nowhere")

    assert caught.value.code == "ST403"
