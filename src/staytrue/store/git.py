"""Git: what a repository says of its branches and commits. Nothing of the user's is written: no index, no work tree, no branch.

A branch is looked at once a second, so its tip is read from the files that git keeps, without a process. Everything else
asks the `git` command: an argument list, no shell, no hooks, no prompts, none of the user's settings, and a deadline.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from staytrue.errors import NotFound, Unavailable

__all__ = ["Head", "Move", "Repository", "command", "environment", "open_repository"]

Move = Literal["same", "forward", "back", "rewritten", "gone"]
"""How a branch came from one commit to another: it grew; it was set back to one of its own; it was rewritten (a force-push), and
the old commit is still here; or the old commit is not."""

_TIMEOUT_S = 30.0
_FETCH_S = 120.0
_FULL_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BRANCH = re.compile(
    r"(?!.*(?:\.\.|@\{|//|\.lock(?:/|$)))[^-/.\x00-\x20\x7f~^:?*\[\\][^\x00-\x20\x7f~^:?*\[\\]*(?<![/.])"
)
_LINKS = 5
"""So many symbolic refs are followed; git itself stops there too."""

# What a repository may name as a program to run, it does not run for us.
_SETTINGS = (
    f"core.hooksPath={os.devnull}", "core.fsmonitor=false", "core.quotePath=false", "gc.auto=0", "maintenance.auto=false",
    "submodule.recurse=false", "fetch.recurseSubmodules=false", "protocol.ext.allow=never",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where a work tree stands: its branch (None: detached) and its commit (None: before the first one)."""

    branch: str | None
    commit: str | None


