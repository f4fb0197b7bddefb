"""Follow: where an app's new code comes from: the newest commit of a branch, or its folder as it is saved."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from staytrue.errors import NotFound, StaytrueError, Unavailable
from staytrue.kernel.release import Digest
from staytrue.loop.proposal import Proposal, of_commit, of_folder
from staytrue.store.git import Move, Repository, open_repository
from staytrue.store.store import Store

__all__ = ["Branch", "Folder", "Follower", "follower"]

_FETCH_S: Final = 30.0
"""How often a remote is asked for its branch."""


@dataclass
class Branch:
    """A branch of the repository that the app's file lies in; with a remote before its name, asked there now and then."""

    store: Store
    file: Path
    repository: Repository
    name: str
    _fetched_s: float = field(default=float("-inf"))

    def tip(self) -> str | None:
        """The newest commit; None when the branch is gone."""
        remote, _, branch = self.name.partition("/")
        if branch and (self.repository.common_dir / "refs" / "remotes" / remote).is_dir():
            now_s = time.monotonic()
            if now_s - self._fetched_s >= _FETCH_S:
                self._fetched_s = now_s
                with contextlib.suppress(Unavailable):  # it does not answer: what was known of it holds until it does
                    return self.repository.fetch(branch, remote=remote)
        return self.repository.tip(self.name)

    def proposal(self, mark: str) -> Proposal:
        """The app as that commit holds it. Raises as `of_commit`."""
        return of_commit(self.store, self.repository, mark, self.file)

    def told(self, mark: str, before: str | None) -> str:
        """What came, in words."""
        words = f"Commit {mark[:8]} on {self.name}"
        moves: dict[Move, str] = {"rewritten": " (rewritten)", "back": " (set back)", "gone": " (rewritten)"}
        try:
            how = moves.get(self.repository.move(before, mark), "") if before else ""
            return f"{words}{how}: {self.repository.subject(mark)[:80]}"
        except StaytrueError:  # it is only a name
            return words


@dataclass
class Folder:
    """The app's folder, as it is saved: for work on an app, not for serving it."""

    store: Store
    file: Path

    def tip(self) -> str | None:
        """The digest of the code as it is now."""
        return of_folder(self.store, self.file).code

    def proposal(self, mark: str) -> Proposal:
        """The code of that digest."""
        return Proposal(code=Digest(mark), name="the work tree", home=self.file.parent)

    def told(self, mark: str, before: str | None) -> str:  # noqa: ARG002 - as a branch is asked
        """What came, in words."""
        return f"Code {mark[:8]} was saved"


Follower = Branch | Folder


def follower(store: Store, file: Path, *, branch: str | None = None, watch: bool = False) -> Follower | None:
    """What to follow for the app in this file; None where it lies in no repository, or there is no git.

    Args:
        branch: its name; default: the one that is checked out now.
        watch: follow the folder instead.

    Raises:
        NotFound: ST805, there is no such branch, or none is checked out; ST831, a branch was named, and there is no repository.
    """
    if watch:
        return Folder(store, file)
    try:
        repository = open_repository(file.parent)
    except (NotFound, Unavailable):
        if branch is not None:
            raise
        return None
    name = branch or repository.head().branch
    if name is None:
        return None
    found = Branch(store, file, repository, name)
    if branch is not None and found.tip() is None:
        raise NotFound(
            "ST805", f"{repository.root} has no branch {name!r} to follow. `git branch -a` lists them.", branch=name
        )
    return found
