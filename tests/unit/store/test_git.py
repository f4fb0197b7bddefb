"""What a repository says of its branches, read from real repositories: packed, rewritten, detached, torn."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from staytrue.errors import NotFound, Unavailable
from staytrue.store.git import Head, open_repository

AUTHOR = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


class Repo:
    """A repository in a folder, driven by git itself."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main", *arguments)

    def git(self, *arguments: str) -> str:
        env = {**os.environ, **AUTHOR, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        argv = ["git", *arguments]
        done = subprocess.run(argv, cwd=self.folder, env=env, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def commit(self, message: str = "change", **files: str) -> str:
        for name, text in files.items():
            place = self.folder / name.replace("__", "/").replace("_py", ".py")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repo(tmp_path):
    return Repo(tmp_path / "repo")


def test_a_repository_before_its_first_commit_has_a_branch_and_no_commit(repo):
    found = open_repository(repo.folder)

    assert found.head() == Head(branch="main", commit=None)
    assert found.tip("main") is None
    with pytest.raises(NotFound, match="ST833"):
        found.commit("HEAD")


def test_the_tip_of_a_branch_is_its_newest_commit(repo):
    first = repo.commit(app_py="1")
    found = open_repository(repo.folder)

    assert found.tip("main") == first
    assert found.tip("main") != repo.commit(app_py="2") == found.tip("main")
    assert found.tip("HEAD") == found.commit("main") == found.head().commit


def test_packed_refs_are_read_and_a_loose_one_wins_over_them(repo):
    old = repo.commit(app_py="1")
    repo.git("branch", "feature/x")
    repo.git("pack-refs", "--all", "--prune")
    found = open_repository(repo.folder)

    assert not (repo.folder / ".git/refs/heads/main").exists()
    assert found.tip("main") == found.tip("feature/x") == old
    new = repo.commit(app_py="2")
    assert found.tip("main") == new
    assert found.tip("feature/x") == old
    assert found.tip("feature") is None


def test_a_tip_is_read_without_starting_git(repo, monkeypatch):
    commit = repo.commit(app_py="1")
    found = open_repository(repo.folder)
    monkeypatch.setenv("PATH", "/nowhere")

    assert found.tip("main") == commit
    with pytest.raises(Unavailable, match="ST830"):
        open_repository(repo.folder)


def test_a_deleted_branch_has_no_tip(repo):
    repo.commit(app_py="1")
    repo.git("checkout", "-q", "-b", "gone")
    repo.commit(app_py="2")
    repo.git("checkout", "-q", "main")
    found = open_repository(repo.folder)

    assert found.tip("gone")
    repo.git("branch", "-D", "gone")
    assert found.tip("gone") is None


def test_a_detached_head_names_a_commit_and_no_branch(repo):
    first = repo.commit(app_py="1")
    repo.commit(app_py="2")
    repo.git("checkout", "-q", "--detach", first)

    assert open_repository(repo.folder).head() == Head(branch=None, commit=first)


def test_a_second_work_tree_has_its_own_head_and_the_same_branches(repo, tmp_path):
    main = repo.commit(app_py="1")
    repo.git("worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    (tmp_path / "side" / "app.py").write_text("2")
    side = Repo.__new__(Repo)
    side.folder = tmp_path / "side"
    commit = side.commit(app_py="2")
    found = open_repository(tmp_path / "side")

    assert found.head() == Head(branch="side", commit=commit)
    assert found.tip("main") == main
    assert open_repository(repo.folder).tip("side") == commit


def test_an_app_in_a_sub_folder_knows_where_it_lies_and_which_of_its_files_changed(repo):
    old = repo.commit(services__prices__app_py="1", README_py="a")
    new = repo.commit(services__prices__app_py="2", services__prices__ünï_py="ä", README_py="b")
    found = open_repository(repo.folder / "services" / "prices")

    assert found.prefix == "services/prices"
    assert found.changed(old, new) == ("app.py", "ünï.py")


def test_a_branch_that_grew_was_set_back_or_was_rewritten_is_told_apart(repo):
    first = repo.commit(app_py="1")
    second = repo.commit(app_py="2")
    repo.git("reset", "-q", "--hard", first)
    other = repo.commit(app_py="3")
    found = open_repository(repo.folder)

    assert found.move(first, first) == "same"
    assert found.move(first, second) == "forward"
    assert found.move(second, first) == "back"
    assert found.move(second, other) == "rewritten"
    assert found.move("1" * 40, other) == "gone"


def test_a_rewritten_commit_that_git_threw_away_is_gone(repo):
    repo.commit(app_py="1")
    lost = repo.commit(app_py="2")
    repo.git("reset", "-q", "--hard", "HEAD~1")
    new = repo.commit(app_py="3")
    repo.git("reflog", "expire", "--expire=now", "--all")
    repo.git("gc", "-q", "--prune=now")
    found = open_repository(repo.folder)

    assert found.tip("main") == new
    assert found.move(lost, new) == "gone"


def test_a_fetch_brings_a_remote_branch_also_after_a_force_push_and_says_when_it_was_deleted(repo, tmp_path):
    origin = Repo(tmp_path / "origin.git", "--bare")
    first = repo.commit(app_py="1")
    repo.git("remote", "add", "origin", str(origin.folder))
    repo.git("push", "-q", "origin", "main", "main:extra")
    found = open_repository(repo.folder)
    clone = Repo(tmp_path / "clone")
    clone.git("remote", "add", "origin", str(origin.folder))
    clone.git("fetch", "-q", "origin")
    clone.git("reset", "-q", "--hard", "origin/main")

    pushed = clone.commit(app_py="2")
    clone.git("push", "-q", "origin", "main")
    assert found.tip("origin/main") == first
    assert found.fetch("main") == found.tip("origin/main") == pushed
    assert found.head() == Head(branch="main", commit=first)

    clone.git("reset", "-q", "--hard", first)
    rewritten = clone.commit(app_py="3")
    clone.git("push", "-q", "--force", "origin", "main")
    assert found.fetch("main") == rewritten
    assert found.move(pushed, rewritten) == "rewritten"

    assert found.fetch("extra") == first
    clone.git("push", "-q", "origin", ":extra")
    assert found.fetch("extra") is None
    assert found.tip("origin/extra") is None


def test_a_remote_that_does_not_answer_is_named(repo, tmp_path):
    repo.commit(app_py="1")
    repo.git("remote", "add", "origin", str(tmp_path / "nowhere"))

    with pytest.raises(Unavailable, match=r"ST832 .*nowhere"):
        open_repository(repo.folder).fetch("main")


def test_a_folder_outside_any_repository_is_told_so(tmp_path):
    with pytest.raises(NotFound, match="ST831"):
        open_repository(tmp_path)
    with pytest.raises(NotFound, match="ST831"):
        open_repository(tmp_path / "missing")


@pytest.mark.parametrize(
    "name", ["../../config", "-x", "a..b", "a b", "a\nb", "", "/etc/passwd", "x.lock", "a/../../b", "@{u}~1"]
)
def test_a_name_that_no_branch_can_have_reads_no_file(repo, name):
    repo.commit(app_py="1")

    with pytest.raises(NotFound, match="ST833"):
        open_repository(repo.folder).tip(name)


def test_a_ref_that_points_at_itself_or_is_torn_has_no_tip(repo):
    repo.commit(app_py="1")
    heads = repo.folder / ".git/refs/heads"
    (heads / "loop").write_text("ref: refs/heads/loop\n")
    (heads / "torn").write_text("0123abc")
    (heads / "empty").write_text("")
    found = open_repository(repo.folder)

    assert [found.tip(name) for name in ("loop", "torn", "empty")] == [None, None, None]


def test_hooks_and_settings_of_the_repository_run_nothing(repo, tmp_path):
    witness = tmp_path / "ran"
    script = tmp_path / "evil.sh"
    script.write_text(f"#!/bin/sh\ntouch {witness}\nexit 1\n")
    script.chmod(0o755)
    first = repo.commit(app_py="1")
    second = repo.commit(app_py="2")
    for name in ("core.fsmonitor", "diff.external", "core.pager", "log.showSignature", "gpg.program"):
        repo.git("config", name, "true" if name == "log.showSignature" else str(script))
    hook = repo.folder / ".git/hooks/reference-transaction"
    hook.write_text(script.read_text())
    hook.chmod(0o755)
    found = open_repository(repo.folder)

    found.changed(first, second), found.subject(second), found.move(first, second), found.tip("main")

    assert not witness.exists()


def test_a_hook_that_sets_git_dir_does_not_lead_us_elsewhere(repo, tmp_path, monkeypatch):
    commit = repo.commit(app_py="1")
    other = Repo(tmp_path / "other")
    other.commit(app_py="9")
    monkeypatch.setenv("GIT_DIR", str(other.folder / ".git"))

    assert open_repository(repo.folder).tip("HEAD") == commit