@dataclass(frozen=True, kw_only=True)
class Repository:
    """The repository that an app's folder lies in.

    Attributes:
        root: the top of the work tree.
        git_dir, common_dir: where this work tree keeps its HEAD, and where all of them keep branches and objects.
        prefix: the app's folder below `root`, with `/` between its names; empty at the top.
        trusted: folders that the user has told git to trust though somebody else owns them.
    """

    root: Path
    git_dir: Path
    common_dir: Path
    prefix: str
    trusted: tuple[str, ...] = ()

    # ------------------------------------------------------------ read from files

    def head(self) -> Head:
        """The branch and commit that the work tree stands on."""
        text = _first_line(self.git_dir / "HEAD") or ""
        name = text.removeprefix("ref: ").strip()
        if text.startswith("ref: "):
            return Head(branch=name.removeprefix("refs/heads/"), commit=self._ref(name))
        return Head(branch=None, commit=name if _FULL_ID.fullmatch(name) else None)

    def tip(self, branch: str) -> str | None:
        """The newest commit of a branch (`main`, `origin/main`, or `HEAD` of this work tree); None when there is no such branch.

        It starts no process, but where the repository keeps its refs in a reftable.

        Raises:
            NotFound: ST833, no branch can have that name.
        """
        if branch == "HEAD":
            return self.head().commit
        if not _BRANCH.fullmatch(branch):
            raise NotFound("ST833", f"No branch can be called {branch!r}.", branch=branch)
        if branch.startswith("refs/"):
            return self._ref(branch)
        return self._ref(f"refs/heads/{branch}") or self._ref(f"refs/remotes/{branch}")

    def _ref(self, name: str) -> str | None:
        if (self.common_dir / "reftable").is_dir():
            said = self.run("rev-parse", "--verify", "--quiet", "--end-of-options", name, may_fail=True)
            return said.strip() or None
        for _ in range(_LINKS):
            # Loose first: git writes the packed one before it deletes the loose one.
            text = _first_line(self.common_dir / name) or self._packed(name)
            if text is None or not text.startswith("ref: "):
                return text if text is not None and _FULL_ID.fullmatch(text) else None
            name = text.removeprefix("ref: ")
            if not _BRANCH.fullmatch(name):
                return None
        return None

    def _packed(self, name: str) -> str | None:
        try:
            packed = (self.common_dir / "packed-refs").read_bytes()
        except OSError:
            return None
        found = re.search(rb"^([0-9a-f]{40,64}) " + re.escape(os.fsencode(name)) + rb"\r?$", packed, re.MULTILINE)
        return found[1].decode() if found else None

    # ------------------------------------------------------------ asked of git

    def commit(self, revision: str) -> str:
        """The full id of the commit that a revision (`main~2`, `v1.0`, `a1b2c3d`) names.

        Raises:
            NotFound: ST833, none.
        """
        said = self.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", may_fail=True)
        if not _FULL_ID.fullmatch(said.strip()):
            raise NotFound("ST833", f"{self.root} has no commit {revision!r}. `git log` lists them.", revision=revision)
        return said.strip()

    def subject(self, commit: str) -> str:
        """The first line of a commit's message."""
        return self.run("log", "-1", "--no-show-signature", "--format=%s", "--end-of-options", commit).strip()

    def changed(self, old: str, new: str) -> tuple[str, ...]:
        """The files of the app's folder that differ between two commits, relative to it, sorted."""
        trees = [f"{commit}:{self.prefix}" for commit in (old, new)]
        said = self.run("diff-tree", "-r", "-z", "--name-only", "--no-renames", "--no-ext-diff", *trees)
        return tuple(sorted(name for name in said.split("\0") if name))

    def move(self, old: str, new: str) -> Move:
        """How a branch came from commit `old` to `new`."""
        if old == new:
            return "same"
        if self.run("cat-file", "-t", old, may_fail=True).strip() != "commit":
            return "gone"
        base = self.run("merge-base", old, new, may_fail=True).strip()
        return "forward" if base == old else "back" if base == new else "rewritten"

    def fetch(self, branch: str, *, remote: str = "origin") -> str | None:
        """Ask a remote for one branch, which becomes `origin/BRANCH`; its tip, or None when the remote has none by that name.

        This is the one command that uses the user's own settings, since they hold how to log in. It asks for no password.

        Raises:
            NotFound: ST833, no branch can have that name.    Unavailable: ST832, the remote does not answer or refuses.
        """
        if not _BRANCH.fullmatch(branch) or not _BRANCH.fullmatch(remote):
            raise NotFound("ST833", f"No branch can be called {remote}/{branch}.", branch=branch)
        there = f"refs/remotes/{remote}/{branch}"
        quiet = ["--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--quiet"]
        argv = ["fetch", *quiet, remote, f"+refs/heads/{branch}:{there}"]
        done = _run(self._argv(argv), cwd=self.root, users=True, timeout_s=_FETCH_S)
        if done.code == 0:
            return self._ref(there)
        if "couldn't find remote ref" in done.err:
            self.run(
                "update-ref", "-d", there
            )  # as `fetch --prune` does: a branch that was deleted there is not here either
            return None
        raise _failed(["fetch", remote, branch], done.err)

    def run(self, *arguments: str, may_fail: bool = False) -> str:
        """What a git command prints; with `may_fail` the empty text when it fails.

        Raises:
            Unavailable: ST830, there is no git; ST832, it failed or took too long.
        """
        done = _run(self._argv(arguments), cwd=self.root, timeout_s=_TIMEOUT_S)
        if done.code != 0 and not may_fail:
            raise _failed(arguments, done.err)
        return done.out if done.code == 0 else ""

    def _argv(self, arguments: Sequence[str]) -> list[str]:
        return command(arguments, trusted=self.trusted)


