"""A clean checkout of a commit: the very bytes, beside the user's work tree, whatever lies in it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from staytrue.errors import InvalidInput, NotFound
from staytrue.store import code
from staytrue.store.commit import checkout_commit
from staytrue.store.git import open_repository
from staytrue.store.objects import LocalObjects

SETTINGS = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
AUTHOR = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


def git(folder: Path, *arguments: str, given: bytes | None = None) -> str:
    env = {**os.environ, **AUTHOR, **SETTINGS}
    argv = ["git", *arguments]
    done = subprocess.run(argv, cwd=folder, env=env, input=given, capture_output=True, check=True)
    return os.fsdecode(done.stdout).strip()


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "repo"
    place.mkdir()
    git(place, "init", "-q", "-b", "main")
    return place


def committed(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "change")
    return git(folder, "rev-parse", "HEAD")


def checked_out(folder: Path, commit: str, app: Path | None = None):
    return checkout_commit(open_repository(app or folder), commit, folder.parent / "out" / commit)


def test_a_checkout_has_the_committed_bytes_modes_and_links_and_touches_nothing_of_the_users(folder):
    (folder / "app.py").write_bytes(b"one\r\ntwo\n\x00\xff")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "ünï côde.py").write_text("x = 1")
    (folder / "empty.py").write_text("")
    (folder / "link.py").symlink_to("app.py")
    (folder / ".gitattributes").write_text("*.py text eol=crlf export-ignore\n")
    git(folder, "-c", "core.autocrlf=false", "add", "-A")
    commit = committed(folder)
    show = ["git", "show", f"{commit}:app.py"]
    raw = subprocess.run(show, cwd=folder, capture_output=True, check=True).stdout
    (folder / "app.py").write_text("edited meanwhile")
    (folder / "new.py").write_text("not committed")
    index, status = (folder / ".git/index").read_bytes(), git(folder, "status", "--porcelain")

    found = checked_out(folder, commit)

    assert (found.folder / "app.py").read_bytes() == raw
    assert sorted(p.name for p in found.folder.iterdir()) == sorted(
        [".gitattributes", "app.py", "empty.py", "link.py", "run.sh", "ünï côde.py"]
    )
    assert (found.folder / "run.sh").stat().st_mode & 0o100
    assert (found.folder / "link.py").readlink() == Path("app.py")
    assert found.files == 6
    assert (folder / ".git/index").read_bytes() == index
    assert git(folder, "status", "--porcelain") == status


def test_a_checkout_has_the_code_id_of_the_clean_work_tree(folder, tmp_path):
    app = folder / "services" / "prices"
    app.mkdir(parents=True)
    (folder / "top.py").write_text("x = 1")
    (app / "app.py").write_text("y = 2")
    (app / "data.txt").write_text("a\r\nb\n")
    objects = LocalObjects(tmp_path / "store")
    commit = committed(folder)

    found = checked_out(folder, commit, app)

    assert sorted(p.name for p in found.folder.iterdir()) == ["app.py", "data.txt"]
    assert code.snapshot(objects, found.folder, entry="app.py").id == code.snapshot(objects, app, entry="app.py").id


def test_a_commit_without_the_apps_folder_is_told_so(folder):
    (folder / "top.py").write_text("x = 1")
    before = committed(folder)
    (folder / "app").mkdir()
    (folder / "app" / "app.py").write_text("x = 1")
    committed(folder)

    with pytest.raises(NotFound, match="ST834"):
        checked_out(folder, before, folder / "app")
    with pytest.raises(NotFound, match="ST833"):
        checked_out(folder, "1" * 40)


def test_a_submodule_is_left_empty_and_named(folder, tmp_path):
    (folder / "app.py").write_text("x = 1")
    sub = tmp_path / "sub"
    sub.mkdir()
    git(sub, "init", "-q")
    (sub / "a.py").write_text("1")
    committed(sub)
    git(folder, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(sub), "theme")

    found = checked_out(folder, committed(folder))

    assert found.submodules == ("theme",)
    assert not (found.folder / "theme").exists()


def test_a_pointer_of_git_lfs_becomes_its_content_where_it_is_here_and_is_named_where_it_is_not(folder):
    content = b"weights" * 1000
    name = hashlib.sha256(content).hexdigest()
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
    (folder / "here.bin").write_text(pointer.format(name, len(content)))
    (folder / "there.bin").write_text(pointer.format("0" * 64, 5))
    place = folder / ".git/lfs/objects" / name[:2] / name[2:4] / name
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    commit = committed(folder)

    found = checked_out(folder, commit)

    assert (found.folder / "here.bin").read_bytes() == content
    assert found.pointers == ("there.bin",)


def test_a_large_file_is_written_whole(folder):
    data = os.urandom(5_000_000)
    (folder / "large.bin").write_bytes(data)

    found = checked_out(folder, committed(folder))

    assert (found.folder / "large.bin").read_bytes() == data


@pytest.mark.parametrize("name", ["..", ".git", ".GIT"])
def test_a_name_that_leads_outside_is_refused(folder, name):
    blob = git(folder, "hash-object", "-w", "--stdin", given=b"evil")
    inner = git(folder, "mktree", given=f"100644 blob {blob}\tconfig\n".encode())
    raw = f"40000 {name}\0".encode() + bytes.fromhex(inner)
    tree = git(folder, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", given=raw)
    commit = git(folder, "commit-tree", tree, "-m", "evil")

    with pytest.raises(InvalidInput, match="ST837"):
        checked_out(folder, commit)
    assert not (folder.parent / "out").exists()


def test_nothing_is_written_through_a_link_of_the_commit(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    blob = git(folder, "hash-object", "-w", "--stdin", given=b"evil")
    link = git(folder, "hash-object", "-w", "--stdin", given=str(outside).encode())
    inner = git(folder, "mktree", given=f"100644 blob {blob}\tfile\n".encode())
    raw = b"120000 a\0" + bytes.fromhex(link) + b"40000 a\0" + bytes.fromhex(inner)
    tree = git(folder, "hash-object", "-t", "tree", "-w", "--literally", "--stdin", given=raw)
    commit = git(folder, "commit-tree", tree, "-m", "evil")

    with pytest.raises(InvalidInput, match="ST837"):
        checked_out(folder, commit)
    assert list(outside.iterdir()) == []
