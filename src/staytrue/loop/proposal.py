"""Proposal: new code of an app on its way to a release: of a commit, or of the folder as it is. Kept, and run in jobs only."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from staytrue.app import load
from staytrue.engines.process import Job
from staytrue.kernel.metric import metric as read_metric
from staytrue.kernel.release import Digest, Release
from staytrue.loop.context import Context, as_released
from staytrue.loop.described import app_of
from staytrue.loop.jobs import Steps, result_of
from staytrue.store import code as code_store
from staytrue.store import env as env_store
from staytrue.store import models
from staytrue.store.commit import checkout_commit
from staytrue.store.git import Repository
from staytrue.store.store import Store

__all__ = ["Proposal", "described_context", "described_release", "of_commit", "of_folder"]

_IMPORT_S = 120.0
"""So long an app's file may take to import."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """New code of an app.

    Attributes:
        code: its snapshot, kept.
        name: what people call it, such as `commit 1a2b3c4d` or `the work tree`.
        home: the user's own folder: the current one while a source is read.
        commit: the one that it is of.
        remarks: what is not as it is in the user's folder, one sentence each.
    """

    code: Digest
    name: str
    home: Path
    commit: str | None = None
    remarks: tuple[str, ...] = ()


def of_folder(store: Store, file: Path) -> Proposal:
    """The folder of the app's file as it is now, uncommitted changes included.

    Raises:
        InvalidInput: as `store.code.snapshot`.
    """
    code = code_store.snapshot(store.objects, file.parent, entry=file.name)
    return Proposal(code=code.id, name="the work tree", home=file.parent)


def of_commit(store: Store, repository: Repository, commit: str, file: Path) -> Proposal:
    """The app's folder as a commit holds it; the user's own files are neither read nor touched.

    Args:
        file: the app's file in the user's work tree.

    Raises:
        NotFound, InvalidInput, Unavailable: as `checkout_commit` and `store.code.snapshot`.
    """
    store.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="commit-", dir=store.work) as folder:
        found = checkout_commit(repository, commit, Path(folder) / "app")
        code = code_store.snapshot(store.objects, found.folder, entry=file.name)
    remarks = []
    if found.submodules:
        remarks.append(f"Submodules are left out: {', '.join(found.submodules)}.")
    if found.pointers:
        what = ", ".join(found.pointers)
        remarks.append(f"Git LFS has no content on this machine for: {what}. `git lfs fetch` brings it.")
    name = f"commit {commit[:12]}"
    return Proposal(code=code.id, name=name, home=file.parent, commit=commit, remarks=tuple(remarks))


def described_context(
    store: Store, code: Digest, *, home: Path, metric: str | Callable[..., Any] | None = None
) -> Steps[Context]:
    """The app as some kept code declares it, without importing that code here.

    Args:
        home: the user's own folder: the current one while a source is read.
        metric: what to judge it by. None: by its own metric; if that is a function, its code is imported here after all.

    Raises:
        InvalidInput: ST115, it does not import; ST361, and what else `App` says of it.    NotFound: ST114, there is no App in it.
        Refused: ST362, ST339, importing it took too long or was killed.
    """
    kept = code_store.load(store.objects, code)
    tree = code_store.checkout(store.objects, code, store.work / "code" / code)
    models.store_key(store.root)  # made here, before jobs that may run side by side ask for it
    file = tree / kept.entry
    job = Job(
        key=f"describe:{code}",
        task="staytrue.loop.tasks:describe",
        payload={"entry": str(file), "store": str(store.root)},
        workspace=tree,
        timeout_s=_IMPORT_S,
    )
    outcome = (yield [job])[0]
    document = result_of(outcome, doing=f"import {kept.entry}")
    judge = metric or (document["prediction"] or {"metric": "mae"})["metric"] or load(str(file))[0].metric
    app = app_of(document, metric=judge)
    return Context(
        app=app,
        store=store,
        file=file,
        tree=tree,
        code=code,
        training_code=code_store.training_code(store.objects, kept),
        env=env_store.env_id(store.objects),
        metric=read_metric(judge),
        home=home,
        params=app.params,
        seed=app.seed,
    )


def described_release(store: Store, release: Release, *, home: Path) -> Steps[Context]:
    """The app as a release has it, params and seed included, without importing its code here. Raises as `described_context`."""
    return as_released((yield from described_context(store, release.code, home=home)), release)
