"""Commit: a clean checkout of an app's folder as a commit holds it, beside the user's work tree and without touching it.

Bytes come from git's objects as they are: no filter, no line endings made, nothing left out of an archive. So the same
files give the same code id, whether they are read here or in the user's folder.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from staytrue.errors import InvalidInput, NotFound, Unavailable
from staytrue.store.durable import disk
from staytrue.store.git import Repository, command, environment

__all__ = ["Checkout", "checkout_commit"]

_FILES = 200_000
_BYTES = 4_000_000_000
_READ_S = 300.0
_CHUNK = 1 << 20
_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_POINTER_BYTES = 1024


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """The app's folder as a commit holds it.

    `submodules` are left empty and `pointers` are files of Git LFS whose content is not on this machine (`git lfs fetch`
    brings it): code that needs them will say so.
    """

    commit: str
    folder: Path
    files: int
    submodules: tuple[str, ...] = ()
    pointers: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Item:
    mode: str
    id: str
    size: int
    path: str

    @property
    def is_link(self) -> bool:
        return self.mode == "120000"


def checkout_commit(repository: Repository, commit: str, dest: Path) -> Checkout:
    """The app's folder of `commit`, written into `dest`, a folder that is new or empty.

    Raises:
        NotFound: ST834, the commit has no such folder.
        InvalidInput: ST836, it holds more than 200,000 files or 4 GB; ST837, a name that can't be written here.
        Unavailable: ST832, git fails; ST402, ST403, the disk.
    """
    items = _listed(repository, commit)
    files = [item for item in items if item.mode != "160000"]
    with disk(f"check out commit {commit[:12]} to {dest}"), _blobs(repository) as read:
        dest.mkdir(parents=True, exist_ok=True)
        # Links last, so that no file is written through one.
        for item in sorted(files, key=lambda item: item.is_link):
            _write(repository, commit, dest, item, read.blob(item.id))
    return Checkout(
        commit=commit,
        folder=dest,
        files=len(files),
        submodules=tuple(item.path for item in items if item.mode == "160000"),
        pointers=tuple(item.path for item in files if item.size < _POINTER_BYTES and _is_pointer(dest / item.path)),
    )


def _listed(repository: Repository, commit: str) -> list[_Item]:
    said = repository.run("ls-tree", "-r", "-z", "-l", "--full-tree", f"{commit}:{repository.prefix}", may_fail=True)
    if not said:
        repository.commit(commit)  # says so when there is no such commit
        where = repository.prefix or "the repository"
        text = f"Commit {commit[:12]} holds no file in {where}: the app was added later, moved or deleted."
        raise NotFound("ST834", text, commit=commit, folder=repository.prefix)
    items = []
    for line in said.split("\0")[:-1]:
        about, _, path = line.partition("\t")
        mode, _, id_, size = about.split()
        _check_name(commit, path)
        items.append(_Item(mode=mode, id=id_, size=0 if size == "-" else int(size), path=path))
    size_bytes = sum(item.size for item in items)
    if len(items) > _FILES or size_bytes > _BYTES:
        text = (
            f"Commit {commit[:12]} holds {len(items):,} files with {size_bytes / 1e9:.1f} GB in the app's folder; at most "
            f"{_FILES:,} and {_BYTES / 1e9:g} GB are checked out. Keep data in a source."
        )
        raise InvalidInput("ST836", text, files=len(items), size_bytes=size_bytes)
    return items


def _check_name(commit: str, path: str) -> None:
    # Git refuses such names too, but a repository may have been written by something else.
    parts = path.split("/")
    bad = any(part in ("", ".", "..") or part.lower() == ".git" for part in parts)
    if bad or (os.name == "nt" and re.search(r'[\\:*?"<>|]', path)):
        text = f"Commit {commit[:12]} holds a file called {path!r}, which can't be written here."
        raise InvalidInput("ST837", text, commit=commit, path=ascii(path))


def _write(repository: Repository, commit: str, folder: Path, item: _Item, chunks: Iterator[bytes]) -> None:
    place = folder / item.path
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if item.is_link:
            place.symlink_to(os.fsdecode(b"".join(chunks)))
            return
        with place.open("xb") as out:
            for chunk in chunks:
                out.write(chunk)
    except FileExistsError:
        text = f"Commit {commit[:12]} holds two files that are one here: {item.path!r}. Rename one."
        raise InvalidInput("ST837", text, commit=commit, path=ascii(item.path)) from None
    if item.mode == "100755":
        place.chmod(0o755)
    if item.size < _POINTER_BYTES:
        _fill(repository, place)


def _fill(repository: Repository, place: Path) -> None:
    """Put the content in the place of an LFS pointer, where this machine has it."""
    data = place.read_bytes()
    found = re.search(rb"^oid sha256:([0-9a-f]{64})$", data, re.MULTILINE) if data.startswith(_POINTER) else None
    if found:
        name = found[1].decode()
        content = repository.common_dir / "lfs" / "objects" / name[:2] / name[2:4] / name
        if content.is_file():
            shutil.copyfile(content, place)


def _is_pointer(place: Path) -> bool:
    if place.is_symlink() or not place.is_file() or place.stat().st_size >= _POINTER_BYTES:
        return False
    return place.read_bytes().startswith(_POINTER)


# ---------------------------------------------------------------- objects of git, as they are


class _Blobs:
    """`git cat-file --batch`: one process, which is asked for one object after the other."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._ask, self._answer = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)

    def blob(self, id_: str) -> Iterator[bytes]:
        """The bytes of a blob, in pieces; all of them have to be taken before the next is asked for."""
        self._ask.write(f"{id_}\n".encode())
        self._ask.flush()
        said = self._answer.readline().split()
        if len(said) != 3 or said[1] != b"blob":
            words = b" ".join(said).decode(errors="replace") or "no answer"
            raise Unavailable(
                "ST832", f"`git cat-file` failed: {words}. Is the clone whole? `git fsck` looks.", said=words
            )
        left = int(said[2])
        while left:
            piece = self._answer.read(min(left, _CHUNK))
            if not piece:
                raise Unavailable("ST832", f"`git cat-file` broke off in object {id_[:12]}.", said="")
            left -= len(piece)
            yield piece
        self._answer.read(1)  # the newline after it


@contextmanager
def _blobs(repository: Repository) -> Iterator[_Blobs]:
    argv = command(["cat-file", "--batch"], trusted=repository.trusted)
    process = subprocess.Popen(
        argv,
        cwd=repository.root,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    deadline = threading.Timer(_READ_S, process.kill)  # its pipes end then, and the reader says so
    deadline.start()
    try:
        yield _Blobs(process)
    finally:
        deadline.cancel()
        process.kill()
        process.communicate()
