"""What is followed: a branch here, or one of a remote that may not answer."""

from __future__ import annotations

import subprocess

import pytest

from staytrue.errors import NotFound
from staytrue.loop.follow import follower
from staytrue.store.store import Store


def git(folder, *arguments: str) -> str:
    who = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    argv = ["git", *who, *arguments]
    return subprocess.run(argv, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def clone(tmp_path):
    """A clone of a repository with one commit."""
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "app.py").write_text("x = 1\n")
    git(origin, "init", "-q", "-b", "main")
    git(origin, "add", "-A")
    git(origin, "commit", "-q", "-m", "Begin")
    git(tmp_path, "clone", "-q", str(origin), "clone")
    return tmp_path / "clone"


def test_what_is_known_of_a_remote_that_does_not_answer_holds(tmp_path, clone):
    store = Store(tmp_path / "store")
    followed = follower(store, clone / "app.py", branch="origin/main")
    assert followed is not None
    (tmp_path / "origin").rename(tmp_path / "gone")
    followed._fetched_s = float("-inf")

    assert followed.tip() == git(clone, "rev-parse", "origin/main")
    store.close()


def test_a_new_commit_of_a_remote_is_seen(tmp_path, clone):
    store = Store(tmp_path / "store")
    followed = follower(store, clone / "app.py", branch="origin/main")
    assert followed is not None
    git(tmp_path / "origin", "commit", "-q", "--allow-empty", "-m", "More")
    followed._fetched_s = float("-inf")

    assert followed.tip() == git(tmp_path / "origin", "rev-parse", "main")
    store.close()


def test_a_branch_that_is_not_there_is_refused_by_name(tmp_path, clone):
    store = Store(tmp_path / "store")
    with pytest.raises(NotFound, match=r"ST805.*nowhere"):
        follower(store, clone / "app.py", branch="nowhere")
    store.close()