def open_repository(folder: Path) -> Repository:
    """The repository that `folder` lies in; a work tree that `git worktree` made and a sub-folder are fine.

    Raises:
        NotFound: ST831, it lies in none.    Unavailable: ST830, there is no git; ST832, it does not trust the folder.
    """
    folder = folder.resolve()
    asked = ["rev-parse", "--path-format=absolute", "--show-toplevel", "--git-dir", "--git-common-dir"]
    trusted: tuple[str, ...] = ()
    done = _run(command(asked), cwd=folder, timeout_s=_TIMEOUT_S)
    if "dubious ownership" in done.err:
        # Another user owns it. Git asks whom to trust in the user's settings only, which we leave out otherwise.
        trusted = tuple(_run(["git", "config", "--get-all", "safe.directory"], cwd=folder, users=True).out.splitlines())
        done = _run(command(asked, trusted=trusted), cwd=folder, timeout_s=_TIMEOUT_S)
    places = done.out.splitlines()
    if done.code == 0 and len(places) == len(asked) - 2:
        root, git_dir, common_dir = map(Path, places)
        prefix = folder.relative_to(root.resolve()).as_posix()
        return Repository(
            root=root,
            git_dir=git_dir,
            common_dir=common_dir,
            prefix="" if prefix == "." else prefix,
            trusted=trusted,
        )
    if "not a git repository" in done.err or "must be run in a work tree" in done.err:
        text = f"{folder} lies in no git work tree. `git init` makes one, or give the folder of a clone."
        raise NotFound("ST831", text, folder=str(folder))
    raise _failed(asked, done.err)


# ---------------------------------------------------------------- the command


@dataclass(frozen=True, kw_only=True)
class _Done:
    code: int
    out: str
    err: str


def command(arguments: Sequence[str], *, trusted: Sequence[str] = ()) -> list[str]:
    """The argument list of a git command that runs no program which the repository or the user names.

    Example:
        >>> command(["log"])[0], command(["log"])[-1]
        ('git', 'log')
    """
    settings = [*_SETTINGS, *(f"safe.directory={folder}" for folder in trusted)]
    return ["git", "--no-pager", *(word for setting in settings for word in ("-c", setting)), *arguments]


def environment(*, users: bool = False) -> dict[str, str]:
    """What git finds in its environment: nothing that says where it is (a hook sets GIT_DIR), no prompt, English words.

    Args:
        users: leave the user's own settings in force.
    """
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_") or (users and _login(name))
    }
    own = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_REPLACE_OBJECTS": "1"}
    if not users:
        own |= {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    return {**kept, **own}


def _login(name: str) -> bool:
    return name.startswith(("GIT_SSH", "GIT_ASKPASS", "GIT_CONFIG", "GIT_HTTP", "GIT_SSL", "GIT_PROXY"))


def _run(argv: Sequence[str], *, cwd: Path, users: bool = False, timeout_s: float = _TIMEOUT_S) -> _Done:
    try:
        process = subprocess.Popen(
            argv,
            cwd=cwd,
            env=environment(users=users),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **_OWN_GROUP,
        )
    except FileNotFoundError as exc:
        if not cwd.is_dir():
            raise NotFound("ST831", f"There is no folder {cwd}.", folder=str(cwd)) from exc
        text = "There is no `git` on the path: code can't be followed or compared by revision. Install git."
        raise Unavailable("ST830", text) from exc
    except OSError as exc:
        raise Unavailable("ST830", f"`git` can't be started: {exc}. Try again.") from exc
    try:
        out, err = process.communicate(timeout=timeout_s)
    except BaseException as exc:
        _end(process)
        if not isinstance(exc, subprocess.TimeoutExpired):
            raise
        raise _failed(argv[-1:], f"no answer within {timeout_s:g} s") from None
    return _Done(code=process.returncode, out=os.fsdecode(out), err=err.decode(errors="replace"))


_OWN_GROUP: dict[str, Any] = {} if os.name == "nt" else {"start_new_session": True}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill git and what it started (ssh, a transport), so that nobody holds its pipes open."""
    if os.name == "nt":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _failed(arguments: Sequence[str], said: str) -> Unavailable:
    words = " ".join(arguments)
    return Unavailable(
        "ST832",
        f"`git {words}` failed: {said.strip()[-500:] or 'it said nothing'}",
        command=words,
        said=said.strip()[-500:],
    )


def _first_line(file: Path) -> str | None:
    try:
        lines = file.read_text("utf-8", errors="surrogateescape").splitlines()
    except OSError:  # no such file, or a folder: refs/heads/a is one when there is a branch a/b
        return None
    return lines[0].strip() if lines else None
