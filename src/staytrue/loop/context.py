"""Context: an app as its code stands now, together with the store that keeps it. Every step of the loop is given one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from staytrue.app import App, load
from staytrue.kernel.metric import Metric
from staytrue.kernel.metric import metric as read_metric
from staytrue.kernel.release import Digest, Release
from staytrue.settings import setting
from staytrue.store import code as code_store
from staytrue.store import env as env_store
from staytrue.store import models
from staytrue.store.store import Store, open_store

__all__ = ["Context", "as_released", "open_context", "release_context"]


@dataclass(frozen=True, kw_only=True)
class Context:
    """An app, its code as a snapshot, and the store.

    `file` is the user's own file: sources are read from there. `tree` is the checked-out snapshot: training and answers run from
    there, so what runs is what the release says, whatever is edited meanwhile.
    """

    app: App
    store: Store
    file: Path
    tree: Path
    code: Digest
    training_code: Digest
    env: Digest
    metric: Metric
    home: Path
    """The user's own folder: the current one while a source is read."""
    params: Mapping[str, Any]
    """What a training is given as `params`: as its code says, or as the release has them that this code is of (`as_released`)."""
    seed: int
    """Likewise."""
    interpreter: Path | None = None
    """The Python whose environment `env` is, where jobs run; None: the one that runs here (`loop/environments.py`)."""

    @property
    def entry(self) -> Path:
        """The app's file inside the checked-out tree."""
        return self.tree / self.file.name

    def payload(self, **more: Any) -> dict[str, Any]:
        """What every job is told: the app to import, and where the store is."""
        return {"entry": str(self.entry), "store": str(self.store.root), "key": str(self.store.key_path), **more}

    def refs(self) -> Mapping[str, Digest]:
        """What identifies the code side of a release."""
        return {"code": self.code, "training_code": self.training_code, "env": self.env}


def open_context(app: str | None = None, store: str | Path | None = None) -> Context:
    """The app at `PATH[:NAME]` and its store, with a snapshot of the code taken now.

    Raises:
        NotFound, InvalidInput: as `app.load` and `code.snapshot`.
    """
    loaded, file = load(setting("app", app))
    opened = open_store(store)
    snapshot = code_store.snapshot(opened.objects, file.parent, entry=file.name)
    tree = code_store.checkout(opened.objects, snapshot.id, opened.work / "code" / snapshot.id)
    models.store_key(opened.root)  # made here, before jobs that may run side by side ask for it
    return Context(
        app=loaded,
        store=opened,
        file=file,
        tree=tree,
        code=snapshot.id,
        training_code=code_store.training_code(opened.objects, snapshot, entry=file.name),
        env=env_store.env_id(opened.objects),
        metric=read_metric(loaded.metric),
        home=file.parent,
        params=loaded.params,
        seed=loaded.seed,
    )


def release_context(store: Store, release: Release, home: Path) -> Context:
    """The app as a release has it, whatever stands in the user's folder by now: its code, its params and its seed.

    Raises:
        NotFound, InvalidInput: as `app.load`.
    """
    code = code_store.load(store.objects, release.code)
    tree = code_store.checkout(store.objects, code.id, store.work / "code" / code.id)
    loaded, file = load(str(tree / code.entry))
    models.store_key(store.root)
    return Context(
        app=loaded,
        store=store,
        file=file,
        tree=tree,
        code=release.code,
        training_code=release.training_code,
        env=env_store.env_id(store.objects),
        metric=read_metric(loaded.metric),
        home=home,
        params=release.params,
        seed=release.seed,
    )


def as_released(ctx: Context, release: Release) -> Context:
    """The context with the params and the seed of a release of its code, which need not be those written there.

    A revert may have taken back a setting alone. The release's own trainings go on with it, until other code brings its own.
    """
    return replace(ctx, params=release.params, seed=release.seed)
